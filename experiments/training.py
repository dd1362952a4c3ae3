"""One run on images in memory: a plain `fit`, epoch by epoch, on any Keras backend."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
from tqdm import tqdm

from experiments.arrays import NUM_CLASSES, ImageArrays
from str_keras import building, checkpoint, files
from str_keras.budget import Summary, measure_sparsity, summary
from str_keras.config import TrainConfig

TEST_BATCH = 500


class Diverged(Exception):
    """The loss is not finite; the message says where."""


class OutOfTime(Exception):
    """There is no time for another epoch; the run goes on from its checkpoint."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a finished run is.

    Args:
        config: As it was resolved.
        accuracy: On the test images, after the last epoch, in [0, 1].
        summary: Of the model.
        history: Sparsity and threshold by epoch and layer.
        seconds: Of all epochs, the first one's compilation with them.
        images_per_second: Of the median epoch.
        slowest_epoch: Its seconds: the first, which compiles.
    """

    config: TrainConfig
    accuracy: float
    summary: Summary
    history: list[dict[str, Any]]
    seconds: float
    images_per_second: float
    slowest_epoch: float


@dataclasses.dataclass
class _Log:
    """What a run keeps beside its checkpoint."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, path: pathlib.Path, epochs: int) -> _Log:
        """Of the first `epochs`: it may be ahead of the checkpoint."""
        log = cls(**json.loads(path.read_text(encoding="utf-8")))
        history = [row for row in log.history if row["epoch"] <= epochs]
        return cls(log.seconds[:epochs], history)

    def add(self, model: keras.Model, seconds: float) -> None:
        self.seconds.append(seconds)
        self.history += [
            {
                "epoch": len(self.seconds),
                "path": layer.path,
                "sparsity": layer.sparsity,
                "threshold": layer.threshold,
            }
            for layer in measure_sparsity(model)
        ]


class Run:
    """One run.

    Args:
        config: What to train; `xla` is chosen here, by the backend.
        images: What on.
        folder: For its checkpoint; removed at the end.
        checkpoint_seconds: Between two checkpoints. A run that is killed goes on from
            the last one; one that is shorter starts anew.
        may_go_on: Told the seconds that the next epoch will take about, says whether
            there is time for it.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: ImageArrays,
        folder: pathlib.Path,
        checkpoint_seconds: float = 60.0,
        may_go_on: Callable[[float], bool] = lambda seconds: True,
    ):
        self.steps = len(images.arrays["train_labels"]) // config.batch_size
        # Keras' JAX trainer compiles a step with XLA or not at all.
        xla = config.xla or keras.backend.backend() == "jax"
        config = dataclasses.replace(config, xla=xla)
        self.config = building.resolve(config, images.image_shape[0], self.steps)
        self.images, self.folder = images, folder
        self.checkpoint_seconds, self.may_go_on = checkpoint_seconds, may_go_on
        self.last, self.log_file = folder / "last.keras", folder / "log.json"
        self.previous = folder / "previous.keras"
        self.saved = time.monotonic()

    def _start(self) -> tuple[Any, _Log]:
        """A new model, or the last checkpoint, if it is of the same configuration."""
        keras.utils.clear_session(free_memory=True)
        keras.utils.set_random_seed(self.config.seed)
        wanted = self.folder / "config.json"
        # Of another backend a row would tell half the truth.
        here = {"backend": keras.backend.backend()}
        text = json.dumps(self.config.to_dict() | here)
        if wanted.is_file() and wanted.read_text(encoding="utf-8") == text:
            try:
                found = checkpoint.load_newest(self.last, self.previous)
            except checkpoint.DamagedError:  # said already; one run starts anew
                found = None
            if found is not None:
                model, progress = found
                return model, _Log.read(self.log_file, progress.epoch)
        shutil.rmtree(self.folder, ignore_errors=True)
        files.write_text(wanted, text)
        shape = self.images.image_shape
        return building.create(self.config, shape, NUM_CLASSES, self.steps), _Log()

    def train(self, title: str) -> Outcome:
        """Runs the epochs that are left, and tests.

        Args:
            title: Of the progress bar.

        Raises:
            Diverged: if the loss is not finite.
            OutOfTime: after a checkpoint.
        """
        model, log = self._start()
        done = len(log.seconds)
        if done:
            tqdm.write(f"{title} goes on after epoch {done}")
        bar = tqdm(total=self.config.epochs, initial=done, desc=title, disable=None)
        with bar:
            for epoch in range(done, self.config.epochs):
                if not self.may_go_on(max(log.seconds[-1:], default=0.0)):
                    self._save(model, log)
                    raise OutOfTime(f"{title} stopped after epoch {epoch}")
                loss = self._epoch(model, epoch, log)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()
        return self._finish(model, log)

    def _epoch(self, model: Any, epoch: int, log: _Log) -> float:
        started = time.perf_counter()
        ramp = building.create_ramp(self.config, self.steps)
        found = model.fit(
            self.images.train(self.config.seed, epoch, self.config.batch_size),
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,  # the order is that of the batches
            verbose=0,
            callbacks=[] if ramp is None else [ramp],
        )
        loss = float(found.history["loss"][-1])
        log.add(model, round(time.perf_counter() - started, 3))
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} in epoch {epoch + 1}")
        more = epoch + 1 < self.config.epochs
        if more and time.monotonic() - self.saved >= self.checkpoint_seconds:
            self._save(model, log)
        return loss

    def _save(self, model: Any, log: _Log) -> None:
        # The log first: it may be ahead of the checkpoint, never behind.
        files.write_text(self.log_file, json.dumps(dataclasses.asdict(log)))
        progress = checkpoint.Progress(len(log.seconds))
        checkpoint.save(model, self.last, progress, self.previous)
        self.saved = time.monotonic()

    def _finish(self, model: Any, log: _Log) -> Outcome:
        batches = self.images.test(TEST_BATCH)
        tested = model.evaluate(batches, verbose=0, return_dict=True)
        if not math.isfinite(tested["loss"]):
            raise Diverged(f"the test loss is {tested['loss']}")
        images = self.steps * self.config.batch_size
        return Outcome(
            config=self.config,
            accuracy=float(tested["accuracy"]),
            summary=summary(model),
            history=log.history,
            seconds=round(sum(log.seconds), 1),
            images_per_second=round(images / statistics.median(log.seconds), 1),
            slowest_epoch=max(log.seconds),
        )
