"""Accuracy against sparsity and MACs: what runs give for what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from str_keras.reporting import methods
from str_keras.reporting.drawing import HEIGHT, Drawing, percent_tick, png, short
from str_keras.reporting.facts import number, percent
from str_keras.reporting.runs import Run

_TICKS = (0, 50, 70, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99)
_MORE_TICKS = (0, 20, 40, 50, 60, 65, 70, 75, 80, 84, 87, 90, 92, 94, 95, 96, 97, 98)
_FEWEST_TICKS = 3
_PADDING = 1.12
_SHAPES = "os^DvPX*<>"
_DENSE_LINES = (":", "--", "-.")
_NARROWEST = 1.6  # largest value by smallest, on a logarithmic axis


def _widen(values: Iterable[float]) -> tuple[float, float]:
    """Limits around values on a logarithmic axis."""
    low, high = min(values), max(values)
    spare = max(1.0, math.sqrt(_NARROWEST * low / high)) * _PADDING
    return low / spare, high * spare


def sparsity_axis(axes: Any, densities: Sequence[float]) -> None:
    """Sparsity from left to right, on the logarithm of density: 80 to 99 % spread out.

    Args:
        axes: Whose x are densities.
        densities: What is to be seen, above 0.
    """
    axes.set_xscale("log")
    low, high = _widen(densities)
    axes.set_xlim(high, low)
    shares = [s for s in _TICKS if low <= 1 - s / 100 <= high]
    if len(shares) < _FEWEST_TICKS:
        finer = {*_MORE_TICKS, *_TICKS, 98.4, 98.7, 99.2, 99.4, 99.6, 99.7}
        shares = [s for s in sorted(finer) if low <= 1 - s / 100 <= high]
    axes.set_xticks([1 - s / 100 for s in shares], [f"{s:g} %" for s in shares])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("sparsity")


def macs_axis(axes: Any, macs: Sequence[float]) -> None:
    """Multiply-accumulates from left to right, on a logarithmic scale."""
    axes.set_xscale("log")
    low, high = _widen(macs)
    axes.set_xlim(low, high)
    steps = (1, 2, 5) if high > 6 * low else (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    axes.xaxis.set_major_locator(ticker.LogLocator(10, subs=steps))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("MACs with non-zero weights, of one image")


def marker_style(name: str) -> dict[str, Any]:
    """Arguments of `plot` for the points of a method, and their line."""
    method = methods.find(name)
    return {
        "color": method.color,
        "marker": method.marker,
        "markerfacecolor": "white" if method.hollow else method.color,
        "markersize": 6,
        "linestyle": method.line,
        "linewidth": 1.6,
    }


def run_label(run: Run) -> str:
    """A run and its method in a legend."""
    label = methods.find(str(run.config.get("method"))).label
    return f"{short(run.name)} ({label})"


def run_styles(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Arguments of `plot` for each run: its method's, with a shape of its own."""
    seen: dict[str, int] = {}
    styles = []
    for run in runs:
        # The color is the method's; the shape tells runs of one method apart.
        method = str(run.config.get("method"))
        index = seen[method] = seen.get(method, -1) + 1
        styles.append(marker_style(method) | {"marker": _SHAPES[index % len(_SHAPES)]})
    return styles


def _points(run: Run) -> tuple[float, float, int] | None:
    """Accuracy, density and sparse MACs at the end; None if one is not known."""
    row = run.last_evaluated
    if row is None or run.summary is None or row["epoch"] != run.metrics[-1]["epoch"]:
        return None
    kernels = run.summary.kernels
    if not kernels.nonzeros or not kernels.sparse_macs:
        return None
    return row["val_accuracy"] or 0.0, 1 - kernels.sparsity, kernels.sparse_macs


def draw_tradeoff(runs: Sequence[Run]) -> Drawing | None:
    """Draws finished runs by accuracy, sparsity and MACs.

    Args:
        runs: The run, then those to compare it with.

    Returns:
        The figure; None if there are not two runs with all three, one of them sparse.
    """
    known = [(run, point) for run in runs if (point := _points(run))]
    if len(known) < 2 or not any(run.is_sparse for run, _ in known):
        return None
    words = [
        f"{run.name}: {percent(accuracy)} at a sparsity of {percent(1 - density)} and "
        f"{number(macs)} MACs"
        for run, (accuracy, density, macs) in known
    ]
    return Drawing(
        "tradeoff",
        png(
            lambda figure: _plot(figure, known), HEIGHT + 0.18 * ((len(known) + 1) // 2)
        ),
        "Accuracy against sparsity and MACs",
        "Of each finished run after its last epoch: validation accuracy, against the "
        "share of zeros in all kernels (spread by the logarithm of what is left) and "
        "against the multiply-accumulates with non-zero weights. Runs of one method "
        "have one color; a dense one is a line.",
        f"Two scatter plots. {'; '.join(words)}.",
    )


def _plot(
    figure: Figure, known: Sequence[tuple[Run, tuple[float, float, int]]]
) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    sparse = [point for run, point in known if run.is_sparse]
    sparsity_axis(left, [density for _, density, _ in sparse])
    macs_axis(right, [macs for _, _, macs in sparse])
    lines, labels = [], []
    styles = run_styles([run for run, _ in known])
    dense = iter(_DENSE_LINES * len(known))
    for (run, (accuracy, density, macs)), style in zip(known, styles, strict=True):
        labels.append(run_label(run))
        if not run.is_sparse:  # far to one side, if it were a point
            line = {"linestyle": next(dense), "linewidth": 1.4}
            line["color"] = style["color"]
            lines.append(left.axhline(accuracy, **line))
            right.axhline(accuracy, **line)
            continue
        style |= {"linestyle": "", "markersize": 8}
        lines += left.plot([density], [accuracy], **style)
        right.plot([macs], [accuracy], **style)
    left.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    left.set_ylabel("validation accuracy")
    left.margins(y=0.12)
    figure.legend(lines, labels, loc="outside upper left", ncols=2)
