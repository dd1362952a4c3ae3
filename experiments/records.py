"""The tables of the experiments: a row per run, whole at any moment."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import importlib.metadata
import io
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from str_keras import files
from str_keras.processors import usable_cores
from str_keras.run_directory import git_revision, versions

COLUMNS = (
    "id",
    "suite",
    "dataset",
    "architecture",
    "alpha",
    "method",
    "level",
    "seed",
    "epochs",
    "batch",
    "lr",
    "weight_decay",
    "threshold_decay",
    "s_init",
    "sparsity",
    "nonzeros",
    "macs",
    "sparse_macs",
    "accuracy",
    "seconds",
    "images_per_second",
    "backend",
    "hardware",
    "versions",
    "git_revision",
    "command",
    "status",
    "settings",
)
FINISHED = "finished"
Row = dict[str, Any]

LOCKS = ".locks"


@contextlib.contextmanager
def locked(path: pathlib.Path, wait: bool = True) -> Iterator[bool]:
    """Holds the lock of a file's name; the system frees it when a process is killed.

    Args:
        path: Whose; the lock itself is in a hidden folder beside it.
        wait: Until it is free; else yields False where another process holds it.

    Yields:
        Whether it is held.
    """
    folder = path.parent / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / path.name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


class Table:
    """The CSV of a suite; several processes may add to it.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path

    def read(self) -> dict[str, Row]:
        """Rows by id, as text.

        Raises:
            ValueError: if the file has other columns.
        """
        if not self.path.is_file():
            return {}
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(
                "The table has not the columns of this program: move it away. "
                f"Received: {self.path}"
            )
        return {row["id"]: row for row in rows}

    def add(self, row: Row) -> None:
        """Adds a row, in the place of one of the same id; all of it or nothing."""
        with locked(self.path):
            rows = self.read() | {row["id"]: row}
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(
                [row[column] for column in COLUMNS] for row in rows.values()
            )
            files.write_text(self.path, text.getvalue())


def write_csv(
    path: pathlib.Path, columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Writes a table whole; floats with six digits, which keeps it small."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row[column] for column in columns)
        writer.writerow([f"{c:.6g}" if isinstance(c, float) else c for c in cells])
    files.write_text(path, text.getvalue())


def _processor() -> str:
    """The CPU's name; on Linux from the system, as Python knows none there."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return (names[0] if names else platform.processor() or platform.machine()).strip()


def _accelerator() -> str:
    """The name of the GPU (or TPU) that the backend computes on, or ""."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        device = jax.devices()[0]
        return "" if device.platform == "cpu" else device.device_kind
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(devices[0]) if devices else {}
    return details.get("device_name", "GPU" if devices else "")


def hardware(threads: int | None) -> str:
    """What the runs of this process compute on, in words.

    Args:
        threads: Threads that it was told to use; None for all.
    """
    name = _accelerator()
    if name:
        return name
    usable = usable_cores()
    return f"{_processor()}, {min(threads or usable, usable)} of {os.cpu_count()} cores"


def join(versions: Mapping[str, str]) -> str:
    """Versions by package as a cell of a table."""
    return " ".join(f"{name} {number}" for name, number in versions.items())


def environment(threads: int | None) -> Row:
    """The columns that say where a row comes from."""
    backend = keras.backend.backend()
    found = versions() | {backend: importlib.metadata.version(backend)}
    return {
        "backend": backend,
        "hardware": hardware(threads),
        "versions": join(found),
        # The tables themselves change with every run.
        "git_revision": git_revision(ignore=["experiments/results"]) or "",
    }
