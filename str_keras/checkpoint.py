"""A checkpoint is a .keras file that also says how far the training is."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from typing import Any

import keras

from str_keras.files import written_aside

_MEMBER = "str_keras_progress.json"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training is.

    Args:
        epoch: Finished epochs.
        step: Finished steps of the epoch that is under way.
    """

    epoch: int
    step: int = 0


def save(model: keras.Model, path: str | os.PathLike[str], progress: Progress) -> None:
    """Writes model, optimizer and progress as one file, whole or not at all.

    Steps that loss scaling skips do not count in `optimizer.iterations`, so the
    position in the data is kept beside it, in the same archive.
    """
    with written_aside(path) as aside:
        model.save(aside)
        with zipfile.ZipFile(aside, "a") as archive:
            archive.writestr(_MEMBER, json.dumps(dataclasses.asdict(progress)))


def load_model(path: str | os.PathLike[str], compile: bool = False) -> Any:
    """Loads a .keras file: sparsified, hand-wrapped or plain.

    Args:
        path: The file.
        compile: Restore optimizer, loss and metrics too.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no model that Keras can load, with the reason.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no such model. Received: model={path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            "The model is no .keras file, or a truncated one: save it again. "
            f"Received: model={path}"
        )
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
        ValueError: if it is damaged, or has no progress in it.
    """
    model = load_model(path, compile=True)
    try:
        with zipfile.ZipFile(path) as archive:
            progress = Progress(**json.loads(archive.read(_MEMBER)))
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(
            f"The file holds a model but no training to go on with. Received: {path}"
        ) from error
    return model, progress
