"""Thresholds that are set, one level for all kernels: `LeveledModel`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from str_keras.internals import full_precision
from str_keras.layers import raise_precision, read_share
from str_keras.operators import Operator, apply_threshold
from str_keras.ranking import Keys
from str_keras.selection import Kernel
from str_keras.solving import Loop
from str_keras.sources import ThresholdModel, magnitudes
from str_keras.targets import Target
from str_keras.thresholds import LEVEL, Tensor, ops


class LeveledKernel:
    """A kernel with a threshold that is set, and not learned.

    Args:
        kernel: The raw kernel and its layer.
        levels: Variable of the thresholds, float32, one a kernel.
        index: Of this kernel in `levels`.
        operator: What the threshold does to the kernel.
        share: What pruned weights get of the gradient: a number, or a variable.
        rescales: Whether filters are scaled up for what was pruned of them.
    """

    counted = True

    def __init__(
        self,
        kernel: Kernel,
        levels: Any,
        index: int,
        operator: Operator,
        share: Any,
        rescale: Callable[[Tensor, Tensor, Kernel], Tensor] | None = None,
    ):
        self.kernel, self.levels, self.index = kernel, levels, index
        self.operator, self.share, self.rescale = operator, share, rescale

    def threshold(self) -> Tensor:
        """The threshold in units of the kernel, a scalar."""
        with full_precision():
            return ops.convert_to_tensor(self.levels.value)[self.index]

    def sparse(self) -> Tensor:
        """The operator's kernel at the threshold, of the kernel's shape and dtype."""
        with full_precision():
            raw = ops.convert_to_tensor(self.kernel.variable.value)
            raised = raise_precision(raw)
            threshold = ops.cast(self.threshold(), raised.dtype)
            share = read_share(self.share)
            sparse = apply_threshold(raised, threshold, self.operator, share)
            if self.rescale is not None:
                sparse = self.rescale(raised, sparse, self.kernel)
            return ops.cast(sparse, raw.dtype)


def sigma(shape: tuple[int, ...]) -> float:
    """The scale of a kernel's weights, by its shape: `sum(shape)^-1/2`.

    Source: ST-3 sigma, Vanderschueren and De Vleeschouwer 2023, as in their code.
    """
    return 1 / math.sqrt(sum(shape))


def rescale_filters(raw: Tensor, sparse: Tensor, kernel: Kernel) -> Tensor:
    """Scales each filter by `1.01 / (r + 0.01)`, r the share of its magnitude left.

    `r = (mean(|w| of what is left) + 1e-6) / (mean(|w|) + 1e-6)`. The gradient passes
    as if the scale were 1.

    Args:
        raw, sparse: Of the kernel's shape.
        kernel: Says which axes count filters.

    Source: ST-3, Vanderschueren and De Vleeschouwer 2023, as in the authors' code.
    """
    filters = {axis % len(raw.shape) for axis in kernel.filter_axes}
    axes = tuple(axis for axis in range(len(raw.shape)) if axis not in filters)
    count = math.prod(raw.shape[axis] for axis in axes)
    size = ops.abs(raw)
    left = ops.where(sparse != 0, size, ops.zeros_like(size))
    # Not by `ops.mean`: on JAX and torch Keras computes it of float64 in float32.
    left, whole = (
        ops.sum(x, axis=axes, keepdims=True) / count + 1e-6 for x in (left, size)
    )
    return sparse + ops.stop_gradient(sparse * (1.01 / (left / whole + 0.01) - 1))


def lats_course(progress: float) -> float:
    """`sin(pi x) / pi + x`: the share of its final value that the threshold has.

    Source: S-LATS, in the code of LATS (Yanqi Chen et al.).
    """
    return math.sin(math.pi * progress) / math.pi + progress


SCOPES = ("global", "normalized")


@keras.saving.register_keras_serializable("str_keras")
class LeveledModel(ThresholdModel):
    """A model with one threshold for all kernels, set and not learned.

    With a target it is the quantile of |w| over all kernels ("global"), or of |w| over
    the layer's `sigma` ("normalized"), that the ramp asks for. `course="lats"` moves
    the threshold itself along the training, to that quantile, or to `level`.

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels that get a threshold, as of `selection.select`.
        scope: Of `SCOPES`.
        operator, backward: Of `str_keras.operators`.
        target: What `SparsityRamp` leads the model to, or None.
        course: "" or "lats".
        level: The final threshold, in units of the kernels, where there is no target.
        rescale: Whether filters are scaled up for what is pruned of them.
        passed_through: Pairs of path and reason, for the report.

    Call arguments:
        inputs, training, mask: As of the model inside.

    Returns:
        What the model inside returns.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: list[str],
        scope: str = "global",
        operator: str | Operator = "soft",
        backward: Any = "straight_through",
        target: Target | Mapping[str, Any] | None = None,
        course: str = "",
        level: float | None = None,
        rescale: bool = False,
        passed_through: Iterable[tuple[str, str]] = (),
        **kwargs: Any,
    ):
        super().__init__(
            model, kernels, operator, backward, target, passed_through, **kwargs
        )
        self.scope, self.course, self.rescale = scope, course, bool(rescale)
        self.level = level
        if scope not in SCOPES:
            raise ValueError(f"`scope` is one of {SCOPES}. Received: {scope=}")
        if (level is None) == (self.target is None):
            raise ValueError(
                "A threshold that is set wants a target, or its final level: "
                'target_sparsity=0.9, or threshold="scheduled(0.01)". '
                f"Received: target={target}, level={level}"
            )
        self.build()

    @property
    def is_led(self) -> bool:
        """Always: its thresholds do not move by themselves."""
        return True

    @property
    def has_course(self) -> bool:
        """Whether the threshold itself is scheduled."""
        return bool(self.course)

    def add_source(self, kernels: list[Kernel], share: Any) -> list[LeveledKernel]:
        """Adds the levels."""
        levels = self.add_led(LEVEL, (len(kernels),), "float32", 0.0)
        self.__dict__["levels"] = levels
        shapes = [tuple(kernel.variable.shape) for kernel in kernels]
        normalized = self.scope == "normalized"
        scales = [sigma(shape) if normalized else 1.0 for shape in shapes]
        self.__dict__["scales"] = np.array(scales)
        rescale = rescale_filters if self.rescale else None
        items = [
            LeveledKernel(kernel, levels, index, self.operator, share, rescale)
            for index, kernel in enumerate(kernels)
        ]
        self.__dict__["thresholded"] = items
        return items

    def pruning_keys(self, pressure: np.ndarray) -> list[Keys]:
        """By kernel, for each weight, the common level from which on it is pruned."""
        factors = self.scales * pressure
        return [
            Keys(magnitudes(item), functools.partial(_divided, factor))
            for item, factor in zip(self.thresholded, factors, strict=True)
        ]

    def lead(self, reached: float, progress: float, loop: Loop | None) -> Any:
        """Sets the thresholds."""
        course = lats_course(progress) if self.course == "lats" else None
        if loop is None:
            level = (self.level or 0.0) * (reached if course is None else course)
            self.levels.assign((level * self.scales).astype("float32"))
            return None
        factors = self.scales * loop.pressure()
        levels, kept = loop.solve(reached if course is None else 1.0)
        if course is not None:
            levels = levels * course
            keys = self.pruning_keys(loop.pressure())
            pairs = zip(keys, levels, strict=True)
            kept = np.array([key.count_above(level) for key, level in pairs])
        self.levels.assign((np.maximum(levels, 0.0) * factors).astype("float32"))
        return kept

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the model inside serialized."""
        return {
            **super().get_config(),
            "scope": self.scope,
            "course": self.course,
            "level": self.level,
            "rescale": self.rescale,
        }


def _divided(factor: float, sizes: np.ndarray) -> np.ndarray:
    return sizes.astype("float64") / factor
