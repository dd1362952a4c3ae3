"""The ramp along which a training leads the thresholds of a model."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from str_keras.budget.counting import measure_sparsity
from str_keras.internals import iterations, read_state_before_step
from str_keras.solving import Loop
from str_keras.thresholds import ops

RAMP_SHARES = (0.1, 0.7)
"""Where a ramp begins and ends unless model or user says, as shares of the training."""

CHANGES = 500
"""Changes of the thresholds in a training at most, unless `frequency` says another."""


def cubic(x: float) -> float:
    """`1 - (1 - x)^3`, held at its ends: the ramp of Zhu and Gupta 2017, equation 1."""
    return 1 - (1 - min(max(x, 0.0), 1.0)) ** 3


@dataclasses.dataclass(frozen=True)
class Change:
    """One move of the thresholds.

    Args:
        step: The optimizer's, before which it came.
        reached: Share of the way from dense to the target.
        kept: Weights kept over all kernels.
        cost: In weights, MACs or bytes, by the kind of the target.
        limit: What the ramp asked for.
    """

    step: int
    reached: float
    kept: int
    cost: float
    limit: float


class SparsityRamp(keras.callbacks.Callback):
    """Leads the thresholds of a model along a cubic ramp to its target or rates.

    At a share x of the way from `begin` to `end`, `1 - (1 - x)^3` of the way from dense
    to the target is gone; nothing is pruned before `begin`, and from `end` on the
    target is held. Steps are those of `optimizer.iterations`, and what the ramp sets
    are weights of the model, so a training that goes on finds its place. `fit` adds
    one by itself to a model with a target; name it to choose its ends. A model that is
    compiled anew starts at step 0, and so anew from dense: `SparsityRamp(0, 0)` holds
    the target, `stk.freeze_mask` the zeros where they are.

    Args:
        begin: First step of the ramp; None: as the model's preset says, else after
            10 % of the training.
        end: Step at which the target is reached; equal to `begin`: all at once. None:
            as the preset says, else after 70 % of the training.
        frequency: Steps between two changes; None: so that there are 500 at most.
        steps: Length of the whole training in steps, which annealed backward rules and
            scheduled thresholds follow; None: as `fit` is told.

    Attributes:
        changes: A `Change` of a model with a target for each move.
        is_cut: Tells at the end of an epoch whether it was cut short and will go on;
            the thresholds then stay as they were inside of it.

    Warns:
        RuntimeWarning: if a training ends before its ramp, or cannot follow it.

    Raises:
        ValueError: if `begin` is negative, `end` before it, or `frequency` below 1.

    Source: Zhu and Gupta 2017, equation 1.
    """

    model: Any

    def __init__(
        self,
        begin: int | None = None,
        end: int | None = None,
        frequency: int | None = None,
        steps: int | None = None,
    ):
        super().__init__()
        ends = (begin or 0, end if end is not None else math.inf)
        if not 0 <= ends[0] <= ends[1] or (frequency is not None and frequency < 1):
            raise ValueError(
                "A ramp wants 0 <= begin <= end and a frequency of at least 1. "
                f"Received: {begin=}, {end=}, {frequency=}"
            )
        self.begin, self.end, self.frequency = begin, end, frequency
        self.steps = steps
        self.is_cut: Callable[[], bool] = lambda: False
        self.changes: list[Change] = []
        self._last_step: int | None = None  # of the training, as `fit` is told
        self._alarmed = False

    def reached_at(self, step: int) -> float:
        """The share of the way from dense to the target that is in force at a step."""
        begin, end, every = self._plan()
        if step < begin:
            return 0.0
        if step >= end:
            return 1.0
        return cubic((step - (step - begin) % every - begin) / (end - begin))

    def _plan(self, model: Any = None) -> tuple[int, int, int]:
        """Begin, end and frequency, with what was left open."""
        total = self._total()
        begin, end = self.begin, self.end
        if (begin is None or end is None) and total is None:
            raise ValueError(
                "The length of the training is not known: name begin and end, or "
                "`steps`, all of the training. "
                f"Received: begin={begin}, end={end}, steps={self.steps}"
            )
        first, last = (round(share * (total or 0)) for share in self._shares(model))
        if begin is None:
            begin = first if end is None else min(first, end)
        end = max(begin, last) if end is None else end
        return begin, end, self.frequency or max(1, (total or 0) // CHANGES)

    def _shares(self, model: Any) -> tuple[float, float]:
        return getattr(model or getattr(self, "model", None), "ramp", RAMP_SHARES)

    def _total(self) -> int | None:
        """All steps of the training, if they are known."""
        if self.steps is not None:
            return self.steps
        epochs, steps = ((self.params or {}).get(k) for k in ("epochs", "steps"))
        if self._last_step is not None:
            return self._last_step
        return epochs * steps // self._accumulated() if epochs and steps else None

    def _accumulated(self) -> int:
        optimizer = self.model.optimizer
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        return getattr(inner, "gradient_accumulation_steps", None) or 1

    def describe(self, model: Any) -> str:
        """Says before training what the ramp will do to a model with a target.

        Args:
            model: Made by `stk.sparsify` with a target.
        """
        loop, (begin, end, _) = Loop(model), self._plan(model)
        lines = [
            f"target: {loop.target}, {loop.told(loop.limit)} of {loop.told(loop.dense)}"
        ]
        if model.has_course:
            return f"{lines[0]}, on a course of its own until the last step"
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            step = round(begin + share * (end - begin))
            reached = cubic(share) if end > begin else 1.0
            lines.append(f"  step {step:>7,}: {loop.told(loop.limit_at(reached))}")
        return "\n".join(lines)

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the model, and finds out where it stands."""
        if not hasattr(self.model, "led_step"):
            raise TypeError(
                "SparsityRamp leads the thresholds of a model made by `stk.sparsify` "
                "with a target, or by `stk.prune`. "
                f"Received: model={type(self.model).__name__}"
            )
        self._plan()
        self._loop = Loop(self.model) if self.model.target is not None else None
        read_state_before_step(self.model)
        self._last = int(ops.convert_to_numpy(self.model.led_step))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Finds out how long the training will be."""
        epochs, steps = ((self.params or {}).get(k) for k in ("epochs", "steps"))
        if self._last_step is None and epochs and steps:
            left = (epochs - epoch) * steps // self._accumulated()
            self._last_step = self._iterations() + left

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Moves the thresholds where that is due; several steps may be one call."""
        # Read, and not counted: loss scaling skips steps, accumulation has fewer.
        step = self._iterations()
        if self._due(step) != self._last:
            self.move(step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Brings the weights of the last step to the target too."""
        step = self._iterations()
        if step >= self._plan()[1] and not self.is_cut():
            self.move(step)
            if self._loop is not None:
                self._check(self._loop, step)

    def on_train_end(self, logs: Any = None) -> None:
        """Says so if the training ended before the ramp did."""
        step, loop = self._iterations(), self._loop
        # Told how long all of it is, `fit` may be called for parts.
        is_part = self.steps is not None and step < self.steps
        if loop is None or is_part or self.is_cut() or step >= self._plan()[1]:
            return
        warnings.warn(
            f"The training ended at step {step}, before the ramp at step "
            f"{self._plan()[1]}: the target, {loop.target}, is not reached. Train "
            "longer, let the ramp end earlier, or tell it by `steps` how long all of "
            "the training is.",
            RuntimeWarning,
            stacklevel=2,
        )

    def move(self, step: int) -> None:
        """Sets the thresholds to those of a step."""
        read_state_before_step(self.model)
        reached, total = self.reached_at(step), self._total()
        progress = min(step / total, 1.0) if total else reached
        kept = self.model.follow(reached, progress, self._loop)
        self._last = self._due(step)
        self.model.led_step.assign(self._last)
        if self._loop is not None:
            self._note(self._loop, step, reached, kept)

    def _note(self, loop: Loop, step: int, reached: float, kept: np.ndarray) -> None:
        cost, limit = loop.cost(kept), loop.limit_at(reached)
        self.changes.append(Change(step, reached, int(kept.sum()), cost, limit))
        missed = abs(cost - limit) > loop.slack and reached > 0
        if missed and not self._alarmed and not self.model.has_course:
            self._alarmed = True
            warnings.warn(
                f"At step {step} the model has {loop.told(cost)}, the ramp "
                f"asks for {loop.told(limit)}: floors (min_density, min_kept, "
                "min_per_channel), zeros in the raw weights, weights that tie, or "
                "weights beyond g hold it there.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _check(self, loop: Loop, step: int) -> None:
        """Warns if the thresholds, as stored, do not prune what they should."""
        kinds = {item.kernel.variable.dtype for item in loop.model.thresholded}
        if not kinds <= {"float32", "float64"}:
            return  # weights of 16 bits tie, and go or stay together
        actual = [row.nonzeros for row in measure_sparsity(loop.model)]
        cost, wanted = loop.cost(np.array(actual)), self.changes[-1].cost
        if abs(cost - wanted) > loop.slack:
            warnings.warn(
                f"At step {step} the thresholds should leave {loop.told(wanted)} and "
                f"leave {loop.told(cost)}: numbers have outgrown float32, the training "
                "diverges. Lower the learning rate, or name another preset.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _iterations(self) -> int:
        read_state_before_step(self.model)
        return iterations(self.model)

    def _due(self, step: int) -> int:
        """The step at which the thresholds in force at `step` came into force."""
        begin, end, every = self._plan()
        if self.model.follows_weights:
            return step - (step - min(begin, step)) % every
        if step < begin:
            return -1
        return end if step >= end else step - (step - begin) % every
