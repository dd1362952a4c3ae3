"""Where thresholds come from: learned, or set to a level that all kernels share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from str_keras.internals import full_precision
from str_keras.layers import (
    ThresholdedKernel,
    add_logit,
    check_learns,
    check_s_init,
    logit_shape,
    raise_precision,
    read_share,
)
from str_keras.model import SubstitutedModel
from str_keras.operators import Operator, apply_threshold, get_backward, get_operator
from str_keras.selection import Kernel
from str_keras.steering import OPEN, RAMP_SHARES, Loop, SparsityRamp
from str_keras.targets import Target, as_target
from str_keras.thresholds import (
    LED,
    LED_STEP,
    LEVEL,
    OFFSET,
    SHARE,
    THRESHOLD_LOGIT,
    Tensor,
    get_g,
    ops,
)

NETWORK = "network"


class ThresholdModel(SubstitutedModel):
    """A model whose kernels go through an operator: the base of all threshold sources.

    A subclass says in `add_source` what decides the thresholds, and in `lead` how they
    follow a ramp.

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels that get a threshold, as of `selection.select`.
        operator, backward: Of `str_keras.operators`.
        target: What `SparsityRamp` leads the model to, or None.
        passed_through: Pairs of path and reason, for the report.
        ramp: Where a ramp begins and ends unless it is told, as shares of the training.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Iterable[str],
        operator: str | Operator,
        backward: Any,
        target: Target | Mapping[str, Any] | None = None,
        passed_through: Iterable[tuple[str, str]] = (),
        ramp: tuple[float, float] = RAMP_SHARES,
        **kwargs: Any,
    ):
        super().__init__(model, kernels, passed_through, **kwargs)
        self.__dict__["ramp"] = tuple(ramp)
        self.operator = get_operator(operator)
        self.backward = get_backward(backward)
        self.__dict__["target"] = as_target(target)

    def add_source(self, kernels: list[Kernel], share: Any) -> list[Any]:
        """Adds what decides the thresholds; returns a replacement for each kernel."""
        # Abstract: each source has its own.
        raise NotImplementedError

    def lead(self, reached: float, progress: float, loop: Loop | None) -> Any:
        """Sets the thresholds; returns the numbers of weights kept, if it knows."""
        # Abstract: each source has its own.
        raise NotImplementedError

    @property
    def is_led(self) -> bool:
        """Whether a ramp moves anything: `fit` then adds one if it is given none."""
        return self.target is not None or self.backward.constant is None

    @property
    def has_course(self) -> bool:
        """Whether thresholds take a course of their own to the target, not the ramp."""
        return False

    @property
    def follows_weights(self) -> bool:
        """Whether thresholds depend on the weights' present values, past the ramp."""
        return self.is_led

    def add_thresholds(self, kernels: list[Kernel]) -> list[Any]:
        """Adds the weights that a ramp sets, and those of the source."""
        share: Any = self.backward.constant
        if share is None:
            share = self.add_led(SHARE, (), "float32", self.backward.share(0.0))
        self.__dict__["share"] = share
        items = self.add_source(kernels, share)
        if any(weight.name in LED for weight in self.weights):
            self.led_step = self.add_led(LED_STEP, (), "int32", -2)
        if self.target is not None:
            Loop(self)  # a target out of reach is refused now
        return items

    def add_led(self, name: str, shape: tuple[int, ...], dtype: str, value: Any) -> Any:
        """Adds a weight that a ramp sets and no gradient moves."""
        return self.add_weight(
            name=name,
            shape=shape,
            dtype=dtype,
            initializer=keras.initializers.Constant(value),
            trainable=False,
            autocast=False,
        )

    def follow(self, reached: float, progress: float, loop: Loop | None) -> Any:
        """Sets thresholds and gradient share to those of a moment of the training.

        Args:
            reached: Share of the way from dense to the target, in [0, 1].
            progress: Share of the training that is over, in [0, 1].
            loop: Of a model with a target.

        Returns:
            The numbers of weights kept by kernel, int64, if there is a target.
        """
        if self.backward.constant is None:
            self.share.assign(self.backward.share(progress))
        return self.lead(reached, progress, loop)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Keras' `fit`; adds a `SparsityRamp` where one is wanted and none is given."""
        callbacks = kwargs.get("callbacks") or []
        listed = getattr(callbacks, "callbacks", callbacks)
        listed = list(listed) if isinstance(listed, list | tuple) else [listed]
        if self.is_led and not any(isinstance(c, SparsityRamp) for c in listed):
            kwargs["callbacks"] = [SparsityRamp(), *listed]
        return super().fit(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the model inside serialized."""
        return {
            **super().get_config(),
            "operator": self.operator.name,
            "backward": self.backward.name,
            "target": None if self.target is None else self.target.to_dict(),
            "ramp": list(self.ramp),
        }


def magnitudes(item: Any) -> np.ndarray:
    """|w| of a raw kernel as float64, in the kernel's shape."""
    raw = ops.convert_to_numpy(item.kernel.variable)
    return np.abs(np.asarray(raw).astype("float64"))


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

    def pruning_keys(self, pressure: np.ndarray) -> list[np.ndarray]:
        """By kernel, for each weight, the common level from which on it is pruned."""
        factors = self.scales * pressure
        return [
            magnitudes(item).reshape(-1) / factor
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
            kept = np.array([np.count_nonzero(key > level) for key, level in pairs])
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
