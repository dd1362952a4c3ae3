"""Figures of a run over its epochs: accuracy, sparsity, thresholds; and its budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from str_keras.reporting import methods
from str_keras.reporting.bars import draw_budget
from str_keras.reporting.budgets import draw_budgets
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
from str_keras.reporting.lines import (
    add_depth_bar,
    epoch_axis,
    plot_layers,
    plot_thresholds,
    series,
)
from str_keras.reporting.runs import Run
from str_keras.reporting.tradeoff import draw_tradeoff

_OTHERS = ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_DASHES = ("--", "-.", ":")


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Draws what there is to draw of a run.

    Args:
        runs: The run, then those whose accuracy is drawn beside its own.

    Returns:
        `accuracy`; `tradeoff` if finished runs can be compared; of a sparse run
        `sparsity` and `threshold`; `budget` if the run counted its kernels, `budgets`
        if others of the same network did.
    """
    run = runs[0]
    drawn = [_draw_accuracy(runs)]
    if (compared := draw_tradeoff(runs)) is not None:
        drawn.append(compared)
    if run.is_sparse:
        drawn.append(_draw_sparsity(run))
    if any(
        row["threshold"] is not None for rows in run.layers.values() for row in rows
    ):
        drawn.append(_draw_threshold(run))
    if run.summary is not None and run.summary.rows:
        drawn.append(draw_budget(run, run.summary.rows))
    if (side_by_side := draw_budgets(runs)) is not None:
        drawn.append(side_by_side)
    return drawn


def _marker(points: int) -> str:
    """Dots show the epochs of a short run; on a long line they would run together."""
    return "o" if points <= 40 else ""


def _draw_accuracy(runs: Sequence[Run]) -> Drawing:
    run = runs[0]
    words = [f"training accuracy ends at {percent(run.metrics[-1]['accuracy'])}"]
    for item in runs:
        x, y = series(item.metrics, "val_accuracy")
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
        x, y = series(run.metrics, column)
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
    epoch_axis(axes, max(run.metrics[-1]["epoch"] or 1 for run in runs))
    columns = max(1, min(3, 110 // max(map(len, labels))))
    figure.legend(lines, labels, loc="outside upper left", ncols=columns)


def _draw_sparsity(run: Run) -> Drawing:
    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        plot_layers(axes, run.layers, "sparsity")
        add_depth_bar(figure, axes, run.layers)
        x, y = series(run.metrics, "sparsity")
        marker = _marker(len(x))
        lines = axes.plot(x, y, color=RED, linewidth=2.4, marker=marker, markersize=3.5)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
        axes.set_ylabel("share of zeros")
        epoch_axis(axes, x[-1])
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
    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        plot_thresholds(axes, run.layers)
        add_depth_bar(figure, axes, run.layers)
        axes.set_ylabel("threshold g(s)" if learned else "smallest weight kept")
        epoch_axis(axes, run.metrics[-1]["epoch"] or 1)

    learned = run.config.get("method", "str") in methods.LEARNED
    zeros = any(row["threshold"] == 0 for rows in run.layers.values() for row in rows)
    ends = [rows[-1]["threshold"] for rows in run.layers.values()]
    known = [value for value in ends if value is not None]
    what = "What each layer takes off the size of its weights; smaller ones become 0"
    if not learned:
        what = "The size of the smallest weight that each layer keeps, as it is"
    small = " (too small for float32)" * learned
    zero = f" A threshold of 0{small} is on the dotted line." * zeros
    return Drawing(
        "threshold",
        png(fill),
        "Thresholds",
        f"{what}. On a logarithmic scale.{zero}",
        f"Line chart, logarithmic: thresholds of {len(ends)} layers, at the end "
        f"between {min(known, default=0):.3g} and {max(known, default=0):.3g}.",
    )
