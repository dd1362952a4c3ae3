"""Accuracy against sparsity and MACs: the methods of a suite, and budgets carried."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from experiments import analysis
from experiments.analysis import Result
from str_keras.reporting import methods
from str_keras.reporting.drawing import INK, percent_tick, png
from str_keras.reporting.tradeoff import macs_axis, marker_style, sparsity_axis

PANELS = (
    (
        "methods",
        (
            "str",
            "str_global",
            "gmp",
            "gmp_depthwise_dense",
            "tfmot",
            "tfmot_masked",
            "pquant_autosparse",
            "pquant_dst",
            "pquant_cs",
            "dnw",
            "uniform_oneshot",
            "erk_rigl_static",
        ),
    ),
    ("STR's budget carried over", ("str", "gmp", "budget_gmp", "dnw", "budget_dnw")),
)
TARGET_PANELS = (
    (
        "presets, led to a target",
        (
            *("str", "str_filter", "str_macs", "str_global", "st3", "st3_sigma"),
            *("feather", "autosparse", "lats", "gmp", "dnw"),
        ),
    ),
    (
        "beside other libraries",
        (
            *("str_filter", "str_filter_macs", "str_filter_macs0.5"),
            *("str_filter_macs1", "lats", "gmp_depthwise_dense"),
            *("tfmot", "pquant_autosparse", "pquant_dst", "pquant_cs"),
        ),
    ),
)
"""Of suites of targets: all presets, and those that are put forward."""
DEEPEST = 0.3
"""A figure shows accuracies down to so much below the best, and names the others."""
_HEIGHT, _ROW = 5.0, 0.19
"""Inches of a figure, and of a row of its strip."""
_CLOSE = math.log(1.3)
"""Texts of densities or MACs nearer than this factor would touch."""

Cost = Callable[[Result], float]


@dataclasses.dataclass(frozen=True)
class _Point:
    """The runs of a method at a level: what they cost, in the median, and give."""

    cost: float
    accuracies: tuple[float, ...]

    @property
    def median(self) -> float:
        # One net of three that died would draw a mean where there is no run.
        return statistics.median(self.accuracies)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.accuracies), max(self.accuracies)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the mean, by Student's t at 95 %; the range of seeds of which one died."""
        half = analysis.interval(self.accuracies)
        low, high = self.range
        if half is None or 100 * (high - low) > analysis.WIDE:
            return self.range
        middle = analysis.mean(self.accuracies)
        return middle - half, middle + half


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One of the plots beside each other: the points of its methods, by cost."""

    title: str
    points: dict[str, list[_Point]]

    def below(self, floor: float) -> dict[str, list[_Point]]:
        """Methods that have medians below `floor`, and these."""
        found = {
            name: [point for point in points if point.median < floor]
            for name, points in self.points.items()
        }
        return {name: points for name, points in found.items() if points}


def draw_tradeoffs(results: Sequence[Result]) -> dict[str, bytes]:
    """Draws accuracy against sparsity, and against MACs.

    Args:
        results: Of a suite.

    Returns:
        The PNGs by name: accuracy_sparsity and accuracy_macs; none if all runs are
        dense.
    """
    pruned = [r for r in results if r.method != "dense" and 0 < r.density < 1]
    if not pruned:
        return {}

    def by_sparsity(axes: Any) -> None:
        sparsity_axis(axes, [r.density for r in pruned])

    def by_macs(axes: Any) -> None:
        macs_axis(axes, [r.sparse_macs for r in pruned])

    return {
        "accuracy_sparsity": _draw(results, lambda r: r.density, by_sparsity),
        "accuracy_macs": _draw(results, lambda r: r.sparse_macs, by_macs),
    }


def _panels(results: Sequence[Result], cost: Cost) -> list[_Panel]:
    groups = analysis.group(r for r in results if 0 < r.density < 1)
    led = analysis.are_led(results)
    panels = []
    for title, names in TARGET_PANELS if led else PANELS:
        points: dict[str, list[_Point]] = {}
        for (name, _), runs in groups.items():
            point = _Point(
                statistics.median(map(cost, runs)), tuple(r.accuracy for r in runs)
            )
            if name in names:
                points.setdefault(name, []).append(point)
        for values in points.values():
            values.sort(key=lambda point: point.cost)
        # Without a carried budget, the second panel would repeat the first.
        if led or title == "methods" or any("budget" in name for name in points):
            panels.append(_Panel(title, points))
    return panels


def _draw(
    results: Sequence[Result], cost: Cost, set_axis: Callable[[Any], None]
) -> bytes:
    panels = _panels(results, cost)
    best = max(r.accuracy for r in results)
    # A net that collapsed would press all others into a line.
    floor = min(r.accuracy for r in results if r.accuracy >= best - DEEPEST)
    rows = max(len(panel.below(floor)) for panel in panels)

    def fill(figure: Figure) -> None:
        ratios = [_HEIGHT, _ROW * rows] if rows else [1]
        grid = figure.subplots(
            len(ratios),
            len(panels),
            sharex="col",
            sharey="row",
            squeeze=False,
            height_ratios=ratios,
        )
        layout: Any = figure.get_layout_engine()
        layout.set(wspace=0.04)
        handles: dict[str, Any] = {}
        for panel, column in zip(panels, grid.T, strict=True):
            set_axis(column[-1])
            column[0].set_title(panel.title)
            handles |= _curves(column[0], panel, results, cost)
            if rows:
                column[0].set_xlabel("")
                column[0].tick_params(bottom=False)
                _strip(column[1], panel.below(floor), rows)
        _set_accuracies(grid[0, 0], floor, best, results)
        if rows:
            # Not an axis' label, which would be longer than the strip is high.
            text = f"below {100 * floor:.0f} %:\nmedian in %"
            grid[1, 0].set_ylabel(
                text, rotation=0, ha="right", va="center", fontsize=8, labelpad=4
            )
        ordered = [name for name in methods.METHODS if name in handles]
        figure.legend(
            [handles[name] for name in ordered],
            [methods.find(name).label for name in ordered],
            loc="outside upper left",
            # Presets and libraries have longer names.
            ncols=4 if analysis.are_led(results) else 5,
        )

    return png(fill, height=_HEIGHT + _ROW * rows)


def _set_accuracies(
    axes: Any, floor: float, best: float, results: Sequence[Result]
) -> None:
    spare = 0.05 * (best - floor) or 0.01
    axes.set_ylim(floor - spare, best + spare)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    seeds = len({r.seed for r in results})
    bars = "\nbars: 95 % interval of the mean" * analysis.are_led(results)
    axes.set_ylabel(f"test accuracy, median of {seeds} seeds{bars}")


def _curves(
    axes: Any, panel: _Panel, results: Sequence[Result], cost: Cost
) -> dict[str, Any]:
    """Draws the dense band and each method; the handles of the legend by name."""
    handles = {}
    dense = [r.accuracy for r in results if r.method == "dense"]
    if dense:
        handles["dense"] = _band(axes, dense)
    for name, points in panel.points.items():
        handles[name] = _curve(axes, name, points, analysis.are_led(results))
        runs = [r for r in results if r.method == name and 0 < r.density < 1]
        axes.plot(
            [cost(r) for r in runs],
            [r.accuracy for r in runs],
            color=methods.find(name).color,
            marker=".",
            markersize=4,
            linestyle="",
            alpha=0.45,
        )
    return handles


def _band(axes: Any, accuracies: Sequence[float]) -> Any:
    """The dense runs: their range and their mean."""
    axes.axhspan(min(accuracies), max(accuracies), color=INK, alpha=0.1, linewidth=0)
    style = marker_style("dense") | {"marker": ""}
    return axes.axhline(
        analysis.mean(accuracies), color=style["color"], linestyle=style["linestyle"]
    )


def _curve(axes: Any, name: str, points: Sequence[_Point], interval: bool) -> Any:
    """Median of each level, joined, with the range or the interval of the mean."""
    style = marker_style(name)
    x = [point.cost for point in points]
    (line,) = axes.plot(x, [point.median for point in points], **style, zorder=3)
    spans = [point.interval if interval else point.range for point in points]
    low, high = zip(*spans, strict=True)
    axes.vlines(x, low, high, color=style["color"], linewidth=1.2, zorder=2)
    return line


def _strip(axes: Any, below: dict[str, list[_Point]], rows: int) -> None:
    """The medians that are below the plot: their marker and number, a row a method."""
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for row, (name, points) in enumerate(below.items()):
        style = {**marker_style(name), "linestyle": "", "markersize": 5}
        axes.plot([point.cost for point in points], [row] * len(points), **style)
        for group in _close(points):
            # Beside the last of them: a sparsity's axis runs from dense to sparse.
            last = group[0] if axes.xaxis_inverted() else group[-1]
            axes.annotate(
                ", ".join(f"{100 * point.median:.0f}" for point in group),
                (last.cost, row),
                xytext=(6, 0),
                textcoords="offset points",
                va="center_baseline",
                fontsize=7.5,
                color=style["color"],
            )


def _close(points: Sequence[_Point]) -> list[list[_Point]]:
    """Points, in the order of their cost, in groups that share one text."""
    groups: list[list[_Point]] = []
    for point in points:
        if groups and math.log(point.cost / groups[-1][-1].cost) < _CLOSE:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups
