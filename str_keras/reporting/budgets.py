"""What several runs, or methods, keep of each layer: their budgets side by side."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from str_keras.reporting.drawing import Drawing, percent_tick, png, short
from str_keras.reporting.facts import layer_name, percent
from str_keras.reporting.runs import Run
from str_keras.reporting.tradeoff import run_label, run_styles

_BELOW = 1.6  # how far under the smallest share a layer without weights lies


@dataclasses.dataclass(frozen=True)
class Budgets:
    """One line of the figure.

    Args:
        label: In the legend.
        style: Arguments of `plot`.
        kept: Of each layer the share of its weights that is kept, in [0, 1], a number
            for each seed.
    """

    label: str
    style: dict[str, Any]
    kept: Sequence[Sequence[float]]


def plot_budgets(axes: Any, budgets: Sequence[Budgets]) -> dict[str, Any]:
    """Draws medians, and ranges as bands, on a logarithmic axis of shares kept.

    Args:
        axes: Where.
        budgets: Lines over the same layers; a share of 0 lies on the lower edge.

    Returns:
        What stands in a legend, by label.
    """
    shares = [share for b in budgets for seeds in b.kept for share in seeds]
    dead = min((share for share in shares if share), default=1.0) / _BELOW
    axes.set_yscale("log")
    axes.set_ylim(dead, 1.4 * max(*shares, dead))
    handles = {}
    for budget in budgets:
        x = range(len(budget.kept))
        y = [max(statistics.median(seeds), dead) for seeds in budget.kept]
        style = budget.style | {"markersize": 4.5, "clip_on": False}
        handles[budget.label] = axes.plot(x, y, **style)[0]
        low = [max(min(seeds), dead) for seeds in budget.kept]
        high = [max(*seeds, dead) for seeds in budget.kept]
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.yaxis.set_major_locator(ticker.LogLocator(10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.set_ylabel("weights kept")
    return handles


def name_layers(axes: Any, paths: Sequence[str]) -> None:
    """The names of the layers below the lowest axes."""
    names = [short(layer_name(path), 22) for path in paths]
    size = 7.5 if len(names) <= 40 else 6
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_xlim(-0.6, len(names) - 0.4)


def draw_budgets(runs: Sequence[Run]) -> Drawing | None:
    """Draws the budgets of finished runs of one network.

    Args:
        runs: The run, then those to compare it with; dense, dead and unfinished ones
            and those of other kernels are left out.

    Returns:
        The figure; None if there is not the run itself and another.
    """
    rows = [run.summary.rows if run.summary and run.is_sparse else () for run in runs]
    paths = [row.path for row in rows[0]]
    same = [
        (run, {row.path: 1 - row.sparsity for row in found})
        for run, found in zip(runs, rows, strict=True)
        if paths and [r.path for r in found] == paths and any(r.nonzeros for r in found)
    ]
    if len(same) < 2:
        return None
    styles = run_styles([run for run, _ in same])
    drawn = [
        Budgets(run_label(run), style, [[share] for share in kept.values()])
        for (run, kept), style in zip(same, styles, strict=True)
    ]

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        handles = plot_budgets(axes, drawn)
        name_layers(axes, paths)
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=2)

    words = []
    for run, kept in same:
        low, high = min(kept, key=kept.__getitem__), max(kept, key=kept.__getitem__)
        words.append(
            f"{run.name} from {percent(kept[low])} ({layer_name(low)}) to "
            f"{percent(kept[high])} ({layer_name(high)})"
        )
    return Drawing(
        "budgets",
        png(fill, height=4.6 + 0.18 * ((len(same) + 1) // 2)),
        "Budgets side by side",
        "Share of each layer's weights that runs of this network keep, from the first "
        "layer to the last, on a logarithmic scale; one without weights lies on the "
        "lower edge.",
        f"Line chart over {len(paths)} layers, weights kept: {'; '.join(words)}.",
    )
