"""What another library trains, in a process of its own: its start and its results."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from str_keras.config import TrainConfig

if TYPE_CHECKING:
    from experiments.training import Outcome

CHECKOUT = pathlib.Path(__file__).parents[1]
NOT_FINITE = "The loss is not finite"
"""How the error of a training that diverged begins."""


def start(
    library: str,
    command: list[str],
    threads: int | None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Runs a program of the experiments to its end.

    Args:
        library: Its name in errors.
        command: Words.
        threads: CPU threads of TensorFlow; None for all.
        variables: More of the environment.

    Raises:
        training.Diverged: if its loss is not finite.
        RuntimeError: if it fails otherwise, with its error or last line.
    """
    from experiments.training import Diverged

    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", **(variables or {})}
    if threads is not None:
        for kind in ("INTRAOP", "INTEROP"):
            environment[f"TF_NUM_{kind}_THREADS"] = str(threads)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=CHECKOUT
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        # TensorFlow may log after our own line, which ends a failure that has one.
        own = [line for line in lines if line.startswith("error: ")]
        line = (own or lines)[-1]
        if NOT_FINITE in line:
            raise Diverged(f"{library}: {line.removeprefix('error: ')}")
        raise RuntimeError(f"Training with {library} failed: {line}")


def read_weights(path: str | os.PathLike[str]) -> list[np.ndarray]:
    """Arrays of an .npz in their order."""
    with np.load(path) as archive:
        return [archive[name] for name in archive.files]


def to_outcome(
    config: TrainConfig, row: dict[str, Any], weights: list[np.ndarray]
) -> Outcome:
    """What such a process returned, as the runner writes it to its tables.

    Args:
        config: What was trained.
        row: Its row: `accuracy`, `seconds` of each epoch, `images_per_second`.
        weights: Its final weights, those of the Keras 3 net.
    """
    from experiments import small_nets
    from experiments.arrays import NUM_CLASSES, SIDE
    from experiments.training import Outcome
    from str_keras import building
    from str_keras.budget import summary

    small_nets.register()
    channels = weights[0].shape[2]
    config = building.resolve(config, SIDE, 1)
    model = building.create_dense(config, (SIDE, SIDE, channels), NUM_CLASSES)
    model.set_weights(weights)
    return Outcome(
        config=config,
        accuracy=row["accuracy"],
        summary=summary(model),
        history=[],
        seconds=round(sum(row["seconds"]), 1),
        images_per_second=row["images_per_second"],
        slowest_epoch=max(row["seconds"]),
    )
