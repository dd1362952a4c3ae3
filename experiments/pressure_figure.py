"""Accuracy against MACs at equal sparsity: what thresholds that follow MACs trade."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from experiments.analysis import Result, group
from experiments.suites import CURVE, PRESSED
from str_keras.reporting.drawing import GRAY, percent_tick, png
from str_keras.reporting.tradeoff import macs_axis

PRESET = "str_filter"
PRESSURES = {PRESET: 0.0} | {
    name: pressure
    for name, (preset, pressure) in (PRESSED | CURVE).items()
    if preset == PRESET
}
"""Exponents of the MACs per weight, by what rows call the method."""
DEEPEST = 0.2
"""Accuracies down to so much below the best are shown, and lower ones named."""
_LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))


def draw_pressures(results: Sequence[Result]) -> bytes | None:
    """Draws a line a sparsity, from no pressure to the most.

    Args:
        results: Of a suite.

    Returns:
        The PNG; None if no sparsity has runs of two pressures.
    """
    lines: dict[float, list[tuple[float, list[Result]]]] = {}
    for (name, level), runs in group(results).items():
        if name in PRESSURES:
            lines.setdefault(level, []).append((PRESSURES[name], runs))
    lines = {level: sorted(line, key=_first) for level, line in lines.items()}
    lines = {level: line for level, line in sorted(lines.items()) if len(line) > 1}
    if not lines:
        return None
    return png(lambda figure: _fill(figure, lines), height=4.8)


def _first(point: tuple[float, list[Result]]) -> float:
    return point[0]


def _fill(figure: Figure, lines: dict[float, list[tuple[float, list[Result]]]]) -> None:
    axes: Any = figure.subplots()
    every = [run for line in lines.values() for _, runs in line for run in runs]
    macs_axis(axes, [run.sparse_macs for run in every])
    best = max(run.accuracy for run in every)
    # A net that collapsed would press all others into a line.
    floor = max(best - DEEPEST, min(run.accuracy for run in every))
    axes.set_ylim(floor - 0.01, best + 0.02)
    for (level, line), (color, marker) in zip(lines.items(), _LOOKS, strict=False):
        x, y = (
            [statistics.median(getattr(r, name) for r in runs) for _, runs in line]
            for name in ("sparse_macs", "accuracy")
        )
        label = f"{100 * level:g} % of zeros"
        axes.plot(x, y, color=color, marker=marker, markersize=6, label=label)
        rows = 0
        for (pressure, runs), at in zip(line, zip(x, y, strict=True), strict=True):
            axes.plot(
                [r.sparse_macs for r in runs],
                [r.accuracy for r in runs],
                color=color,
                marker=".",
                markersize=4,
                linestyle="",
                alpha=0.45,
            )
            x_at, y_at = at
            below = y_at < floor
            rows += below
            axes.annotate(
                f"{pressure:g}: {percent_tick(y_at, 0)}" if below else f"{pressure:g}",
                (x_at, floor - 0.01) if below else at,
                # Those below, one above the other.
                xytext=(0, 12 * rows - 6 if below else 7),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=GRAY if pressure == 0 else color,
            )
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    axes.set_ylabel("test accuracy, median of the seeds")
    axes.set_title("STR by filter; beside each point its mac_pressure", loc="left")
    axes.legend(loc="lower right")
