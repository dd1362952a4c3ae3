"""The files of a run: configuration, tables, checkpoints."""

from __future__ import annotations

import contextlib
import csv
import datetime
import errno
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from str_keras import files
from str_keras.budget import KernelSparsity
from str_keras.config import TrainConfig
from str_keras.config_files import from_dict, read
from str_keras.locking import locked

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
_ASIDE = re.compile(r"\.\w+\.\w{8}\.(keras|csv|json)")
"""What a killed run leaves of a file that it was writing."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
        Arguments of `data.load`: name, data_dir, image_size, channels and
        corrupt_images; none of them if there is no such file, or it is of another
        program.
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
        "corrupt_images": values.get("corrupt_images") or "error",
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

    Attributes:
        writes: Whether this process writes: of several that train together, one does.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self.writes = True
        self.last = self.path / "last.keras"
        self.previous = self.path / "previous.keras"
        self.best = self.path / "best.keras"
        self.events = self.path / "events"
        self.metrics: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []

    def check_free(self) -> None:
        """Checks that a run can start here, if this process writes it.

        What a run leaves that is killed before its config.json is there does not count.

        Raises:
            OSError: if the folder holds anything, is a file, or cannot be written to.
        """
        path = self.path
        if not self.writes:
            return
        if path.exists() and (
            not path.is_dir() or any(p.name[0] != "." for p in path.iterdir())
        ):
            raise FileExistsError(
                "The run directory exists: go on with --resume, or name another. "
                f"Received: run_dir={path}"
            )
        while not path.exists():
            path = path.parent
        if not path.is_dir():
            raise NotADirectoryError(
                f"The run directory cannot be made: {path} is a file. Name another. "
                f"Received: run_dir={self.path}"
            )
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(
                f"The run directory cannot be made: there is no permission to write to "
                f"{path}. Allow it, or name another. Received: run_dir={self.path}"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder, keeps other runs out of it, and sweeps it.

        If it did not exist and nothing was written, it is removed at the end. A process
        that does not write leaves all of this to the one that does.

        Raises:
            BlockingIOError: if another process is at work in it.
            OSError: if it cannot be made or written.
        """
        if not self.writes:
            yield
            return
        with contextlib.ExitStack() as held:
            if not self.path.exists():
                held.callback(self._remove_if_empty)
            with self.writing("The run directory"):
                self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.path))
                for path in self.path.glob(".*"):
                    if _ASIDE.fullmatch(path.name):
                        path.unlink()
            yield

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def writing(self, what: str) -> Iterator[None]:
        """Explains a disk that is full, or may not be written to.

        Args:
            what: Is written inside the block.

        Raises:
            OSError: with the mend, and what there is to go on from.
        """
        try:
            yield
        except BlockingIOError:
            raise
        except OSError as error:
            mend = "Make room" if error.errno in _FULL else "See to it that it can"
            why = error.strerror or str(error)
            raise OSError(
                f"{what} cannot be written: {why}. {mend}; {self.means_to_go_on()}. "
                f"Received: run_dir={self.path}"
            ) from error

    def means_to_go_on(self) -> str:
        """What there is after a failure, as a clause of its message."""
        if self.last.is_file():
            return "--resume goes on from the last checkpoint, which is whole"
        return "there is no checkpoint yet"

    def create(self, config: TrainConfig, command: str, data: dict[str, str]) -> None:
        """Writes config.json.

        Args:
            config: Of the run.
            command: Command line, for the record.
            data: What tells the data set from others.

        Raises:
            OSError: if it cannot be written, or there is a run already.
        """
        if not self.writes:
            return
        self.check_free()
        record = {
            "config": config.to_dict(),
            "command": command,
            "data": data,
            "versions": versions(),
            "git_revision": git_revision(),
            "started": datetime.datetime.now(datetime.UTC).isoformat(
                timespec="seconds"
            ),
        }
        text = json.dumps(record, indent=1) + "\n"
        with self.writing("config.json"):
            files.write_text(self.path / "config.json", text)

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

    def check_data(self, data: dict[str, str]) -> None:
        """Checks that the data set is the one that the run was started with.

        Args:
            data: What tells it from others, as `create` was given it.

        Raises:
            ValueError: if it is another; names what changed.
        """
        record = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        was = record.get("data") or {}
        changed = [
            f"{part}: {data.get(part, 'nothing')} (was {was.get(part, 'nothing')})"
            for part in {**was, **data}
            if data.get(part) != was.get(part)
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise ValueError(
                "The data set is not the one that this run was started with: put that "
                "back, or start another run. Received: "
                f"{'; '.join(changed[:3])}{more}"
            )

    def read_tables(self, epochs: int) -> None:
        """Reads metrics.csv and layers.csv, of the first `epochs` epochs.

        A run that was killed between table and checkpoint has a line too many.

        Raises:
            ValueError: if a table is damaged, or lines are missing.
        """
        self.metrics = self._read("metrics.csv", epochs)
        self.layers = self._read("layers.csv", epochs)
        found = [row["epoch"] for row in self.metrics]
        if found != list(range(1, epochs + 1)):
            raise ValueError(
                f"The checkpoint is of epoch {epochs}, but metrics.csv does not have a "
                "line of each until there: put the table back, or start another run. "
                f"Received: run_dir={self.path}"
            )

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
        if not self.writes:
            return
        with self.writing("The table"):
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
