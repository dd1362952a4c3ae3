"""The files of a run: configuration, tables, checkpoints."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from str_keras import files
from str_keras.budget import KernelSparsity
from str_keras.config import TrainConfig
from str_keras.config_files import from_dict, read

METRICS = (
    "epoch",
    "step",
    "learning_rate",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "sparsity",
    "seconds",
    "images_per_second",
)
LAYERS = ("epoch", "path", "sparsity", "threshold")
NEAR_FULL_SPARSITY = 0.005
"""best.keras is the most accurate epoch within so much of the sparsity reached."""
_PACKAGES = ("str_keras", "keras", "tensorflow", "tensorflow-datasets", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # str_keras itself, run from a checkout that is not installed
    return found


def git_revision(ignore: Sequence[str] = ()) -> str | None:
    """Commit of the checkout that the package lies in, "-dirty" if changed; or None.

    Args:
        ignore: Paths, from the checkout's root, whose changes do not count.
    """
    paths = [":/", *(f":(exclude,top){path}" for path in ignore)]
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *paths)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + "-dirty" * bool(changed)


def _git(*arguments: str) -> str:
    """What a git command prints of the checkout."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


def best_epoch(metrics: Sequence[Mapping[str, Any]]) -> int | None:
    """Index of the epoch that best.keras holds, or None.

    An early epoch is accurate because it is dense still. So an evaluated epoch becomes
    the best if it is within `NEAR_FULL_SPARSITY` of the sparsity reached so far, and
    more accurate than the best before it, unless that one is no longer within.

    Args:
        metrics: Rows of metrics.csv, by column; numbers, "" or None where not measured.
    """
    best: int | None = None
    reached = 0.0
    for i, row in enumerate(metrics):
        reached = max(reached, row["sparsity"])
        floor = reached - NEAR_FULL_SPARSITY
        if row.get("val_accuracy") in ("", None) or row["sparsity"] < floor:
            continue
        held: Mapping[str, Any] | None = None if best is None else metrics[best]
        if (
            held is None
            or held["sparsity"] < floor
            or row["val_accuracy"] > held["val_accuracy"]
        ):
            best = i
    return best


def dataset_of_run(model: str | os.PathLike[str]) -> dict[str, Any]:
    """The data set that a run's model was trained on, by the config.json beside it.

    Returns:
        Arguments of `data.load`: name, data_dir, image_size and channels; none of them
        if there is no such file, or it is of another program.
    """
    path = pathlib.Path(model).parent / "config.json"
    if not path.is_file():
        return {}
    try:
        values = read(path)
    except ValueError:
        return {}
    if not isinstance(values.get("dataset"), str):
        return {}
    return {
        "name": values["dataset"],
        "data_dir": values.get("data_dir") or None,
        "image_size": values.get("image_size") or None,
        "channels": values.get("channels") or None,
    }


def _number(cell: str) -> int | float | str:
    """A cell as it was before it was written; an empty one stays empty."""
    if not cell:
        return cell
    return int(cell) if cell.isdigit() else float(cell)


class RunDirectory:
    """Reads and writes the files of one run; each file is whole at any moment.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self.last = self.path / "last.keras"
        self.previous = self.path / "previous.keras"
        self.best = self.path / "best.keras"
        self.events = self.path / "events"
        self.metrics: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []

    def check_free(self) -> None:
        """Raises a FileExistsError if the folder holds anything, or is a file."""
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise FileExistsError(
                "The run directory exists: go on with --resume, or name another. "
                f"Received: run_dir={self.path}"
            )

    def create(self, config: TrainConfig, command: str) -> None:
        """Makes the folder and its config.json.

        Raises:
            OSError: if it cannot be made or written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        record = {
            "config": config.to_dict(),
            "command": command,
            "versions": versions(),
            "git_revision": git_revision(),
            "started": datetime.datetime.now(datetime.UTC).isoformat(
                timespec="seconds"
            ),
        }
        files.write_text(self.path / "config.json", json.dumps(record, indent=1) + "\n")

    def read_config(self) -> TrainConfig:
        """The configuration that the run was started with.

        Raises:
            FileNotFoundError: if there is no run.
            ValueError: if its file is damaged.
        """
        path = self.path / "config.json"
        if not path.is_file():
            raise FileNotFoundError(
                "There is no run to resume: config.json is missing. "
                f"Received: run_dir={self.path}"
            )
        return from_dict(read(path), str(path))

    def read_tables(self, epochs: int) -> None:
        """Reads metrics.csv and layers.csv, of the first `epochs` epochs.

        A run that was killed between table and checkpoint has a line too many.
        """
        self.metrics = self._read("metrics.csv", epochs)
        self.layers = self._read("layers.csv", epochs)

    def _read(self, name: str, epochs: int) -> list[dict[str, Any]]:
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            try:
                rows = [
                    {k: v if k == "path" else _number(v) for k, v in row.items()}
                    for row in csv.DictReader(file)
                ]
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{path} is damaged: {error}") from error
        return [row for row in rows if int(row["epoch"]) <= epochs]

    def add_epoch(self, metrics: dict[str, Any], layers: list[KernelSparsity]) -> None:
        """Adds the line of an epoch to metrics.csv and its layers to layers.csv."""
        self.metrics.append(metrics)
        self.layers += [
            {
                "epoch": metrics["epoch"],
                "path": layer.path,
                "sparsity": layer.sparsity,
                "threshold": layer.threshold,
            }
            for layer in layers
        ]
        self._write("metrics.csv", METRICS, self.metrics)
        self._write("layers.csv", LAYERS, self.layers)

    def _write(
        self, name: str, columns: tuple[str, ...], rows: list[dict[str, Any]]
    ) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(self.path / name, text.getvalue())
