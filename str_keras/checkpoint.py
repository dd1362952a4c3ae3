"""A checkpoint is a .keras file that also says how far the training is.

Its last bytes, the comment of the zip archive, are a checksum of all bytes before: file
and checksum are one, so that no kill comes between them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import zipfile
from typing import Any

import keras
from tqdm import tqdm

from str_keras.files import written_aside

_MEMBER = "str_keras_progress.json"
_MARK = b"sha256:"
_DIGITS = 64
_CHUNK = 1 << 20


class DamagedError(ValueError):
    """A file whose bytes are not those that were written."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training is.

    Args:
        epoch: Finished epochs.
        step: Finished steps of the epoch that is under way.
        state: What else goes on, as JSON takes it: of metrics and what watches.
    """

    epoch: int
    step: int = 0
    state: dict[str, Any] = dataclasses.field(default_factory=dict)


def save(
    model: keras.Model,
    path: str | os.PathLike[str],
    progress: Progress,
    previous: str | os.PathLike[str] | None = None,
) -> None:
    """Writes model, optimizer and progress as one file, whole or not at all.

    Steps that loss scaling skips do not count in `optimizer.iterations`, so the
    position in the data is kept beside it, in the same archive.

    Args:
        model: Compiled.
        path: The file.
        progress: How far it is.
        previous: Where the file that was at `path` goes; None: it is replaced.

    Raises:
        OSError: if it cannot be written; what was at `path` stays.
    """
    with written_aside(path) as aside:
        model.save(aside)
        with zipfile.ZipFile(aside, "a") as archive:
            archive.writestr(_MEMBER, json.dumps(dataclasses.asdict(progress)))
            archive.comment = _MARK + b"0" * _DIGITS
        digest = _digest(aside)
        with aside.open("r+b") as file:
            file.seek(-_DIGITS, os.SEEK_END)
            file.write(digest)
        if previous is not None:
            _keep(pathlib.Path(path), pathlib.Path(previous))


def _keep(path: pathlib.Path, previous: pathlib.Path) -> None:
    """Gives a file a second name: at no moment is there none at `path`."""
    if not path.is_file():
        return
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # a file system without hard links: for a moment only `previous`
        path.replace(previous)


def _digest(path: str | os.PathLike[str]) -> bytes:
    """SHA-256, in hexadecimal digits, of a file without as many bytes at its end."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        left = file.seek(0, os.SEEK_END) - _DIGITS
        file.seek(0)
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            found.update(chunk)
            left -= len(chunk)
    return found.hexdigest().encode()


def _read_checksum(path: str | os.PathLike[str]) -> bytes | None:
    """The checksum that a file ends with; None without one."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(_MARK) - _DIGITS))
        tail = file.read()
    return tail.removeprefix(_MARK) if tail.startswith(_MARK) else None


def check(path: str | os.PathLike[str]) -> None:
    """Checks that a file is whole, as far as it says: only `save` adds a checksum.

    Raises:
        DamagedError: if it is cut short, or its bytes are others than were written.
    """
    if not zipfile.is_zipfile(path):
        raise DamagedError(
            "The model is no .keras file, or a truncated one: save it again. "
            f"Received: model={path}"
        )
    checksum = _read_checksum(path)
    if checksum is not None and checksum != _digest(path):
        raise DamagedError(
            "The file is damaged, its bytes do not have the checksum that was written "
            f"with them: take another checkpoint. Received: model={path}"
        )


def _check_is_there(path: str | os.PathLike[str]) -> None:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no such model. Received: model={path}")


def load_model(path: str | os.PathLike[str], compile: bool = False) -> Any:
    """Loads a .keras file: sparsified, hand-wrapped or plain.

    Args:
        path: The file.
        compile: Restore optimizer, loss and metrics too.

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if it is no whole file.
        ValueError: if it is no model that Keras can load, with the reason.
    """
    _check_is_there(path)
    check(path)
    try:
        return keras.saving.load_model(path, compile=compile)
    except Exception as error:  # Keras raises whatever the damage leads to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(
            f"Keras cannot load the model: {reason} Received: model={path}"
        ) from error


def load(path: str | os.PathLike[str]) -> tuple[keras.Model, Progress]:
    """Loads what `save` wrote, compiled, its optimizer as it was.

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if it is not what was written, or has no checksum.
        ValueError: if it has no progress in it, or Keras cannot load it.
    """
    _check_is_there(path)
    if _read_checksum(path) is None:
        raise DamagedError(
            "The file holds no training to go on with, or is damaged: it does not end "
            f"with a checksum. Received: {path}"
        )
    # Open already: of several processes that load it, one may rename it meanwhile.
    with open(path, "rb") as file:
        model = load_model(path, compile=True)
        try:
            with zipfile.ZipFile(file) as archive:
                progress = Progress(**json.loads(archive.read(_MEMBER)))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                "The file holds a model but no training to go on with. "
                f"Received: {path}"
            ) from error
    return model, progress


def load_newest(
    last: pathlib.Path, previous: pathlib.Path, writes: bool = True
) -> tuple[Any, Progress] | None:
    """Loads `last`, or if that is damaged or missing `previous`, and says so.

    `previous` is then renamed to `last`: the next `save` would else keep the damaged
    file in the place of the good one.

    Args:
        last: The newest checkpoint.
        previous: The one before.
        writes: Whether this process may rename: one of several that load it together.

    Returns:
        Model and progress; None if there is neither file.

    Raises:
        DamagedError: if no file that is there is whole.
        ValueError: if Keras cannot load one that is whole.
    """
    problem = None
    for path in (last, previous):
        if not path.is_file():
            continue
        try:
            model, progress = load(path)
        except DamagedError as error:
            problem = error
            tqdm.write(f"warning: {error}", file=sys.stderr)
            continue
        if path == previous:
            steps = f" and {progress.step} steps" if progress.step else ""
            tqdm.write(
                f"warning: going on from the checkpoint before, {previous.name}, after "
                f"epoch {progress.epoch}{steps}",
                file=sys.stderr,
            )
            if writes:
                previous.replace(last)
        return model, progress
    if problem is None:
        return None
    raise DamagedError(
        "No checkpoint of the run is whole, so there is nothing to go on from: start "
        f"another run. Received: {last}"
    ) from problem
