"""Learning-rate schedules of the paper's recipe, and the checks of their numbers."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["WarmupCosine", "WarmupSteps", "create", "evaluate"]

Tensor = Any

SCHEDULES = ("constant", "cosine", "step")

STEP_SHARES = (0.3, 0.6, 0.9)
"""Where `step` lowers the rate unless told: epochs 30, 60 and 90 of 100."""

_SAMPLES = 101
_TOLERANCE = 1e-3


def check_number(name: str, value: Any, below: float = math.inf) -> float:
    """Returns `value` as a float.

    Args:
        name: The argument's name, for the message.
        value: What the user passed.
        below: Exclusive upper limit.

    Raises:
        ValueError: if it is not a finite number in [0, below).
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 0.0 <= float(value) < below:
        limit = "finite" if below == math.inf else f"below {below:g}"
        raise ValueError(
            f"`{name}` must be a number, 0 or more and {limit}. "
            f"Received: {name}={value!r}"
        )
    return float(value)


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """Returns `value` as an int.

    Args:
        name: The argument's name, for the message.
        value: What the user passed.
        minimum: Inclusive lower limit.

    Raises:
        ValueError: if it is not an integer of at least `minimum`.
    """
    integer = isinstance(value, Integral) and not isinstance(value, bool)
    if not integer or int(value) < minimum:
        raise ValueError(
            f"`{name}` must be an integer, {minimum} or more. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def _float32(tensor: Tensor) -> Tensor:
    return ops.cast(tensor, "float32")


class _Warmup(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up to `peak`, then what the subclass says.

    Position counts epochs (constant inside an epoch) or, with `per_epoch=False`,
    steps: one formula serves both.
    """

    def __init__(
        self,
        peak: float,
        steps_per_epoch: int,
        epochs: int,
        warmup_epochs: int,
        per_epoch: bool,
    ):
        self.peak = check_number("peak", peak)
        self.steps_per_epoch = check_count("steps_per_epoch", steps_per_epoch)
        self.epochs = check_count("epochs", epochs)
        self.warmup_epochs = check_count("warmup_epochs", warmup_epochs, minimum=0)
        if self.epochs < self.warmup_epochs:
            raise ValueError(
                "The warm-up is longer than the training: lower `warmup_epochs`. "
                f"Received: epochs={epochs}, warmup_epochs={warmup_epochs}"
            )
        self.per_epoch = bool(per_epoch)
        self._unit = 1 if self.per_epoch else self.steps_per_epoch

    def __call__(self, step: Tensor) -> Tensor:
        """Returns the learning rate of a step, float32 and of the step's shape.

        Args:
            step: Integer tensor or array, counted from 0; any shape.
        """
        position = self._position(step)
        warmup = self.warmup_epochs * self._unit
        after = self._after_warmup(position)
        if warmup == 0:
            return after
        rising = self.peak / warmup * _float32(position + 1)
        return ops.where(position < warmup, rising, after)

    def _position(self, step: Tensor) -> Tensor:
        # In integers: float32 cannot tell steps apart beyond 2 ** 24.
        steps = self.steps_per_epoch // self._unit
        return ops.floor_divide(ops.convert_to_tensor(step), steps)

    def _after_warmup(self, position: Tensor) -> Tensor:
        # Abstract: what follows the warm-up is what the subclasses differ in.
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "peak": self.peak,
            "steps_per_epoch": self.steps_per_epoch,
            "epochs": self.epochs,
            "warmup_epochs": self.warmup_epochs,
            "per_epoch": self.per_epoch,
        }


@keras.saving.register_keras_serializable("str_keras")
class WarmupCosine(_Warmup):
    """Linear warm-up, then a half cosine down to zero: the paper's ImageNet recipe.

    In epoch e (from 0), with w warm-up epochs of n: `peak (e + 1) / w` while e < w,
    then `peak / 2 (1 + cos(pi (e - w) / (n - w)))`; 0 from epoch n on. With
    `per_epoch=False` the same in steps.

    Args:
        peak: Highest learning rate.
        steps_per_epoch: Optimizer steps in one epoch.
        epochs: Length n of the training.
        warmup_epochs: Length w of the warm-up; 0 for none.
        per_epoch: Constant inside an epoch, as in the recipe; else smooth.

    Raises:
        ValueError: for a rate that is negative or not finite, a count that is not a
            positive integer, or a warm-up longer than the training.

    Source: Kusupati et al. 2020, training code (peak 0.256, 5 of 100 epochs).
    """

    def __init__(
        self,
        peak: float,
        steps_per_epoch: int,
        epochs: int,
        warmup_epochs: int = 5,
        per_epoch: bool = True,
    ):
        super().__init__(peak, steps_per_epoch, epochs, warmup_epochs, per_epoch)

    def _after_warmup(self, position: Tensor) -> Tensor:
        total = self.epochs * self._unit
        length = max(total - self.warmup_epochs * self._unit, 1)
        left = _float32(ops.clip(total - position, 0, length)) / length
        # (1 + cos(pi - x)) / 2 = sin(x / 2) ** 2, which does not cancel near the end.
        return ops.multiply(ops.square(ops.sin(math.pi / 2 * left)), self.peak)


@keras.saving.register_keras_serializable("str_keras")
class WarmupSteps(_Warmup):
    """Linear warm-up, then a constant rate, times `factor` at each milestone.

    Args:
        peak: Highest learning rate.
        steps_per_epoch: Optimizer steps in one epoch.
        epochs: Length of the training.
        warmup_epochs: Length of the warm-up; 0 for none.
        per_epoch: The warm-up is constant inside an epoch; else smooth.
        milestones: Epochs (from 0) at whose start the rate is lowered; none: constant.
        factor: By what it is multiplied, in [0, 1).

    Raises:
        ValueError: as `WarmupCosine`, and for milestones that do not rise.
    """

    def __init__(
        self,
        peak: float,
        steps_per_epoch: int,
        epochs: int,
        warmup_epochs: int = 5,
        per_epoch: bool = True,
        milestones: Sequence[int] = (),
        factor: float = 0.1,
    ):
        super().__init__(peak, steps_per_epoch, epochs, warmup_epochs, per_epoch)
        self.milestones = [check_count("milestones", m) for m in milestones]
        if sorted(set(self.milestones)) != self.milestones:
            raise ValueError(
                f"`milestones` must be rising epochs. Received: {milestones=}"
            )
        self.factor = check_number("factor", factor, below=1.0)

    def _after_warmup(self, position: Tensor) -> Tensor:
        rate = ops.full_like(position, self.peak, dtype="float32")
        for milestone in self.milestones:
            passed = position >= milestone * self._unit
            rate = ops.where(passed, ops.multiply(rate, self.factor), rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        config = super().get_config()
        return {**config, "milestones": self.milestones, "factor": self.factor}


def create(
    name: str,
    peak: float,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: int = 5,
    per_epoch: bool = True,
    milestones: Sequence[int] | None = None,
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Makes the schedule of a name, as a flag gives it.

    Args:
        name: "cosine", "constant", or "step" (a tenth at each milestone).
        peak: Highest learning rate.
        steps_per_epoch: Optimizer steps in one epoch.
        epochs: Length of the training.
        warmup_epochs: Length of the warm-up; 0 for none.
        per_epoch: Constant inside an epoch; else smooth.
        milestones: For "step", in epochs; 30, 60 and 90 % of the training if None.

    Raises:
        ValueError: for an unknown name, milestones for another schedule, or what the
            schedule itself refuses.
    """
    if name not in SCHEDULES:
        raise ValueError(
            f"Unknown schedule: choose one of {', '.join(SCHEDULES)}. "
            f"Received: schedule={name!r}"
        )
    if milestones is not None and name != "step":
        raise ValueError(
            'Only the schedule "step" has milestones. '
            f"Received: schedule={name!r}, milestones={list(milestones)}"
        )
    arguments = (peak, steps_per_epoch, epochs, warmup_epochs, per_epoch)
    if name == "cosine":
        return WarmupCosine(*arguments)
    if name == "constant":
        return WarmupSteps(*arguments)
    if milestones is None:
        count = check_count("epochs", epochs)
        milestones = sorted({max(1, round(share * count)) for share in STEP_SHARES})
    return WarmupSteps(*arguments, milestones=milestones)


def evaluate(schedule: Callable[[Any], Tensor], steps: int) -> np.ndarray:
    """Returns the learning rate of steps 0 to `steps - 1`, float64 `(steps,)`.

    Our schedules take all steps at once. One that does not is mapped over them or,
    where the backend cannot, sampled and interpolated (to 1e-3, jumps exactly).

    Args:
        schedule: Any `LearningRateSchedule`.
        steps: How many.
    """
    every = np.arange(steps, dtype="int32")
    for read in (schedule, functools.partial(ops.vectorized_map, schedule)):
        try:
            rates = _float64(read(ops.convert_to_tensor(every)))
        except Exception:  # of any kind, by backend: a condition on the step
            continue
        if rates.shape == every.shape:
            return rates
    return _sample(lambda step: _float64(schedule(step)).item(), steps)


def _sample(read: Callable[[int], float], steps: int) -> np.ndarray:
    """Halves each span until its middle is on the chord; so jumps are found exactly."""
    read = functools.cache(read)
    ends = np.unique(np.linspace(0, steps - 1, _SAMPLES).astype(int)).tolist()
    rates = np.full(steps, read(0))
    spans = list(itertools.pairwise(ends))
    while spans:
        first, last = spans.pop()
        chord = np.linspace(read(first), read(last), last - first + 1)
        rates[first : last + 1] = chord
        middle = (first + last) // 2
        missed = abs(read(middle) - chord[middle - first])
        if missed > _TOLERANCE * abs(chord).max():
            spans += [(first, middle), (middle, last)]
    return rates


def _float64(tensor: Tensor) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor), "float64")
