"""Reads the rows of a suite; groups them; follows the line through them."""

from __future__ import annotations

import collections
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from experiments import markdown
from str_keras.reporting import reading
from str_keras.reporting.methods import METHODS

RESULTS = pathlib.Path(__file__).parent / "results"
NEEDED = ("id", "method", "level", "seed", "sparsity", "sparse_macs", "accuracy")
"""Columns that are read; the runner writes more."""
WIDE = 5.0
"""Points of accuracy: where seeds differ by more, some collapsed; all are named."""
WIDE_SPARSITY = 2.0
"""Points of sparsity: likewise, in the order of the accuracies. A run as far from the
sparsity aimed at has missed its level."""
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantile of Student's t of 1, 2, ... degrees of freedom."""
REACH = math.log(1.25)
"""How far beyond its last point a curve is followed, in the logarithm of density."""


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        id: Its name, and that of its files.
        method: One of `str_keras.methods.METHODS`, or a variant as "tfmot".
        level: Sparsity aimed at, in [0, 1]; 0 for a dense net, the measured one where
            none was aimed at (a calibration).
        seed: Of the run.
        sparsity: What it has, of all kernels, in [0, 1].
        sparse_macs: Multiply-accumulates with non-zero weights, of one image.
        accuracy: On the test images, in [0, 1].
    """

    id: str
    method: str
    level: float
    seed: int
    sparsity: float
    sparse_macs: int
    accuracy: float

    @property
    def density(self) -> float:
        """Share of weights kept, in [0, 1]."""
        return 1 - self.sparsity

    @property
    def missed(self) -> bool:
        """Whether it is far from the sparsity aimed at: layers that died, or revived.

        At its level it would stand for nets that it is none of.
        """
        return 100 * abs(self.sparsity - self.level) > WIDE_SPARSITY


Groups = dict[tuple[str, float], list[Result]]
ONLY_LED = ("str_filter", "st3", "st3_sigma", "feather", "lats")
"""Methods that stand in suites of targets alone."""


def are_led(results: Iterable[Result]) -> bool:
    """Whether the runs are of a suite of targets."""
    return any(result.method in ONLY_LED for result in results)


def read(path: pathlib.Path) -> tuple[list[Result], dict[str, str]]:
    """Reads the table of a suite.

    Args:
        path: results/SUITE.csv, as the runner writes it.

    Returns:
        The finished runs; and by id, what the others say of themselves.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is damaged.
    """
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.csv"))) or "none"
        raise FileNotFoundError(
            "The suite has no results yet: python -m experiments.run --suite=NAME "
            f"writes them; there are those of {known}. Received: {path}"
        )
    results: list[Result] = []
    failed: dict[str, str] = {}
    for line in reading.read_csv(path, NEEDED):
        if line.parse("accuracy") is None:
            failed[line.cells["id"]] = line.cells.get("status", "")
            continue
        method, sparsity = line.cells["method"], line.need("sparsity")
        level = line.parse("level")
        if level is None:
            level = 0.0 if method == "dense" else sparsity
        results.append(
            Result(
                id=line.cells["id"],
                method=method,
                level=level,
                seed=line.need("seed", int),
                sparsity=sparsity,
                sparse_macs=line.need("sparse_macs", int),
                accuracy=line.need("accuracy"),
            )
        )
    return results, failed


def group(results: Iterable[Result]) -> Groups:
    """The runs by method and level: methods in their usual order, densest first."""
    order = list(METHODS)
    groups: Groups = collections.defaultdict(list)
    for result in results:
        groups[result.method, result.level].append(result)

    def place(key: tuple[str, float]) -> tuple[int, float]:
        return order.index(key[0]) if key[0] in order else len(order), key[1]

    return {key: groups[key] for key in sorted(groups, key=place)}


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    return statistics.fmean(values)


def deviation(values: Sequence[float]) -> float | None:
    """The sample's standard deviation; None of a single value."""
    return statistics.stdev(values) if len(values) > 1 else None


