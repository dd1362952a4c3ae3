"""What all sources of thresholds share: an operator, a backward rule, a target."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from str_keras.internals import read_array
from str_keras.model import SubstitutedModel
from str_keras.operators import Operator, get_backward, get_operator
from str_keras.selection import Kernel
from str_keras.solving import Loop
from str_keras.steering import RAMP_SHARES, SparsityRamp
from str_keras.targets import Target, as_target
from str_keras.thresholds import LED, LED_STEP, SHARE


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
        bound = inspect.signature(super().fit).bind(*args, **kwargs)
        callbacks = bound.arguments.get("callbacks") or []
        listed = getattr(callbacks, "callbacks", callbacks)
        listed = list(listed) if isinstance(listed, list | tuple) else [listed]
        if self.is_led and not any(isinstance(c, SparsityRamp) for c in listed):
            # Without a target there is no way to go: what changes is the share.
            ramp = SparsityRamp(0, 0) if self.target is None else SparsityRamp()
            bound.arguments["callbacks"] = [ramp, *listed]
        return super().fit(*bound.args, **bound.kwargs)

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
    """|w| of a raw kernel, `(weights,)`: float64 of float64, else float32."""
    raw = np.asarray(read_array(item.kernel.variable)).reshape(-1)
    return np.abs(raw if raw.dtype == "float64" else raw.astype("float32", copy=False))
