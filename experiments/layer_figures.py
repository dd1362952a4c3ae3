"""Figures of a suite layer by layer: budgets side by side, thresholds over training."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from experiments import analysis
from experiments.analysis import Result
from str_keras.reporting import lines, methods, reading
from str_keras.reporting.budgets import Budgets, name_layers, plot_budgets
from str_keras.reporting.drawing import percent_tick, png
from str_keras.reporting.tradeoff import marker_style

UNIFORM = ("gmp", "dnw", "uniform_oneshot")
OWN_BUDGETS = ("str", "str_global", "erk_rigl_static")
LEVELS = (0.9, 0.98)
"""Drawn if STR has them; else the first two there are."""


def draw_budgets(results: Sequence[Result], folder: pathlib.Path) -> bytes | None:
    """What each method keeps of each layer, side by side.

    Args:
        results: Of the suite.
        folder: With a table per run, as `Summary.to_csv` writes it.

    Returns:
        The PNG; None if there is no table of a run of STR.
    """
    groups = analysis.group(results)
    levels = sorted({level for method, level in groups if method == "str"})
    levels = [level for level in levels if level in LEVELS] or levels[:2]
    panels = []
    for level in levels:
        runs = {m: groups.get((m, level), []) for m in OWN_BUDGETS}
        # A net that missed the level has another budget than one there.
        runs = {m: [r for r in group if not r.missed] for m, group in runs.items()}
        found = {m: kept for m in runs if (kept := _kept(runs[m], folder))}
        if "str" in found:
            uniform = any((method, level) in groups for method in UNIFORM)
            panels.append(
                (_title(level, {m: runs[m] for m in found}), level, found, uniform)
            )
    if not panels:
        return None
    return png(lambda figure: _budgets(figure, panels), height=1.6 + 2.7 * len(panels))


def _title(level: float, runs: dict[str, list[Result]]) -> str:
    """What sparsity was aimed at, and what each method has, by how many seeds."""
    has = []
    for method, group in runs.items():
        sparsity = 100 * statistics.median(run.sparsity for run in group)
        label = methods.find(method).label
        has.append(f"{label} {sparsity:.1f} % (n={len(group)})")
    return f"weights zero: aimed at {100 * level:g} %; {'; '.join(has)}"


def _kept(runs: Sequence[Result], folder: pathlib.Path) -> dict[str, list[float]]:
    """By layer: the share of weights kept, a number per run with a table."""
    kept: dict[str, list[float]] = {}
    for run in runs:
        path = folder / f"{run.id}.csv"
        if path.is_file():
            for row in reading.read_csv(path, ("path", "params", "nonzeros")):
                share = row.need("nonzeros", int) / row.need("params", int)
                kept.setdefault(row.cells["path"], []).append(share)
    return kept


def _budgets(figure: Figure, panels: Sequence[Any]) -> None:
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    handles: dict[str, Any] = {}
    names: list[str] = []
    for axes, (title, level, found, uniform) in zip(grid, panels, strict=True):
        axes.set_title(title)
        budgets = [
            Budgets(methods.find(method).label, marker_style(method), [*kept.values()])
            for method, kept in found.items()
        ]
        handles |= plot_budgets(axes, budgets)
        names = list(found["str"])
        if uniform:
            style = marker_style("gmp")
            handles["uniform (GMP, DNW, one shot)"] = axes.axhline(
                1 - level, color=style["color"], linestyle=style["linestyle"]
            )
    name_layers(grid[-1], names)
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=4)


def draw_history(results: Sequence[Result], folder: pathlib.Path) -> bytes | None:
    """Threshold and sparsity of each layer over training, for runs of STR.

    Args:
        results: Of the suite.
        folder: With a table per run: epoch, path, sparsity, threshold.

    Returns:
        The PNG, a row per level of `LEVELS` (or the first levels there are);
        None if there is no such table.
    """
    runs = [
        run
        for run in sorted(results, key=lambda r: (r.level, r.seed))
        if run.method == "str" and (folder / f"{run.id}.csv").is_file()
    ]
    by_level = {run.level: run for run in reversed(runs)}
    levels = [v for v in LEVELS if v in by_level] or sorted(by_level)[:2]
    if not levels:
        return None
    histories = [
        (by_level[level], _layers(folder / f"{by_level[level].id}.csv"))
        for level in levels
    ]
    return png(
        lambda figure: _history(figure, histories), height=0.5 + 2.9 * len(levels)
    )


def _layers(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    layers: dict[str, list[dict[str, Any]]] = {}
    for line in reading.read_csv(path, ("epoch", "path", "sparsity", "threshold")):
        row = {n: line.parse(n) for n in ("epoch", "sparsity", "threshold")}
        layers.setdefault(line.cells["path"], []).append(row)
    return layers


def _history(figure: Figure, histories: Sequence[Any]) -> None:
    grid = figure.subplots(len(histories), 2, sharex=True, squeeze=False)
    for (left, right), (run, layers) in zip(grid, histories, strict=True):
        lines.plot_thresholds(left, layers)
        lines.plot_layers(right, layers, "sparsity")
        lines.add_depth_bar(figure, right, layers)
        left.set_title(f"threshold g(s), {100 * run.sparsity:.1f} % at the end")
        right.set_title("share of zeros")
        right.set_ylim(-0.02, 1.02)
        right.yaxis.set_major_formatter(ticker.FuncFormatter(percent_tick))
    for axes in grid[-1]:
        lines.epoch_axis(axes, 2)
