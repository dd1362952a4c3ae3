"""Works through the cells of a suite: which is next, what is written of it."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import shutil
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from experiments import arrays, outside, pquant_twin, records, tfmot_twin, training
from experiments.records import FINISHED, Row
from experiments.suites import TFMOT_MASKED, Cell
from str_keras import cli
from str_keras.methods import LEARNED

WAIT = 5.0
"""Seconds between two looks at what other processes have finished."""

HISTORY_COLUMNS = ("epoch", "path", "sparsity", "threshold")


@dataclasses.dataclass(frozen=True)
class Options:
    """How a suite is run.

    Args:
        command: How the suite was started, for the record: words.
        results: Folder of the tables, budgets and histories.
        output: Folder for checkpoints.
        data_dir: Of `arrays.load`; "" for none.
        minutes: Time to stop within; None for no end.
        threads: Threads of this process, for the record; None for all.
        retry: Whether runs that diverged are tried again.
        checkpoint_seconds: Between two checkpoints of a run.
    """

    command: Sequence[str]
    results: pathlib.Path
    output: pathlib.Path
    data_dir: str = ""
    minutes: float | None = None
    threads: int | None = None
    retry: bool = False
    checkpoint_seconds: float = 60.0


class Runner:
    """Runs a suite, or goes on with it. Several processes may, at the same time.

    Args:
        suite: Its name.
        cells: All of its cells, in order.
        options: How.
    """

    def __init__(self, suite: str, cells: Sequence[Cell], options: Options):
        self.suite, self.options = suite, options
        self.cells = {cell.id: cell for cell in cells}
        self.table = records.Table(options.results / f"{suite}.csv")
        self.environment = records.environment(options.threads)
        minutes = options.minutes
        self.end = None if minutes is None else time.monotonic() + 60 * minutes
        self.first_epoch = self.whole_run = 0.0
        self.images: dict[tuple[str, int | None], arrays.ImageArrays] = {}
        self.tried: set[str] = set()

    def is_done(self, cell: Cell, rows: dict[str, Row]) -> bool:
        """Whether a cell has its row.

        That it diverged is a result, but for a retry; what failed otherwise (a package
        that is missing, memory) is tried anew by the next call.
        """
        row = rows.get(cell.id)
        if row is None or row["settings"] != cell.settings:
            return False
        if row["status"] == FINISHED or cell.id in self.tried:
            return True
        return row["status"].startswith("diverged") and not self.options.retry

    def _is_ready(self, cell: Cell, rows: dict[str, Row]) -> bool:
        """Whether the budget that a cell needs is there."""
        if not cell.depends_on:
            return True
        needed = self.cells[cell.depends_on]
        return (
            self.is_done(needed, rows)
            and rows[needed.id]["status"] == FINISHED
            and self._budget(needed).is_file()
        )

    def _budget(self, cell: Cell) -> pathlib.Path:
        return self.options.results / "budgets" / f"{cell.id}.csv"

    def run(self, chosen: Sequence[Cell]) -> None:
        """Runs what is left of `chosen`, in order, until it is done or time is up."""
        try:
            while left := self._left(chosen):
                if not self._may_go_on(0.0):
                    raise training.OutOfTime("The time is up")
                rows = self.table.read()
                ready = [cell for cell in left if self._is_ready(cell, rows)]
                if not ready:
                    waiting = left[0]
                    print(f"{len(left)} runs wait for others: {waiting.id} for the "
                          f"budget of {waiting.depends_on}")  # fmt: skip
                    return
                if not any(self._claim(cell, chosen) for cell in ready):
                    time.sleep(WAIT)  # all of them are with other processes
        except training.OutOfTime as stop:
            number = len(self._left(chosen))
            print(f"{stop}; {number} runs are left: the same command goes on there")

    def _left(self, chosen: Sequence[Cell]) -> list[Cell]:
        rows = self.table.read()
        return [cell for cell in chosen if not self.is_done(cell, rows)]

    def _claim(self, cell: Cell, chosen: Sequence[Cell]) -> bool:
        """Runs a cell unless another process does, or has."""
        # Beside the table: processes with other folders of checkpoints share it too.
        with records.locked(self.options.results / cell.id, wait=False) as mine:
            if not mine or self.is_done(cell, self.table.read()):
                return False
            self._run(cell)
            done = len(chosen) - len(self._left(chosen))
            row = self.table.read()[cell.id]
            parts = [f"[{done}/{len(chosen)}] {cell.id}"]
            if row["status"] == FINISHED:
                parts.append(f"sparsity {100 * float(row['sparsity']):.2f} %")
                parts.append(f"accuracy {float(row['accuracy']):.4f}")
                parts.append(f"{float(row['seconds']):.0f} s")
            else:
                parts.append(row["status"])
            tqdm.write("  ".join(parts))
            return True

    def _may_go_on(self, seconds: float) -> bool:
        """Whether an epoch that takes about `seconds` will be over in time."""
        if self.end is None:
            return True
        # The first epoch compiles, and after the last one comes a test.
        expected = 1.5 * (seconds or self.first_epoch)
        return time.monotonic() + expected < self.end

    def _run(self, cell: Cell) -> None:
        self.tried.add(cell.id)
        options, config = self.options, cell.config
        if cell.depends_on:
            budget = self._budget(self.cells[cell.depends_on])
            config = dataclasses.replace(config, budget=str(budget))
        folder = options.output / cell.id
        images = self._load(config.dataset, cell.limit)  # without it no cell can run
        other: Row = {}
        try:
            if cell.by_tfmot or cell.by_pquant:
                outcome, other = self._run_outside(cell)
            else:
                run = training.Run(
                    config,
                    images,
                    folder,
                    options.checkpoint_seconds,
                    self._may_go_on,
                )
                outcome = run.train(cell.id)
        except training.OutOfTime:
            raise
        except training.Diverged as error:
            self._add(cell, {"status": f"diverged: {cli.one_line(error)}"})
        except Exception as error:  # one run must not keep a night's others from theirs
            reason = f"{type(error).__name__}: {cli.one_line(error)}"
            self._add(cell, {"status": f"failed: {reason}"})
        else:
            self.first_epoch = max(self.first_epoch, outcome.slowest_epoch)
            self.whole_run = max(self.whole_run, outcome.seconds)
            self._write(cell, outcome, other)
        shutil.rmtree(folder, ignore_errors=True)

    def _run_outside(self, cell: Cell) -> tuple[training.Outcome, Row]:
        """Trains in a process that cannot be stopped half-way; what, and where."""
        if not self._may_go_on(self.whole_run):
            raise training.OutOfTime(f"{cell.id} would take too long")
        options = self.options
        shared: dict[str, Any] = {
            "data_dir": options.data_dir,
            "limit": cell.limit,
            "threads": options.threads,
        }
        if cell.by_tfmot:
            masked = cell.variant == TFMOT_MASKED
            row, weights = tfmot_twin.train_with_tfmot(
                cell.config, mask_gradients=masked, **shared
            )
        else:
            row, weights = pquant_twin.train_with_pquant(
                cell.config, cell.variant, dict(cell.knobs), **shared
            )
        where = {
            "backend": "tensorflow",
            "hardware": row["hardware"],
            "versions": records.join(row["versions"]),
        }
        return outside.to_outcome(cell.config, row, weights), where

    def _load(self, name: str, limit: int | None) -> arrays.ImageArrays:
        key = name, limit
        if key not in self.images:
            images = arrays.load(name, self.options.data_dir or None)
            self.images[key] = images if limit is None else images.limit(limit)
        return self.images[key]

    def _write(self, cell: Cell, outcome: training.Outcome, other: Row) -> None:
        """Budget and history first: whoever sees the row finds them.

        `other` is where another process computed, instead of this one.
        """
        outcome.summary.to_csv(self._budget(cell))
        if cell.config.method in LEARNED and cell.config.seed == 0:
            path = self.options.results / "history" / f"{cell.id}.csv"
            records.write_csv(path, HISTORY_COLUMNS, outcome.history)
        kernels = outcome.summary.kernels
        measured = {
            "s_init": outcome.config.s_init,
            "sparsity": f"{kernels.sparsity:.6f}",
            "nonzeros": kernels.nonzeros,
            "macs": kernels.macs,
            "sparse_macs": kernels.sparse_macs,
            "accuracy": f"{outcome.accuracy:.4f}",
            "seconds": outcome.seconds,
            "images_per_second": outcome.images_per_second,
            "status": FINISHED,
        }
        self._add(cell, measured | other)

    def _add(self, cell: Cell, measured: Row) -> None:
        config = cell.config
        said = {
            "id": cell.id,
            "suite": self.suite,
            "dataset": config.dataset,
            "architecture": config.architecture,
            "alpha": config.alpha if config.has_alpha else "",
            "method": cell.method,
            "level": cell.level,
            "seed": config.seed,
            "epochs": config.epochs,
            "batch": config.batch_size,
            "lr": config.lr,
            "weight_decay": config.weight_decay,
            "threshold_decay": config.threshold_decay,
            "command": shlex.join([*self.options.command, f"--only=^{cell.id}$"]),
            "settings": cell.settings,
        }
        empty = dict.fromkeys(records.COLUMNS)
        self.table.add(empty | said | self.environment | measured)
