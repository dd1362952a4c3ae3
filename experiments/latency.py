"""Times sparse MobileNetV1s against their dense twins, in a browser and emulated.

`python -m experiments.latency` (half an hour on two idle cores; `make runtimes` first).
Random weights: times depend on where zeros are, not on values. Groups of files run in
turn in one process or page; a cell is a group on one runtime with so many threads. What
is recorded already is not measured again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shlex
import sys
import tempfile
import time
from typing import Any

from absl import flags

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from experiments import latency_nets
from experiments.latency_nets import Net
from str_keras import cli

FLAGS = flags.FLAGS
RESULTS = pathlib.Path(__file__).parent / "results"
RUNTIMES = ("wasm", "arm64", "x86_no_avx")
EMULATED = ("arm64", "x86_no_avx")
TOLERANCE = 1e-3  # between runtimes, of random weights
_CELLS = ("runtime", "threads", "file")  # what rows of one cell have in common

_UNIFORM = {p: Net(f"{p} %", p / 100) for p in (75, 85, 90, 95, 99)}
_90 = _UNIFORM[90]
DENSE = dataclasses.replace(_90, name="dense", stored="twin")
FORMS = (
    _90,
    Net("latency policy", 0.9, policy="latency"),
    Net("ReLU6", 0.9, relu6=True),
    Net("first convolution of 16 filters", 0.9, stem=16),
    Net("zeros in blocks of 2 filters", 0.9, block=2),
    Net("zeros in blocks of 4 filters", 0.9, block=4),
    Net("10 classes", 0.9, classes=10),
    Net("half the width", 0.9, alpha=0.5),
    *(Net(f"{size} pixels", 0.9, size=size) for size in (192, 160, 128)),
)
_SAME_DENSE = (*FORMS[:2], *(form for form in FORMS if form.block > 1))
WIDTHS = (0.75, 0.5, 0.25)
LEARNED = {
    "STR, Fashion-MNIST": "fashion_mnist_5k-mobilenetv1-str-90-seed0",
    "STR, Fashion-MNIST, sparser": "fashion_mnist_5k-mobilenetv1-str-95-seed0",
    "STR, CIFAR-10": "cifar10-mobilenetv1-str-90-seed0",
    "STR, Fashion-MNIST at 96 pixels": "demo-mobilenetv1-str-seed0",
}
# Of each group the sets of files that run in turn, the first of each their baseline.
GROUPS: dict[str, tuple[tuple[Net, ...], ...]] = {
    "sparsity": (
        (
            DENSE,
            *_UNIFORM.values(),
            Net("90 %, float16", 0.9, weights="float16"),
            Net("90 %, int8_weights", 0.9, weights="int8_weights"),
        ),
    ),
    "operators": ((DENSE, _90, FORMS[5]),),
    "budgets": (
        (
            DENSE,
            *(Net(name, budget=budget) for name, budget in LEARNED.items()),
            _90,
            *(Net(f"90 %, policy {p}", 0.9, policy=p) for p in ("latency", "size")),
        ),
    ),
    "widths": tuple(
        (
            Net(f"width {a}", alpha=a, stored="dense"),
            Net(f"sparse, MACs of width {a}", like=a),
        )
        for a in WIDTHS
    ),
    "forms": (
        (DENSE, *_SAME_DENSE),
        *((form.twin(), form) for form in FORMS if form not in _SAME_DENSE),
    ),
}


def define_flags() -> None:
    """Defines the flags; not on import, as other entry points have some of the same."""
    flags.DEFINE_string("output", str(RESULTS), "Folder for latency.json.")
    flags.DEFINE_string("files", "", "Where files are kept; empty: nowhere.")
    flags.DEFINE_list("groups", list(GROUPS), f"Of {', '.join(GROUPS)}.")
    flags.DEFINE_multi_string("net", [], "Only these, by name; again for several.")
    flags.DEFINE_list("runtimes", list(RUNTIMES), "Also native, where zeros cost time.")
    flags.DEFINE_list("threads", ["1", "2"], "In the browser.")
    flags.DEFINE_integer("repeats", 60, "Timed runs in the browser.", 1)
    flags.DEFINE_integer("emulated_repeats", 3, "Timed runs under emulators.", 1)
    flags.DEFINE_float("width", 1.0, "Factor of widths (to try it out).", 0.01, 1.0)
    flags.DEFINE_float("size", 1.0, "Factor of image sizes (the same).", 0.1, 1.0)
    flags.DEFINE_string("readme", "", "A file with the tables' markers to fill.")
    flags.DEFINE_boolean("draw", False, "Draw and fill in alone, from latency.json.")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A group on a runtime.

    Args:
        group: Of `GROUPS`.
        runtime: Of `runtimes.NAMES`.
        threads: Of XNNPACK.
    """

    group: str
    runtime: str
    threads: int


