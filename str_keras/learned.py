"""Thresholds that are learned: `SparseModel`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from str_keras.internals import read_array
from str_keras.layers import (
    ThresholdedKernel,
    add_logit,
    check_learns,
    check_s_init,
    logit_shape,
)
from str_keras.operators import Operator
from str_keras.ranking import Keys
from str_keras.selection import Kernel
from str_keras.solving import OPEN, Loop
from str_keras.sources import ThresholdModel, magnitudes
from str_keras.targets import Target
from str_keras.thresholds import OFFSET, THRESHOLD_LOGIT, get_g

NETWORK = "network"

TOP = 0.5
"""The threshold up to which a target presses: sigmoid(0), where decay takes s."""

LEAST = 0.05
"""The pressure on s that stays from there on, so that every target can be reached."""


@keras.saving.register_keras_serializable("str_keras")
class SparseModel(ThresholdModel):
    """A model with learnable thresholds on its kernels; made by `sparsify`.

    With a target `SparsityRamp` adds to s what decay would, and no more than it takes:
    to that of each kernel in proportion to how far it is below g^-1(1/2), where decay
    leads as well. So thresholds that are low rise faster, and the target spares layers
    whose thresholds are high already; added alike to all s it starves them.

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels that get a threshold, as of `selection.select`.
        s_init: Initial logit.
        g: Name of the threshold function.
        granularity: "layer", "filter", "weight", or "network": one logit for all.
        passed_through: Pairs of path and reason, for the report.
        operator, backward: Of `str_keras.operators`.
        target: What `SparsityRamp` leads the model to; None: decay alone decides.

    Call arguments:
        inputs, training, mask: As of the model inside.

    Returns:
        What the model inside returns.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: list[str],
        s_init: float | None = None,
        g: Any = "sigmoid",
        granularity: str = "layer",
        passed_through: Iterable[tuple[str, str]] = (),
        operator: str | Operator = "soft",
        backward: Any = "masked",
        target: Target | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        operator = check_learns(operator)
        super().__init__(
            model, kernels, operator, backward, target, passed_through, **kwargs
        )
        self.g = get_g(g)
        self.s_init = check_s_init(s_init, self.g)
        self.granularity = granularity
        if self.target is not None and self.g.inverse is None:
            raise ValueError(
                "A target wants the inverse of g: give it to `stk.register_g`. "
                f"Received: g={self.g.name!r}"
            )
        self.build()

    def add_source(self, kernels: list[Kernel], share: Any) -> list[ThresholdedKernel]:
        """Adds the logits, and offsets for a target."""
        if self.granularity == NETWORK:
            dtype = max(kernel.variable.dtype for kernel in kernels)  # float64 wins
            shared = add_logit(self, THRESHOLD_LOGIT, (), self.s_init, dtype)
            logits = [shared] * len(kernels)
        else:
            logits = [self._add_logit(kernel) for kernel in kernels]
        offsets = None
        if self.target is not None:
            offsets = self.add_led(OFFSET, (len(kernels),), "float32", OPEN)
        self.__dict__["offsets"] = offsets
        items = [
            ThresholdedKernel(
                kernel,
                logit,
                self.g,
                self.operator,
                share,
                None if offsets is None else (offsets, index),
            )
            for index, (kernel, logit) in enumerate(zip(kernels, logits, strict=True))
        ]
        self.__dict__["thresholded"] = items
        return items

    def _add_logit(self, kernel: Kernel) -> keras.Variable:
        return add_logit(
            self,
            f"{THRESHOLD_LOGIT}_{kernel.path.replace('/', '_')}",
            logit_shape(kernel, self.granularity),
            self.s_init,
            kernel.variable.dtype,
        )

    def pruning_keys(self, factors: np.ndarray) -> list[Keys]:
        """By kernel, for each weight, the pressure from which on it is pruned."""
        inverse = self.g.inverse
        assert inverse is not None  # the constructor asks
        keys = []
        pressed = self._pressed(factors)
        for item, start, room in zip(self.thresholded, *pressed, strict=True):
            logits = np.asarray(read_array(item.logit), "float64") + start
            function = functools.partial(_pressures, inverse, logits, room)
            if logits.ndim:  # the order of the weights is not that of their size
                shape = item.kernel.variable.shape
                keys.append(Keys(function(magnitudes(item).reshape(shape)).reshape(-1)))
            else:
                keys.append(Keys(magnitudes(item), function))
        return keys

    def lead(self, reached: float, progress: float, loop: Loop | None) -> Any:
        """Adds to the offsets."""
        if loop is None:
            return None
        levels, kept = loop.solve(reached)
        starts, rooms = self._pressed(loop.pressure())
        offsets = np.where(levels <= OPEN, OPEN, starts + levels * rooms)
        self.offsets.assign(offsets.astype("float32"))
        return kept

    def _pressed(self, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """By kernel its offset, and what a pressure of 1 adds to it: `(kernels,)`."""
        offsets = np.asarray(read_array(self.offsets), "float64")
        offsets = np.where(offsets <= OPEN, 0.0, offsets)
        assert self.g.inverse is not None  # the constructor asks
        top = float(self.g.inverse(np.array(TOP)))
        if not math.isfinite(top):  # a g without such thresholds: all alike
            return offsets, np.ones(len(offsets))
        logits = np.array([np.mean(read_array(i.logit)) for i in self.thresholded])
        rooms = top + np.log(factors) - logits.astype("float64") - offsets
        return offsets, np.maximum(rooms, LEAST)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the model inside serialized."""
        return {
            **super().get_config(),
            "s_init": self.s_init,
            "g": self.g.name,
            "granularity": self.granularity,
        }


def _pressures(
    inverse: Callable[[np.ndarray], np.ndarray],
    logits: np.ndarray,
    room: float,
    sizes: np.ndarray,
) -> np.ndarray:
    return (inverse(sizes.astype("float64")) - logits) / room
