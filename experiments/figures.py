"""Figures and tables of the experiments, from experiments/results.

    python -m experiments.figures                       every suite's figures
    python -m experiments.figures --suite=NAME --table  prints its tables as Markdown
    python -m experiments.figures --suite=NAME --readme=README.md

Reads results/SUITE.csv with budgets/ID.csv and history/ID.csv beside it, as
experiments.run writes them, and writes results/SUITE_*.png.
"""

from __future__ import annotations

import csv
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from matplotlib import ticker, transforms
from matplotlib.figure import Figure

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from experiments import analysis, claims, markdown
from experiments.analysis import Groups, Result
from experiments.layer_figures import draw_budgets, draw_history
from str_keras import cli, files
from str_keras.reporting import methods
from str_keras.reporting.drawing import INK, percent_tick, png
from str_keras.reporting.tradeoff import macs_axis, marker_style, sparsity_axis

FLAGS = flags.FLAGS
PANELS = (
    (
        "methods",
        (
            "str",
            "str_global",
            "gmp",
            "gmp_depthwise_dense",
            "tfmot",
            "dnw",
            "uniform_oneshot",
            "erk_rigl_static",
        ),
    ),
    ("STR's budget carried over", ("str", "gmp", "budget_gmp", "dnw", "budget_dnw")),
)
DEEPEST = 0.3
"""A figure shows accuracies down to so much below the best; medians beyond as text."""

CLOSE = math.log(1.6)
"""Texts of densities or MACs nearer than this factor stand above one another."""


def draw_tradeoffs(results: Sequence[Result]) -> dict[str, bytes]:
    """Accuracy against sparsity, and against MACs; the PNGs by name."""
    pruned = [r for r in results if r.method != "dense" and 0 < r.density < 1]
    if not pruned:
        return {}

    def by_sparsity(axes: Any) -> None:
        sparsity_axis(axes, [r.density for r in pruned])

    def by_macs(axes: Any) -> None:
        macs_axis(axes, [r.sparse_macs for r in pruned])

    return {
        "accuracy_sparsity": png(
            lambda figure: _tradeoff(figure, results, lambda r: r.density, by_sparsity),
            height=5.2,
        ),
        "accuracy_macs": png(
            lambda figure: _tradeoff(figure, results, lambda r: r.sparse_macs, by_macs),
            height=5.2,
        ),
    }


def _tradeoff(
    figure: Figure,
    results: Sequence[Result],
    cost: Callable[[Result], float],
    set_axis: Callable[[Any], None],
) -> None:
    groups = analysis.group(r for r in results if 0 < r.density < 1)
    dense = [r.accuracy for r in results if r.method == "dense"]
    shown = [
        (title, [m for m in names if any(key[0] == m for key in groups)])
        for title, names in PANELS
    ]
    # Without a carried budget, the second panel would repeat the first.
    shown = [s for s in shown if s[0] == "methods" or any("budget" in m for m in s[1])]
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    best = max(r.accuracy for r in results)
    # A net that collapsed would press all others into a line.
    floor = min(r.accuracy for r in results if r.accuracy >= best - DEEPEST)
    handles: dict[str, Any] = {}
    seeds = max(len(runs) for runs in groups.values())
    for axes, (title, names) in zip(grid, shown, strict=True):
        set_axis(axes)
        axes.set_title(title)
        if dense:
            handles["dense"] = _band(axes, dense)
        for name in names:
            handles[name] = _curve(axes, name, groups, cost, floor)
    spare = 0.05 * (best - floor) or 0.01
    grid[0].set_ylim(floor - spare, best + spare)
    grid[0].yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    grid[0].set_ylabel(f"test accuracy, median of {seeds} seeds")
    ordered = [name for name in methods.METHODS if name in handles]
    figure.legend(
        [handles[name] for name in ordered],
        [methods.find(name).label for name in ordered],
        loc="outside upper left",
        ncols=5,
    )


def _band(axes: Any, accuracies: Sequence[float]) -> Any:
    """The dense runs: their range and their mean."""
    axes.axhspan(min(accuracies), max(accuracies), color=INK, alpha=0.1, linewidth=0)
    style = marker_style("dense") | {"marker": ""}
    return axes.axhline(
        analysis.mean(accuracies), color=style["color"], linestyle=style["linestyle"]
    )