def cells() -> list[Cell]:
    """What the flags ask for, in the order of worth."""
    unknown = set(FLAGS.groups) - set(GROUPS)
    if unknown:
        raise ValueError(
            f"groups are {', '.join(GROUPS)}. Received: {', '.join(sorted(unknown))}"
        )
    found = []
    for group in FLAGS.groups:
        for runtime in FLAGS.runtimes:
            if group == "operators" and runtime == "wasm":
                continue  # it has no profiler
            if group == "forms" and runtime == "x86_no_avx":
                continue  # minutes, for what arm64 tells
            counts = FLAGS.threads if runtime in ("wasm", "native") else ["1"]
            if group == "operators":
                counts = ["1"]
            found += [Cell(group, runtime, int(count)) for count in counts]
    return found


def _sets(cell: Cell) -> list[list[Net]]:
    """Files that run in turn, the baseline first.

    Where time is latency they run in pairs: a third file in turn would push the
    weights of a dense one, of 17 megabytes, out of the processor's caches.
    """
    asked = FLAGS.net
    found = []
    for nets in GROUPS[cell.group]:
        chosen = [net for net in nets[1:] if net.name in asked or not asked]
        if cell.runtime in EMULATED:
            found += [[nets[0], *chosen]] if chosen else []
        else:
            found += [[nets[0], net] for net in chosen]
    return found


class Recorder:
    """Measures cells and keeps latency.json up to date.

    Args:
        path: Of latency.json, which may be there.
        folder: Where .tflite files go; those that are there are taken.
    """

    def __init__(self, path: pathlib.Path, folder: pathlib.Path):
        self._path = path
        self._folder = folder
        self._scale = latency_nets.Scale(FLAGS.width, FLAGS.size)
        self.record: dict[str, Any] = {"nets": {}, "cells": []}
        if path.is_file():
            self.record = json.loads(path.read_text(encoding="utf-8"))

    def measured(self, cell: Cell) -> bool:
        """Whether it is recorded already."""
        keys = dataclasses.asdict(cell)
        return any(
            all(found[key] == value for key, value in keys.items())
            for found in self.record["cells"]
        )

    def measure(self, cell: Cell) -> None:
        """Makes the files, times them, and writes what came of it."""
        rows: dict[str, Any] = {}
        report = None
        for nets in _sets(cell):
            report = self._benchmark(cell, [self._file(net) for net in nets])
            first = dataclasses.asdict(report.rows[0])
            for net, row in zip(nets, report.rows, strict=True):
                told = dataclasses.asdict(row)
                rows.setdefault(
                    net.name,
                    {
                        "net": net.name,
                        "baseline": nets[0].name,
                        "baseline_seconds": first["seconds"],
                        **{k: v for k, v in told.items() if k not in _CELLS},
                    },
                )
        if report is None:
            raise ValueError(f"no net is of {cell.group}. Received: {FLAGS.net}")
        self.record["cells"].append(
            {
                **dataclasses.asdict(cell),
                "machine": report.machine,
                "rows": [*rows.values()],
            }
        )
        self._write(report.versions)

    def _benchmark(self, cell: Cell, paths: list[pathlib.Path]) -> Any:
        from str_keras import export

        profiled = cell.group == "operators"
        return export.benchmark(
            paths,
            runtimes=(cell.runtime,),
            threads=(cell.threads,),
            repeats=FLAGS.repeats,
            emulated_repeats=FLAGS.emulated_repeats,
            warmup=5,
            count=not profiled,
            profile=profiled,
            tolerance=TOLERANCE,
        )

    def _file(self, net: Net) -> pathlib.Path:
        name = net.name.replace(" ", "-").replace(",", "").replace("%", "percent")
        path = self._folder / f"{name}.tflite"
        if not path.is_file() or net.name not in self.record["nets"]:
            facts = latency_nets.write(net, path, self._scale)
            self.record["nets"][net.name] = facts
        return path

    def _write(self, versions: dict[str, str]) -> None:
        from experiments import markdown
        from str_keras.files import write_text
        from str_keras.run_directory import git_revision

        self.record |= {
            "command": shlex.join(
                ["python", "-m", "experiments.latency", *sys.argv[1:]]
            ),
            "seed": latency_nets.SEED,
            "width": FLAGS.width,
            "size": FLAGS.size,
            "versions": self.record.get("versions", {}) | versions,
            "git_revision": git_revision(ignore=markdown.WRITTEN),
        }
        write_text(self._path, json.dumps(self.record, indent=1) + "\n")


def main() -> None:
    """Measures what is missing, draws, and fills in."""
    path = pathlib.Path(FLAGS.output) / "latency.json"
    if not FLAGS.draw:
        with tempfile.TemporaryDirectory() as directory:
            folder = pathlib.Path(FLAGS.files or directory)
            folder.mkdir(parents=True, exist_ok=True)
            _measure_all(Recorder(path, folder))
    from experiments import latency_report

    latency_report.publish(path, FLAGS.readme)


def _measure_all(recorder: Recorder) -> None:
    asked = cells()
    for i, cell in enumerate(asked, 1):
        told = f"[{i}/{len(asked)}] {cell.group}, {cell.runtime}, {cell.threads}"
        if recorder.measured(cell):
            print(f"{told}: recorded before", flush=True)
            continue
        start = time.monotonic()
        recorder.measure(cell)
        print(f"{told}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
