"""What tells of a training that goes another way than it was told to."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from str_keras.forecasting import Forecast
from str_keras.internals import (
    batches_seen,
    iterations,
    read_state_before_step,
)
from str_keras.model import find_thresholded
from str_keras.monitoring import ModelCallback


class LossWatch(ModelCallback):
    """Finds the largest rise of the loss in the last tenth of a training.

    A cut to meet a target in the last minute would show there. The loss of single steps
    is noise, so means over a hundredth of the training are compared, one with the next.

    Args:
        steps: Of the whole training, in batches where a step takes several.
    """

    def __init__(self, steps: int):
        super().__init__()
        self.first = steps - steps // 10
        self.window = max(1, steps // 100)
        self.losses: list[float] = []
        self.step = 0
        self.mean, self.taken = 0.0, 0
        self.cut = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Finds the step; `fit` gives the mean loss of the epoch so far."""
        read_state_before_step(self.model)
        self.step = batches_seen(self.model)
        if not self.cut:
            self.mean, self.taken = 0.0, 0
        self.cut, self.before = False, self.taken

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Takes the loss of the step out of the mean."""
        mean = float((logs or {}).get("loss", 0.0))
        taken = self.before + self.taken_until(batch)
        steps = taken - self.taken
        loss = (mean * taken - self.mean * self.taken) / max(steps, 1)
        self.mean, self.taken = mean, taken
        self.step += steps
        if self.step > self.first:
            self.losses += [loss] * steps

    def state(self) -> dict[str, Any]:
        """What it has seen, as JSON takes it."""
        return {"losses": self.losses, "mean": self.mean, "taken": self.taken}

    def restore(self, state: dict[str, Any], cut: bool) -> None:
        """Goes on from what another has seen.

        Args:
            state: As `state` gave it.
            cut: Whether inside of an epoch, whose mean then goes on too.
        """
        self.losses = list(state["losses"])
        self.mean, self.taken, self.cut = state["mean"], state["taken"], cut

    @property
    def largest_rise(self) -> float | None:
        """Of the mean loss from one window to the next; None before there are two."""
        number = len(self.losses) // self.window
        if number < 2:
            return None
        windows = np.reshape(self.losses[-number * self.window :], (number, -1))
        return float(np.diff(windows.mean(1)).max())


class DriftAlarm(ModelCallback):
    """Says so, once, when the thresholds leave the forecast before they prune.

    While g(s) is far below the weights decay alone moves s, exactly as forecast; if it
    does not, another optimizer, schedule or length is at work than was forecast.

    Args:
        forecast: Of the training.
        model: Its model, with learned thresholds and no target.
    """

    TOLERANCE = 0.02

    def __init__(self, forecast: Forecast, model: Any):
        super().__init__()
        self.forecast = forecast
        self.logits = {id(t.logit): t.logit for t in find_thresholded(model)}
        self.rang = False

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compares."""
        read_state_before_step(self.model)
        step = iterations(self.model)
        active = self.forecast.active_step
        quiet = step < (self.forecast.steps if active is None else active)
        if self.rang or not quiet or step >= len(self.forecast.logits):
            return
        wanted = float(self.forecast.logits[step])
        for logit in self.logits.values():
            found = np.asarray(keras.ops.convert_to_numpy(logit))
            off = np.abs(found - wanted).max()
            if off > self.TOLERANCE * max(abs(wanted), 1.0):
                self.rang = True
                tqdm.write(
                    f"warning: at step {step} {logit.path} is {found.flat[0]:.4g}, the "
                    f"forecast was {wanted:.4g}: thresholds do not move as forecast, "
                    "so the sparsity will be another. Is this the optimizer, the "
                    "schedule and the length that was forecast?",
                    file=sys.stderr,
                )
                return