def _curve(
    axes: Any,
    name: str,
    groups: Groups,
    cost: Callable[[Result], float],
    floor: float,
) -> Any:
    """Median and range of each level, joined; each run a faint dot."""
    style = marker_style(name)
    runs = [runs for (method, _), runs in groups.items() if method == name]
    points = sorted(
        (statistics.median(cost(r) for r in group), [r.accuracy for r in group])
        for group in runs
    )
    x = [cost for cost, _ in points]
    # One net of three that died would draw a mean where there is no run.
    y = [statistics.median(accuracies) for _, accuracies in points]
    (line,) = axes.plot(x, y, **style, zorder=3)
    low = [min(accuracies) for _, accuracies in points]
    high = [max(accuracies) for _, accuracies in points]
    axes.vlines(x, low, high, color=style["color"], linewidth=1.2, zorder=2)
    for group in runs:
        axes.plot(
            [cost(r) for r in group],
            [r.accuracy for r in group],
            color=style["color"],
            marker=".",
            markersize=4,
            linestyle="",
            alpha=0.45,
        )
    for at, value in zip(x, y, strict=True):
        if value < floor:
            _below(axes, at, floor, value, style)
    return line


def _below(
    axes: Any, x: float, floor: float, value: float, style: dict[str, Any]
) -> None:
    """Says what lies below the axis, on the side where there is room, stacked."""
    place = axes.transAxes.inverted().transform(axes.transData.transform((x, floor)))
    side = -1 if place[0] > 0.5 else 1
    near = [a for a in axes.texts if abs(math.log(a.xy[0] / x)) < CLOSE]
    offset = 10 * side, 5 + 13 * len(near)
    moved = transforms.ScaledTranslation(
        offset[0] / 72, offset[1] / 72, axes.figure.dpi_scale_trans
    )
    mark = {**style, "linestyle": "", "markersize": 5}
    axes.plot([x], [floor], **mark, transform=axes.transData + moved, zorder=4)
    axes.annotate(
        f"↓ {100 * value:.0f} %",
        (x, floor),
        xytext=(offset[0] + 6 * side, offset[1]),
        textcoords="offset points",
        ha="left" if side > 0 else "right",
        va="center",
        fontsize=8,
        color=style["color"],
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
    )


def draw_suite(
    name: str, folder: pathlib.Path = analysis.RESULTS
) -> list[pathlib.Path]:
    """Draws the figures of a suite.

    Args:
        name: Of the suite.
        folder: With NAME.csv, budgets/ and history/; the figures go there too.

    Returns:
        Paths of the figures: NAME_accuracy_sparsity.png, NAME_accuracy_macs.png, and,
        where the tables are there, NAME_budgets.png and NAME_history.png.

    Raises:
        OSError: if there are no results, or files cannot be written.
        ValueError: if a table is damaged.
    """
    results, _ = analysis.read(folder / f"{name}.csv")
    drawn: dict[str, bytes | None] = {
        **draw_tradeoffs(results),
        "budgets": draw_budgets(results, folder / "budgets"),
        "history": draw_history(results, folder / "history"),
    }
    paths = []
    for figure, data in drawn.items():
        if data is not None:
            path = folder / f"{name}_{figure}.png"
            with files.written_aside(path) as aside:
                aside.write_bytes(data)
            paths.append(path)
    return paths


def suite_tables(name: str, folder: pathlib.Path = analysis.RESULTS) -> str:
    """Results and claims of a suite as Markdown.

    Args:
        name: Of the suite.
        folder: With NAME.csv.

    Raises:
        OSError, ValueError: as `draw_suite`.
    """
    results, failed = analysis.read(folder / f"{name}.csv")
    if not results:
        raise ValueError(
            f"No run of the suite has finished with an accuracy. Received: suite={name}"
        )
    parts = [analysis.results_table(results)]
    if claims.claims(results):
        parts.append(claims.claims_table(results))
    if failed:
        said = ", ".join(f"{id} ({status})" for id, status in failed.items())
        parts.append(f"Without an accuracy, and in no mean: {said}.")
    return "\n\n".join(parts)


def _suites(folder: pathlib.Path) -> list[str]:
    """Suites that have results: tables with the columns of the runner.

    Those that calibrate are for its decays, not for figures; name them to see them.
    """
    found = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        if "suite" in columns and not path.stem.startswith("calibrate"):
            found.append(path.stem)
    return found


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string(
        "suite", None, "A suite with results; all of them if not given."
    )
    flags.DEFINE_string("results", str(analysis.RESULTS), "Folder of the tables.")
    flags.DEFINE_boolean("table", False, "Print the tables, and draw nothing.")
    flags.DEFINE_string(
        "readme", None, "A Markdown file: the tables go between its markers `SUITE`."
    )


def main() -> None:
    """Draws, or prints and writes tables."""
    folder = pathlib.Path(FLAGS.results)
    names = [FLAGS.suite] if FLAGS.suite else _suites(folder)
    if not names:
        raise ValueError(
            "There are no results yet: python -m experiments.run --suite=NAME writes "
            f"them. Received: results={folder}"
        )
    for name in names:
        if FLAGS.table:
            print(suite_tables(name, folder))
        if FLAGS.readme:
            markdown.fill(FLAGS.readme, name, suite_tables(name, folder))
            print(f"wrote the tables of {name} to {FLAGS.readme}")
        if not FLAGS.table and not FLAGS.readme:
            for path in draw_suite(name, folder):
                print(path)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
