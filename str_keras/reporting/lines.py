"""Lines over epochs, one per layer, for the figures of a run and of a suite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib import cm, colors, ticker
from matplotlib.figure import Figure

from str_keras.reporting.drawing import GRAY
from str_keras.reporting.runs import Row

# Without the yellow end, which is too faint on white.
_DEPTH = colors.ListedColormap(matplotlib.colormaps["viridis"](range(218)))

Layers = Mapping[str, Sequence[Row]]
"""Rows with `epoch`, `sparsity` and `threshold` by the path of a kernel."""


def epoch_axis(axes: Any, last: float) -> None:
    """Whole epochs below `axes`, up to `last`."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    if last <= 1:
        axes.set_xlim(0.5, 1.5)


def series(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a column, where it has any."""
    pairs = [(row["epoch"], row.get(name)) for row in rows]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]


def plot_layers(
    axes: Any, layers: Layers, column: str, shift: Callable[[float], float] = float
) -> None:
    """Draws a thin line per layer, colored by its depth.

    Args:
        axes: Where.
        layers: The layers, the first one first.
        column: "sparsity" or "threshold".
        shift: What becomes of a value.
    """
    depth = _depth(layers)
    for i, rows in enumerate(layers.values(), 1):
        x, y = series(rows, column)
        marker = "." if len(x) == 1 else ""
        y = [shift(value) for value in y]
        axes.plot(x, y, color=_DEPTH(depth(i)), linewidth=0.9, marker=marker)


def _depth(layers: Layers) -> Any:
    return colors.Normalize(1, max(2, len(layers)))


def add_depth_bar(figure: Figure, axes: Any, layers: Layers) -> None:
    """Says which color is which layer, if there are several."""
    if len(layers) < 2:
        return
    scale = cm.ScalarMappable(_depth(layers), _DEPTH)
    bar = figure.colorbar(scale, ax=axes, pad=0.02, aspect=30)
    bar.set_ticks([1, len(layers)], labels=["first", "last"])
    bar.set_label("layer", labelpad=-12)
    bar.outline.set_visible(False)  # type: ignore[operator]


def plot_thresholds(axes: Any, layers: Layers) -> None:
    """Draws the thresholds of layers on a logarithmic axis; 0 has a line of its own."""
    found = [row["threshold"] for rows in layers.values() for row in rows]
    values = [v for v in found if v and math.isfinite(v)] or [1e-3]
    lowest = math.floor(math.log10(min(values)))
    span = max(1.0, math.log10(max(values)) - lowest)
    # A logarithmic axis has no zero: it gets a line of its own below the others.
    bottom = 10.0 ** (lowest - max(0.25, 0.08 * span))
    axes.set_yscale("log")
    plot_layers(axes, layers, "threshold", lambda g: g or bottom)
    exponents = range(lowest, lowest + math.ceil(span) + 1, math.ceil(span / 7))
    axes.set_yticks([10.0**e for e in exponents], [f"1e{e}" for e in exponents])
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    if 0 in found:
        axes.set_ylim(bottom=bottom / 10 ** (0.03 * span))
        axes.axhline(bottom, color=GRAY, linewidth=0.8, linestyle=":", zorder=0)
        axes.annotate(
            "0",
            (0, bottom),
            xycoords=("axes fraction", "data"),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
        )
