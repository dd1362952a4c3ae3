"""The paper's rows: their recipes as files, and the table of what is known of them.

    python -m experiments.paper                          prints the table as Markdown
    python -m experiments.paper --configs                writes configs/paper/*.toml
    python -m experiments.paper --readme=docs/paper.md   fills the table in

Everything is made from paper.csv, which holds a row of the paper per line: `top1`,
`sparsity` (percent) and `macs` (millions) are what the authors published at `source`,
and empty where we could not read it there; `recipe` is the file of the authors'
repository that weight_decay and s_init were read from, or "unverified".

Source: Kusupati et al. 2020, https://arxiv.org/abs/2002.03231; the authors' code and
README, https://github.com/RAIVNLab/STR.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import pathlib
import re
import textwrap
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from experiments import markdown
from str_keras import cli, files

FLAGS = flags.FLAGS
HERE = pathlib.Path(__file__).parent
CONFIGS = HERE / "configs" / "paper"
UNVERIFIED = "unverified"
NETWORKS = {"resnet50": "ResNet50", "mobilenetv1": "MobileNetV1"}
METHODS = {
    "dense": "dense",
    "str": "STR",
    "str_global": "STR, one threshold for the network",
    "gmp": "GMP, uniform",
    "dnw": "DNW, uniform",
    "budget_gmp": "GMP at a budget of STR",
    "budget_dnw": "DNW at a budget of STR",
}
CHECKS = {
    "parity": "tests/parity: the operator, its gradients and 20 training steps equal "
    "PyTorch's, and the network's logits with copied weights",
    "counts": "tests/test_models.py: kernel parameters and MACs of the network",
    "budget": "tests/test_budget_rates.py: the published rates of the 54 layers give "
    "this sparsity and these MACs",
    "pruning": "tests/test_pruning.py: masks and ramp of GMP and DNW against NumPy",
    "recipe": "the hyper-parameters were read from the authors' repository",
}


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of the paper.

    Args:
        row: Its name here, and that of its configuration.
        network: An architecture of `str_keras.models`.
        method: One of `str_keras.methods.METHODS`.
        level: Percent of zeros that names it: what is asked for, or, where thresholds
            are learned, what the paper got (as `sparsity`, if we could verify it); ""
            for a dense net.
        top1, sparsity, macs: Published: percent, percent, millions; None where we
            could not read it.
        weight_decay: Lambda, of all parameters.
        s_init: Initial logit; None where there are no thresholds.
        recipe: The authors' file it is from, or "unverified".
        source: Where top1, sparsity and macs are from.
    """

    row: str
    network: str
    method: str
    level: str
    top1: float | None
    sparsity: float | None
    macs: float | None
    weight_decay: float
    s_init: float | None
    recipe: str
    source: str

    @property
    def is_verified(self) -> bool:
        """Whether the hyper-parameters were read from the authors' code."""
        return self.recipe != UNVERIFIED

    @property
    def learns(self) -> bool:
        """Whether thresholds are learned, so that the recipe decides the sparsity."""
        return self.method in ("str", "str_global")

    @property
    def budget(self) -> str:
        """Name of the published budget that belongs to it, or ""."""
        has_one = self.network == "resnet50" and self.method in (
            "str",
            "budget_gmp",
            "budget_dnw",
        )
        return f"resnet50@{self.level}" if has_one else ""

    @property
    def skip(self) -> tuple[str, ...]:
        """Layers left dense: GMP of MobileNets spares first and depthwise kernels."""
        spares = self.network == "mobilenetv1" and self.method == "gmp"
        return ("re:^conv1|depthwise",) if spares else ()

    @property
    def title(self) -> str:
        """The method and its level."""
        if not self.level:
            return METHODS[self.method]
        if self.skip:
            return f"GMP, depthwise dense, others {self.level} %"
        guessed = self.learns and self.sparsity is None
        mark = " (unverified)" if guessed else ""
        return f"{METHODS[self.method]}, {self.level} %{mark}"

    def config(self) -> dict[str, Any]:
        """What differs from the defaults of `TrainConfig`, the ImageNet recipe."""
        values: dict[str, Any] = {
            "dataset": "imagenet2012",
            "architecture": self.network,
            "method": self.method,
        }
        if self.method in ("gmp", "dnw"):
            values["sparsity"] = round(float(self.level) / 100, 6)
        if self.skip:
            values["skip"] = list(self.skip)
        if self.method in ("budget_gmp", "budget_dnw"):
            values["budget"] = self.budget
        values["weight_decay"] = self.weight_decay
        if self.s_init is not None:
            values["s_init"] = self.s_init
        return values


@functools.cache
def read() -> tuple[PaperRow, ...]:
    """The rows of paper.csv."""

    def number(cell: str) -> float | None:
        return float(cell) if cell else None

    with (HERE / "paper.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            PaperRow(
                **{
                    **cells,
                    **{n: number(cells[n]) for n in ("top1", "sparsity", "macs")},
                    "weight_decay": float(cells["weight_decay"]),
                    "s_init": number(cells["s_init"]),
                }
            )
            for cells in csv.DictReader(file)
        )


