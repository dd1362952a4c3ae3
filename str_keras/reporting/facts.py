"""The facts of a run in words: what both the printed text and the page show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from str_keras.budget import KernelRow, Total
from str_keras.reporting import methods
from str_keras.reporting.runs import Row, Run
from str_keras.tables import text_table

NONE = "-"
SMALL_IMAGE_NOTE = (
    "A network for small images with a stride-1 stem is for size: its sparse file is "
    "smaller, not faster. XNNPACK's sparse kernels want a 3x3 stride-2 first "
    "convolution on 3 channels."
)
_SMALL_IMAGE = 64

COMPARISON = (
    "run",
    "method",
    "accuracy",
    "best (epoch)",
    "sparsity",
    "parameters",
    "non-zeros",
    "MACs",
    "sparse MACs",
    "bytes",
    "sparse bytes",
)
LAYERS = (
    "layer",
    "kind",
    "shape",
    "params",
    "non-zeros",
    "sparsity",
    "threshold",
    "MACs",
    "sparse MACs",
    "bytes",
    "sparse bytes",
    "no threshold because",
)


def percent(share: float | None) -> str:
    """A share in [0, 1] as percent with two decimals."""
    return NONE if share is None else f"{100 * share:.2f} %"


def number(value: int | None) -> str:
    """A count with commas between the thousands."""
    return NONE if value is None else f"{value:,}"


def shown(value: Any) -> str:
    """A value of a configuration; "-" for one that is not set."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NONE
    return NONE if value is None or value == "" else str(value)


def layer_name(path: str) -> str:
    """The path of a kernel without the "kernel" that most of them end in."""
    return path.rsplit("/kernel", 1)[0] if path.endswith("/kernel") else path


def method(run: Run) -> str:
    """How the run was trained, in words."""
    return methods.find(shown(run.config.get("method"))).title


def architecture(run: Run) -> str:
    """The network, with its width where it has one."""
    name = shown(run.config.get("architecture"))
    alpha = run.config.get("alpha")
    return f"{name}, alpha {alpha}" if name == "mobilenetv1" and alpha else name


def accuracy(row: Row | None) -> str:
    """The validation accuracy of an epoch, and which it is."""
    if row is None:
        return "never evaluated"
    return f"{percent(row['val_accuracy'])} (epoch {row['epoch']:.0f})"


def duration(run: Run) -> str:
    """Time of all epochs together, evaluation apart."""
    seconds = sum(row.get("seconds") or 0.0 for row in run.metrics)
    if not seconds:
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    words = f"{minutes} min {rest} s" if minutes or hours else f"{seconds:.1f} s"
    return f"{hours} h {words}" if hours else words


def facts(run: Run) -> list[tuple[str, str]]:
    """Names and values of what a run is and ended with."""
    last = run.metrics[-1]
    total = run.summary.total if run.summary else None
    found = [
        ("method", method(run)),
        ("architecture", architecture(run)),
        ("data set", shown(run.config.get("dataset"))),
        ("epochs", f"{last['epoch']:.0f} of {shown(run.config.get('epochs'))}"),
        ("validation accuracy", accuracy(run.last_evaluated)),
        ("best.keras", accuracy(run.best)),
        ("training accuracy", percent(last["accuracy"])),
        ("sparsity of prunable kernels", percent(last["sparsity"])),
        ("training time", duration(run)),
    ]
    if total:
        found[8:8] = [
            ("sparsity of all weights", percent(total.sparsity)),
            ("parameters", f"{total.params:,}, non-zero {total.nonzeros:,}"),
            (
                "MACs of one image",
                f"{number(total.macs)}, with non-zeros {number(total.sparse_macs)}",
            ),
        ]
    dead = [row for row in run.summary.rows if not row.nonzeros] if run.summary else []
    if dead:
        found.append(
            ("dead layers", f"{len(dead)} (first: {layer_name(dead[0].path)})")
        )
    return found


def comparison(runs: Sequence[Run]) -> list[list[str]]:
    """A row of `COMPARISON` for each run: of all weights, as the totals count them."""
    rows = []
    for run in runs:
        last, total = run.last_evaluated, run.summary.total if run.summary else None
        row = [run.name, shown(run.config.get("method"))]
        row.append(percent(last["val_accuracy"]) if last else NONE)
        best = run.best
        row.append(
            f"{percent(best['val_accuracy'])} ({best['epoch']:.0f})" if best else NONE
        )
        row.append(percent(run.metrics[-1]["sparsity"]))
        rows.append(row + (_counts(total) if total else [NONE] * 6))
    return rows


def _counts(item: KernelRow | Total) -> list[str]:
    # Where nothing is zero, the map of the zeros would only add bytes.
    pruned = item.nonzeros < item.params
    return [
        number(item.params),
        number(item.nonzeros),
        number(item.macs),
        number(item.sparse_macs),
        number(item.bytes),
        number(item.sparse_bytes) if pruned else NONE,
    ]


def layer_rows(run: Run) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of `LAYERS`: those of the kernels, and those of the totals."""
    if run.summary is None:
        return [], []

    def cells(item: KernelRow | Total, threshold: str, reason: str) -> list[str]:
        params, nonzeros, *costs = _counts(item)
        share = percent(item.sparsity)
        return [params, nonzeros, share, threshold, *costs, reason]

    kernels = [
        [
            layer_name(row.path),
            row.kind,
            "x".join(map(str, row.shape)),
            *cells(row, threshold_text(row.threshold), row.reason),
        ]
        for row in run.summary.rows
    ]
    totals = [
        [name, "", "", *cells(total, "", "")]
        for name, total in (
            ("prunable", run.summary.prunable),
            ("all kernels", run.summary.kernels),
            ("all weights", run.summary.total),
        )
    ]
    return kernels, totals


def threshold_text(threshold: float | None) -> str:
    """A threshold with four digits."""
    return NONE if threshold is None else f"{threshold:.4g}"


def has_small_stem(run: Run) -> bool:
    """Whether the network is one for images of at most 64 pixels.

    By the configuration; where that leaves it to the data set ("auto", 0), by the
    output of the first convolution: 3x3 on at most 32x32 pixels (a stride-2 stem, for
    more than 64 pixels, gives more).
    """
    stem, size = run.config.get("stem"), run.config.get("image_size")
    if stem in ("small", "imagenet"):
        return stem == "small"
    if isinstance(size, int) and size > 0:
        return size <= _SMALL_IMAGE
    if run.summary is None or not run.summary.rows:
        return False
    first = run.summary.rows[0]
    if first.macs is None or first.shape[:2] != (3, 3):
        return False
    return math.isqrt(first.macs // first.params) <= _SMALL_IMAGE // 2


def as_text(runs: Sequence[Run]) -> str:
    """The report as text: facts, comparison, the per-layer table with its totals.

    Args:
        runs: The run, then those to compare it with.
    """
    run = runs[0]
    named = facts(run)
    width = max(len(name) for name, _ in named)
    parts = [run.name, "\n".join(f"{name:{width}}  {value}" for name, value in named)]
    if len(runs) > 1:
        parts.append(text_table(COMPARISON, comparison(runs), left=(0, 1)))
    if run.summary is None:
        parts.append("The table of the layers is written when the training ends.")
    else:
        parts.append(str(run.summary))
    if has_small_stem(run):
        parts.append(SMALL_IMAGE_NOTE)
    return "\n\n".join(parts)
