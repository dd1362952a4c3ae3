"""Figures of a run over its epochs: accuracy, sparsity, thresholds; and its budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib import cm, colors, ticker
from matplotlib.figure import Figure

from str_keras.reporting.bars import draw_budget
from str_keras.reporting.drawing import (
    BLUE,
    GRAY,
    HEIGHT,
    RED,
    Drawing,
    percent_tick,
    png,
    short,
)
from str_keras.reporting.facts import layer_name, percent
from str_keras.reporting.runs import Row, Run

_OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_DASHES = ("--", "-.", ":")
# Without the yellow end, which is too faint on white.
_DEPTH = colors.ListedColormap(matplotlib.colormaps["viridis"](range(218)))


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Draws what there is to draw of a run.

    Args:
        runs: The run, then those whose accuracy is drawn beside its own.

    Returns:
        `accuracy`; of a sparse run `sparsity` and `threshold`; `budget` if the run
        counted its kernels.
    """
    run = runs[0]
    drawn = [_draw_accuracy(runs)]
    if run.is_sparse:
        drawn.append(_draw_sparsity(run))
    if any(
        row["threshold"] is not None for rows in run.layers.values() for row in rows
    ):
        drawn.append(_draw_threshold(run))
    if run.summary is not None and run.summary.rows:
        drawn.append(draw_budget(run, run.summary.rows))
    return drawn


def _epochs(axes: Any, last: float) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    if last <= 1:
        axes.set_xlim(0.5, 1.5)


def _marker(points: int) -> str:
    """Dots show the epochs of a short run; on a long line they would run together."""
    return "o" if points <= 40 else ""


def _series(rows: Sequence[Row], name: str) -> tuple[list[float], list[float]]:
    pairs = [(row["epoch"], row.get(name)) for row in rows]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return [x for x, _ in known], [y for _, y in known]


def _draw_accuracy(runs: Sequence[Run]) -> Drawing:
    run = runs[0]
    words = [f"training accuracy ends at {percent(run.metrics[-1]['accuracy'])}"]
    for item in runs:
        x, y = _series(item.metrics, "val_accuracy")
        if x:
            words.append(
                f"validation accuracy of {item.name} goes from {percent(y[0])} in "
                f"epoch {x[0]:.0f} to {percent(y[-1])} in epoch {x[-1]:.0f}"
            )
    caption = "Share of images whose most likely class is the right one"
    if len(runs) > 1:
        caption += "; dashed or in another color, the runs it is compared with"
    height = HEIGHT + 0.1 * max(0, len(runs) - 3)  # room for their names
    return Drawing(
        "accuracy",
        png(lambda figure: _plot_accuracy(figure, runs), height),
        "Accuracy",
        f"{caption}. Training accuracy is that of augmented images while the weights "
        "change.",
        f"Line chart over epochs: {'; '.join(words)}.",
    )


def _plot_accuracy(figure: Figure, runs: Sequence[Run]) -> None:
    axes = figure.add_subplot()
    lines, labels = [], []

    def plot(run: Run, column: str, label: str, **style: Any) -> None:
        x, y = _series(run.metrics, column)
        if x:
            style["marker"] = _marker(len(x))
            lines.extend(axes.plot(x, y, markersize=3.5, **style))
            labels.append(f"{label}  {percent(y[-1])}")

    own = f"{short(runs[0].name)}: " if len(runs) > 1 else ""
    plot(runs[0], "accuracy", f"{own}training", color=GRAY, linewidth=1.2)
    plot(runs[0], "val_accuracy", f"{own}validation", color=BLUE, linewidth=2)
    for i, other in enumerate(runs[1:]):
        style = {"color": _OTHERS[i % 5], "linestyle": _DASHES[i // 5 % 3]}
        label = f"{short(other.name)}: validation"
        plot(other, "val_accuracy", label, linewidth=1.6, **style)
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    axes.set_ylabel("accuracy")
    _epochs(axes, max(run.metrics[-1]["epoch"] or 1 for run in runs))
    columns = max(1, min(3, 110 // max(map(len, labels))))
    figure.legend(lines, labels, loc="outside upper left", ncols=columns)


def _plot_layers(
    figure: Figure, axes: Any, run: Run, column: str, shift: Callable[[float], float]
) -> None:
    """A thin line per layer, colored by depth, and the scale of the colors."""
    depth = colors.Normalize(1, max(2, len(run.layers)))
    for i, rows in enumerate(run.layers.values(), 1):
        x, y = _series(rows, column)
        y = [shift(value) for value in y]
        marker = "." if len(x) == 1 else ""
        axes.plot(x, y, color=_DEPTH(depth(i)), linewidth=0.9, marker=marker)
    if len(run.layers) > 1:
        scale = cm.ScalarMappable(depth, _DEPTH)
        bar = figure.colorbar(scale, ax=axes, pad=0.02, aspect=30)
        bar.set_ticks([1, len(run.layers)], labels=["first", "last"])
        bar.set_label("layer", labelpad=-12)
        bar.outline.set_visible(False)  # type: ignore[operator]


def _draw_sparsity(run: Run) -> Drawing:
    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        _plot_layers(figure, axes, run, "sparsity", float)
        x, y = _series(run.metrics, "sparsity")
        marker = _marker(len(x))
        lines = axes.plot(x, y, color=RED, linewidth=2.4, marker=marker, markersize=3.5)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
        axes.set_ylabel("share of zeros")
        _epochs(axes, x[-1])
        label = f"all prunable kernels  {percent(y[-1])}"
        figure.legend(lines, [label], loc="outside upper left")

    ends = {path: rows[-1]["sparsity"] or 0.0 for path, rows in run.layers.items()}
    words = f"Line chart: sparsity ends at {percent(run.metrics[-1]['sparsity'])}"
    if ends:
        low, high = min(ends, key=ends.__getitem__), max(ends, key=ends.__getitem__)
        words += (
            f"; by layer from {percent(ends[low])} ({layer_name(low)}) to "
            f"{percent(ends[high])} ({layer_name(high)})"
        )
    return Drawing(
        "sparsity",
        png(fill),
        "Sparsity",
        "Share of zeros in the kernels as the layers read them: thick, of all prunable "
        "kernels together; thin, of each one.",
        f"{words}.",
    )


def _draw_threshold(run: Run) -> Drawing:
    zeros = any(row["threshold"] == 0 for rows in run.layers.values() for row in rows)
    ends = [rows[-1]["threshold"] for rows in run.layers.values()]
    known = [value for value in ends if value is not None]
    zero = " A threshold of 0 (too small for float32) is on the dotted line." * zeros
    return Drawing(
        "threshold",
        png(lambda figure: _plot_thresholds(figure, run, zeros)),
        "Thresholds",
        "What each layer takes off the size of its weights, on a logarithmic scale; "
        f"weights that are smaller become 0.{zero}",
        f"Line chart, logarithmic: thresholds of {len(ends)} layers, at the end "
        f"between {min(known, default=0):.3g} and {max(known, default=0):.3g}.",
    )


def _plot_thresholds(figure: Figure, run: Run, zeros: bool) -> None:
    values = [
        row["threshold"]
        for rows in run.layers.values()
        for row in rows
        if row["threshold"] and math.isfinite(row["threshold"])
    ] or [1e-3]
    lowest = math.floor(math.log10(min(values)))
    span = max(1.0, math.log10(max(values)) - lowest)
    # A logarithmic axis has no zero: it gets a line of its own below the others.
    bottom = 10.0 ** (lowest - max(0.25, 0.08 * span))
    axes = figure.add_subplot()
    axes.set_yscale("log")
    _plot_layers(figure, axes, run, "threshold", lambda g: g or bottom)
    exponents = range(lowest, lowest + math.ceil(span) + 1, math.ceil(span / 7))
    axes.set_yticks([10.0**e for e in exponents], [f"1e{e}" for e in exponents])
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylabel("threshold g(s)")
    _epochs(axes, run.metrics[-1]["epoch"] or 1)
    if zeros:
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
