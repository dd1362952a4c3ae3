"""Reads run directories, and says in one line what is wrong with one."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from str_keras.budget import COLUMNS, KernelRow, Summary
from str_keras.reporting.reading import Line, damaged, read_csv, read_json
from str_keras.run_directory import best_epoch

Row = dict[str, float | None]
Path = str | os.PathLike[str]

_METRICS = ("epoch", "loss", "accuracy", "sparsity")
_LAYERS = ("epoch", "path", "sparsity", "threshold")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run directory holds.

    Args:
        path: The directory.
        name: What tables and legends call it.
        config: Configuration of the training.
        record: config.json whole: the command, versions, git revision, start.
        metrics: A dictionary per finished epoch; None where a cell is empty. A column
            that the file lacks is missing.
        layers: By path of a kernel with a threshold: a dictionary per epoch with
            `epoch`, `sparsity` and `threshold`. Empty for a dense run.
        summary: The per-layer table; None until the training has ended.
    """

    path: pathlib.Path
    name: str
    config: dict[str, Any]
    record: dict[str, Any]
    metrics: list[Row]
    layers: dict[str, list[Row]]
    summary: Summary | None

    @property
    def is_sparse(self) -> bool:
        """Whether a kernel has a threshold, or zeros were ever counted."""
        return bool(self.layers) or any(row["sparsity"] for row in self.metrics)

    @property
    def last_evaluated(self) -> Row | None:
        """The last epoch with a validation accuracy."""
        rows = [row for row in self.metrics if row.get("val_accuracy") is not None]
        return rows[-1] if rows else None

    @property
    def best(self) -> Row | None:
        """The epoch of best.keras: the most accurate of those about the sparsest.

        The most accurate of all would be an early one, before anything was pruned.
        """
        index = best_epoch(
            [{**row, "sparsity": row["sparsity"] or 0.0} for row in self.metrics]
        )
        return None if index is None else self.metrics[index]


def load_runs(run_dir: Path, compare: Sequence[Path] = ()) -> list[Run]:
    """Reads a run and those to compare it with.

    Args:
        run_dir: Its directory.
        compare: Theirs.

    Returns:
        The runs; their names differ.

    Raises:
        OSError: if a directory is missing or holds no run.
        ValueError: if a file is damaged, or no epoch has finished yet.
    """
    runs = [read_run(path) for path in (run_dir, *compare)]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        runs = [dataclasses.replace(run, name=str(run.path)) for run in runs]
    return runs


def read_run(run_dir: Path) -> Run:
    """Reads one run directory; see `load_runs`."""
    path = pathlib.Path(run_dir)
    if not path.is_dir():
        kind = NotADirectoryError if path.exists() else FileNotFoundError
        raise kind(
            "There is no such run directory: name one that str_keras.train wrote. "
            f"Received: run_dir={path}"
        )
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"{path / 'config.json'} is missing, so this is no run directory: name one "
            f"that str_keras.train wrote. Received: run_dir={path}"
        )
    record = read_json(path / "config.json", {"config": dict})
    return Run(
        path=path,
        name=path.resolve().name or str(path),
        config=record["config"],
        record=record,
        metrics=_read_metrics(path / "metrics.csv"),
        layers=_read_layers(path / "layers.csv"),
        summary=_read_summary(path),
    )


def _read_metrics(path: pathlib.Path) -> list[Row]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: no epoch of the run has finished yet."
        )
    rows: list[Row] = []
    for line in read_csv(path, _METRICS):
        row: Row = {name: line.parse(name) for name in line.cells}
        for name in _METRICS:
            row[name] = line.need(name)
        row["epoch"] = _next_epoch(line, rows)
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} has no line: no epoch of the run has finished yet.")
    return rows


def _next_epoch(line: Line, rows: list[Row]) -> int:
    epoch = line.need("epoch", int)
    if rows and epoch <= (rows[-1]["epoch"] or 0):
        raise line.damaged(f"epoch {epoch} follows epoch {rows[-1]['epoch']}")
    return epoch


def _read_layers(path: pathlib.Path) -> dict[str, list[Row]]:
    if not path.is_file():
        return {}
    layers: dict[str, list[Row]] = {}
    for line in read_csv(path, _LAYERS):
        rows = layers.setdefault(line.cells["path"], [])
        threshold = line.parse("threshold")
        if threshold is not None and not threshold >= 0:
            raise line.damaged(f"threshold={threshold} is no number from 0 up")
        row: Row = {"epoch": _next_epoch(line, rows), "threshold": threshold}
        row["sparsity"] = line.need("sparsity")
        rows.append(row)
    return layers


def _read_summary(folder: pathlib.Path) -> Summary | None:
    """The table of budget.csv with the totals of summary.json, checked to agree."""
    table, totals = folder / "budget.csv", folder / "summary.json"
    if not table.is_file() and not totals.is_file():
        return None
    for path, other in ((table, totals), (totals, table)):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing beside {other.name}: restore it, or remove both."
            )
    parts = dict.fromkeys(("prunable", "kernels", "total"), dict)
    record = read_json(totals, {"name": str, "other_params": int, **parts})
    rows = tuple(_read_kernel(line) for line in read_csv(table, COLUMNS))
    try:
        other_bytes = int(record["total"]["bytes"]) - int(record["kernels"]["bytes"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(totals, '"bytes" of a total is missing or no number') from error
    summary = Summary(record["name"], rows, record["other_params"], other_bytes)
    found = summary.to_dict()
    for part in parts:
        for name in ("params", "nonzeros", "macs", "bytes"):
            ours, theirs = found[part][name], record[part].get(name)
            if ours != theirs:
                raise damaged(
                    table,
                    f"its {name} ({part}) add up to {ours}, those of {totals.name} "
                    f"to {theirs}",
                )
    return summary


def _read_kernel(line: Line) -> KernelRow:
    shape = line.need("shape", lambda text: [int(n) for n in text.split("x")])
    params, nonzeros = line.need("params", int), line.need("nonzeros", int)
    if math.prod(shape) != params or not 0 <= nonzeros <= params:
        raise line.damaged(
            f"{nonzeros} non-zeros of {params} weights in {line.cells['shape']}"
        )
    return KernelRow(
        path=line.cells["path"],
        kind=line.cells["kind"],
        shape=tuple(shape),
        params=params,
        nonzeros=nonzeros,
        threshold=line.parse("threshold"),
        macs=line.parse("macs", int),
        bytes=line.need("bytes", int),
        reason=line.cells["reason"],
    )
