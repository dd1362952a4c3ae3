"""Thresholds that are learned: `SparseModel`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from str_keras.layers import (
    ThresholdedKernel,
    add_logit,
    check_learns,
    check_s_init,
    logit_shape,
)
from str_keras.operators import Operator
from str_keras.selection import Kernel
from str_keras.solving import OPEN, Loop
from str_keras.sources import ThresholdModel, magnitudes
from str_keras.targets import Target
from str_keras.thresholds import OFFSET, THRESHOLD_LOGIT, get_g, ops

NETWORK = "network"


@keras.saving.register_keras_serializable("str_keras")
class SparseModel(ThresholdModel):
    """A model with learnable thresholds on its kernels; made by `sparsify`.

    With a target a common offset, which `SparsityRamp` sets, is added to every s: the
    learned differences between them stay.

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

    def pruning_keys(self, pressure: np.ndarray) -> list[np.ndarray]:
        """By kernel, for each weight, the offset of s from which on it is pruned."""
        inverse = self.g.inverse
        keys = []
        for item, factor in zip(self.thresholded, pressure, strict=True):
            logits = np.asarray(ops.convert_to_numpy(item.logit), "float64")
            assert inverse is not None  # the constructor asks
            key = inverse(magnitudes(item)) - logits - math.log(factor)
            keys.append(key.reshape(-1))
        return keys

    def lead(self, reached: float, progress: float, loop: Loop | None) -> Any:
        """Sets the offsets."""
        if loop is None:
            return None
        levels, kept = loop.solve(reached)
        self.offsets.assign((levels + np.log(loop.pressure())).astype("float32"))
        return kept

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the model inside serialized."""
        return {
            **super().get_config(),
            "s_init": self.s_init,
            "g": self.g.name,
            "granularity": self.granularity,
        }