def published(row: PaperRow) -> str:
    """What the authors report, with its source; "" if we could read nothing."""
    parts = []
    if row.top1 is not None:
        parts.append(f"top-1 {row.top1:.2f} %")
    if row.sparsity:
        parts.append(f"sparsity {row.sparsity:.2f} %")
    if row.macs is not None:
        parts.append(f"{row.macs:.0f}M MACs")
    where = "" if "." in row.source and "/" not in row.source else "the authors' "
    return f"{', '.join(parts)} ({where}{row.source})" if parts else ""


def _provenance(row: PaperRow) -> list[str]:
    names = "weight_decay and s_init" if row.learns else "weight_decay"
    if row.is_verified:
        return [f"{names}: VERIFIED, read from the authors'", f"{row.recipe}."]
    if row.method == "str_global":
        return [f"{names}: UNVERIFIED, those of STR at 90.23 % to start with."]
    if row.learns:
        return [
            f"{names}: UNVERIFIED, remembered from the paper's appendix:",
            "compare with it before a run of days.",
        ]
    return [f"{names}: UNVERIFIED, that of the authors' files for 90 % of ResNet50."]


def to_toml(row: PaperRow) -> str:
    """The configuration of a row as a file."""
    known = published(row)
    lines = [
        f"{NETWORKS[row.network]}, {row.title}; ImageNet, 100 epochs.",
        f"  python -m str_keras.train --config=paper/{row.row} \\",
        f"    --run_dir=runs/{row.row} --data_dir=DIR",
        "As it stands: one GPU. All of a host, up to 8: --strategy=mirrored; a TPU or",
        "a slice of a pod: TPU_NAME=NAME and --strategy=tpu. The 256 images of a step",
        "are shared out. Neither is tested; several workers are refused.",
        *textwrap.wrap(f"Published: {known or 'nothing we could verify'}.", 84),
        *_provenance(row),
    ]
    # Numbers, text and lists of text are the same in TOML and JSON.
    values = [f"{name} = {json.dumps(value)}" for name, value in row.config().items()]
    return "\n".join([*(f"# {line}" for line in lines), *values, ""])


def write_configs(folder: pathlib.Path = CONFIGS) -> list[pathlib.Path]:
    """Writes a .toml file per row, and returns their paths."""
    paths = [folder / f"{row.row}.toml" for row in read()]
    for row, path in zip(read(), paths, strict=True):
        files.write_text(path, to_toml(row))
    return paths


@functools.cache
def _network(name: str) -> Any:
    from str_keras import models

    return models.create(name, input_shape=(224, 224, 3), classes=1000)


def count(row: PaperRow) -> Any:
    """Non-zeros and MACs of all kernels as this package counts them.

    Returns:
        A `budget.Total`, of the rates that the row asks for or the authors published;
        None where the rates of the layers are not known.
    """
    from str_keras import budget

    network = _network(row.network)
    if row.budget:
        rates = budget.published(row.budget)
    elif not row.learns:
        skip = [re.compile(rule.removeprefix("re:")) for rule in row.skip]
        rates = budget.uniform(network, float(row.level or 0) / 100, skip)
    else:
        return None
    return rates.totals(network)


def checks(row: PaperRow) -> list[str]:
    """Names in `CHECKS` of what is verified here of a row."""
    found = ["parity"] if row.learns or row.method == "dense" else ["pruning"]
    if row.budget:
        found.append("budget")
    elif not row.learns:
        found.append("counts")
    return found + ["recipe"] * row.is_verified


def _cells(row: PaperRow) -> list[str]:
    total = count(row)
    return [
        NETWORKS[row.network],
        row.title,
        "" if row.top1 is None else f"{row.top1:.2f}",
        "" if row.sparsity is None else f"{row.sparsity:.2f}",
        "" if row.macs is None else f"{row.macs:,.0f}M",
        *(("", "") if total is None else _counted(total)),
        ", ".join(checks(row)),
        f"`paper/{row.row}`",
    ]


def _counted(total: Any) -> tuple[str, str]:
    return f"{100 * total.sparsity:.2f}", f"{total.sparse_macs / 1e6:,.1f}M"


def paper_table() -> str:
    """The paper's rows in Markdown: published, counted here, verified here."""
    columns = (
        "network",
        "method",
        "top-1 %",
        "sparsity %",
        "MACs",
        "sparsity %, counted here",
        "MACs, counted here",
        "verified here",
        "`--config=`",
    )
    grid = markdown.table(columns, [_cells(row) for row in read()], left=(0, 1, 7, 8))
    legend = "; ".join(f"*{name}*, {words}" for name, words in CHECKS.items())
    return (
        f"{grid}\n\n"
        "Top-1, sparsity and MACs are the authors'; empty where we could not verify "
        "them. No accuracy is verified here: ImageNet was not trained. "
        f"Verified here: {legend}. Rows without *recipe* have hyper-parameters that "
        "are marked as unverified in their files."
    )


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_boolean("configs", False, "Write experiments/configs/paper/*.toml.")
    flags.DEFINE_string(
        "readme", None, "A Markdown file: the table goes between its markers `paper`."
    )


def main() -> None:
    """Prints the table, or writes what the flags name."""
    if FLAGS.configs:
        print(f"wrote {len(write_configs())} files to {CONFIGS}")
    if FLAGS.readme:
        markdown.fill(FLAGS.readme, "paper", paper_table())
        print(f"wrote the table to {FLAGS.readme}")
    if not FLAGS.configs and not FLAGS.readme:
        print(paper_table())


if __name__ == "__main__":
    define_flags()
    cli.run(main)
