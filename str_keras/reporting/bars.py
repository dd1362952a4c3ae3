"""The budget of a run as bars, a row per layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from str_keras.budget import KernelRow
from str_keras.reporting.drawing import (
    BLUE,
    GRAY,
    INK,
    PALE,
    RED,
    Drawing,
    percent_tick,
    png,
    short,
)
from str_keras.reporting.facts import layer_name, percent
from str_keras.reporting.runs import Run


def draw_budget(run: Run, rows: Sequence[KernelRow]) -> Drawing:
    """Draws what is kept of each layer, and where weights and MACs are.

    Args:
        run: The run; of a dense one nothing is kept or left out.
        rows: Its kernels, at least one.
    """
    panels = _panels(run, rows)
    kept = {row.path: 1 - row.sparsity for row in rows}
    low, high = min(kept, key=kept.__getitem__), max(kept, key=kept.__getitem__)
    counted = "Weights and multiply-accumulates (MACs, of one image)"
    if len(panels) < 2 + run.is_sparse:
        counted = "Weights"
    kinds = ", before pruning (faint) and after (strong)" if run.is_sparse else ""
    kept_first = (
        "Share of a layer's weights that are not zero. " if run.is_sparse else ""
    )
    return Drawing(
        "budget",
        png(
            lambda figure: _fill(figure, rows, panels),
            height=max(2.4, 0.9 + 0.21 * len(rows)),
        ),
        "Budget of the layers",
        f"{kept_first}{counted} of each layer{kinds}.",
        f"Bar chart of {len(rows)} layers: weights kept, from {percent(kept[low])} "
        f"({layer_name(low)}) to {percent(kept[high])} ({layer_name(high)}).",
    )


def _panels(run: Run, rows: Sequence[KernelRow]) -> list[Callable[[Any], None]]:
    """What draws on the axes, from left to right."""
    sparse = run.is_sparse
    weights = [(row.params, row.nonzeros) for row in rows]
    panels = [lambda axes: _bars_of_counts(axes, weights, "weights", sparse)]
    if sparse:
        panels.insert(0, lambda axes: _bars_of_density(axes, rows))
    macs = [(row.macs, row.sparse_macs or 0) for row in rows if row.macs is not None]
    if len(macs) == len(rows):
        panels.append(lambda axes: _bars_of_counts(axes, macs, "MACs", sparse))
    return panels


def _fill(
    figure: Figure, rows: Sequence[KernelRow], panels: Sequence[Callable[[Any], None]]
) -> None:
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        panel(axes)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines["left"].set_visible(False)
    names = [short(layer_name(row.path)) for row in rows]
    grid[0].set_yticks(range(len(rows)), names, fontsize=8)
    grid[0].set_ylim(len(rows) - 0.4, -0.6)  # the first layer on top


def _bars_of_density(axes: Any, rows: Sequence[KernelRow]) -> None:
    density = [1 - row.sparsity for row in rows]
    tints = [GRAY if row.reason else BLUE for row in rows]
    axes.barh(range(len(rows)), density, height=0.72, color=tints)
    for i, value in enumerate(density):
        share = 100 * value
        text = "0" if not value else f"{share:.{2 if share < 10 else 1}f}"
        axes.annotate(
            f"{text} %",
            (value, i),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=RED if value == 0 else INK,
        )
    axes.set_xlim(0, max(max(density) * 1.3, 1e-5))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    axes.set_title(
        "weights kept" + ", gray: never pruned" * any(r.reason for r in rows)
    )


def _bars_of_counts(
    axes: Any, counts: Sequence[tuple[int, int]], unit: str, is_sparse: bool
) -> None:
    """Dense counts, and those of the non-zeros before them."""
    dense, sparse = zip(*counts, strict=True)
    axes.barh(range(len(counts)), dense, height=0.72, color=PALE if is_sparse else BLUE)
    if is_sparse:
        axes.barh(range(len(counts)), sparse, height=0.72, color=BLUE)
    axes.set_xlim(0, max(dense) * 1.05 or 1)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    totals = [_compact(sum(column)) for column in (dense, sparse)]
    axes.set_title(f"{unit}: {' → '.join(totals if is_sparse else totals[:1])}")


def _compact(value: float) -> str:
    places = 1 if value >= 1000 else 0
    return ticker.EngFormatter(places=places, sep=" ").format_eng(value)