def density(result: Result) -> float:
    """The share of weights kept."""
    return result.density


def interval(values: Sequence[float]) -> float | None:
    """Half the 95 % interval of the mean, by Student's t; None of a single value.

    Raises:
        ValueError: if there are more than ten values.
    """
    spread = deviation(values)
    if spread is None:
        return None
    if len(values) - 1 > len(STUDENT):
        raise ValueError(f"At most ten values. Received: {len(values)} values")
    return STUDENT[len(values) - 2] * spread / math.sqrt(len(values))


def interpolate(
    results: Iterable[Result],
    at: float,
    value: Callable[[Result], float],
    cost: Callable[[Result], float] = density,
) -> float | None:
    """The value of a method at a density, or MACs, along the line through its runs.

    Linear in the logarithm of the cost. Beyond the last run the line is followed for a
    quarter of the cost, not further.

    Args:
        results: Runs of one method and one seed, of different costs; the dense run may
            be one of them.
        at: The cost, above 0: of `density` the share of weights kept.
        value: What to interpolate.
        cost: Of a run.

    Returns:
        The value, or None where the line does not reach.
    """
    points = sorted((math.log(cost(r)), value(r)) for r in results if cost(r) > 0)
    x = math.log(at)
    if len(points) < 2 or not points[0][0] - REACH <= x <= points[-1][0] + REACH:
        return None
    right = np.clip(np.searchsorted([p[0] for p in points], x), 1, len(points) - 1)
    (x0, y0), (x1, y1) = points[right - 1], points[right]
    return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _accuracy(runs: Sequence[Result], most: int) -> str:
    runs = sorted(runs, key=lambda run: -run.accuracy)
    values = [100 * run.accuracy for run in runs]
    spread = deviation(values)
    text = f"{mean(values):.2f}" + ("" if spread is None else f" ± {spread:.2f}")
    if spread is not None and spread > WIDE:
        text = " / ".join(f"{v:.1f}" for v in values)
    # Where the sparsity is not the one aimed at, it belongs to the number.
    own = [100 * run.sparsity for run in runs]
    if max(own) - min(own) > WIDE_SPARSITY:
        text += f" at {' / '.join(f'{v:.1f}' for v in own)} %"
    elif runs[0].method != "dense" and abs(mean(own) - 100 * runs[0].level) >= 0.05:
        text += f" at {mean(own):.2f} %"
    return text + (f" (n={len(runs)})" if len(runs) < most else "")


def results_table(results: Sequence[Result]) -> str:
    """Accuracy in percent, a row per method and a column per level, as Markdown.

    Mean and standard deviation over the seeds, and the sparsity where it is another
    than the one aimed at.
    """
    groups = group(results)
    most = max(map(len, groups.values()))
    levels = sorted({level for method, level in groups if method != "dense"})
    dense = [run for run in results if run.method == "dense"]
    rows = []
    for method in dict.fromkeys(method for method, _ in groups if method != "dense"):
        cells = [groups.get((method, level)) for level in levels]
        label = METHODS[method].label if method in METHODS else method
        rows.append([label, *(_accuracy(runs, most) if runs else "" for runs in cells)])
    columns = ["method", *(f"{100 * level:g} %" for level in levels)]
    first = f"Dense: {_accuracy(dense, most)}. " if dense else ""
    fewer = any(len(runs) < most for runs in groups.values())
    return (
        f"{markdown.table(columns, rows)}\n\n{first}Test accuracy in percent after the "
        f"last epoch, mean ± standard deviation of n={most} seeds"
        f"{' (of fewer where it is said)' * fewer}, by the sparsity aimed at; with the "
        "one measured where it differs. Where seeds differ by more than "
        f"{WIDE:g} points, each is given, the best first; so is each one's sparsity "
        f"where those differ by more than {WIDE_SPARSITY:g} points."
    )
