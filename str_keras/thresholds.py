"""The maps from logit to threshold, and the names of what decides thresholds.

Source: Kusupati et al. 2020, section 3, https://arxiv.org/abs/2002.03231.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np

from str_keras.registries import check_free

Tensor: TypeAlias = Any
ops: Any = keras.ops  # untyped there; inferred, its results could be None

THRESHOLD_LOGIT = "threshold_logit"
"""Every variable s is named so, or begins so: optimizers tell s by it."""

KEPT = "threshold_kept"
"""The variable of a pruned model that holds how many weights each kernel keeps."""

OFFSET = "threshold_offset"
"""The variable that holds what a target adds to the logits s of each kernel."""

LEVEL = "threshold_level"
"""The variable that holds the threshold of each kernel where nothing learns it."""

SHARE = "threshold_gradient_share"
"""The variable that holds what pruned weights get of the gradient, while it changes."""

LED_STEP = "threshold_step"
"""The variable that holds the step at which the others were set last."""

LED = (KEPT, OFFSET, LEVEL, SHARE, LED_STEP)
"""What `SparsityRamp` leads, and no gradient moves."""

EXP_LIMIT = 80.0
"""exp(80) = 5.5e34 is beyond any weight and within float32; its gradient is too."""


@dataclass(frozen=True)
class ThresholdFunction:
    """A map g from the logit s to the threshold g(s), with its default start.

    Args:
        name: What `g=` and saved models call it.
        function: Tensor to tensor of the same shape and dtype; positive, increasing.
        s_init: Initial logit where the user names none.
        inverse: From thresholds to logits, of NumPy arrays in float64; 0 may give
            -inf. None: no target can lead such thresholds.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    s_init: float
    inverse: Callable[[np.ndarray], np.ndarray] | None = None

    def __call__(self, logit: Tensor) -> Tensor:
        """Returns the threshold g(s), of the logit's shape and dtype."""
        return self.function(logit)


def _exp(logit: Tensor) -> Tensor:
    # Above 88 float32 overflows, and 0 * inf makes the gradient NaN.
    return ops.exp(ops.minimum(logit, EXP_LIMIT))


_REGISTRY: dict[str, ThresholdFunction] = {}


def _logit(threshold: np.ndarray) -> np.ndarray:
    # No sigmoid prunes a weight of 1 or more.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(threshold < 1, np.log(threshold) - np.log1p(-threshold), np.inf)


def _log(threshold: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(threshold)


def register_g(
    name: str,
    function: Callable[[Tensor], Tensor],
    s_init: float,
    inverse: Callable[[np.ndarray], np.ndarray] | None = None,
) -> ThresholdFunction:
    """Makes `function` known as `g=name` to layers, models and files.

    Args:
        name: Identifier, saved with the model; the same call must come before loading.
        function: From logit to threshold, of backend-neutral `keras.ops`; positive
            and increasing; same shape and dtype.
        s_init: Default initial logit.
        inverse: See `ThresholdFunction`; wanted by targets alone.

    Returns:
        The registered `ThresholdFunction`.

    Raises:
        ValueError: if a function that is defined elsewhere has the name.
    """
    known = _REGISTRY.get(name)
    check_free(name, known and known.function, function)
    _REGISTRY[name] = ThresholdFunction(name, function, float(s_init), inverse)
    return _REGISTRY[name]


# From -40 a short recipe sets in where the paper's -3200 wants 100 ImageNet epochs;
# both give g(s) = 0 in float32 beside any weight, so training starts dense.
register_g("sigmoid", ops.sigmoid, s_init=-40.0, inverse=_logit)
register_g("exp", _exp, s_init=-10.0, inverse=_log)


def get_g(identifier: str | Callable | ThresholdFunction) -> ThresholdFunction:
    """Returns the threshold function of a name, of itself, or of a registered callable.

    Args:
        identifier: "sigmoid", "exp", a name given to `register_g`, a
            `ThresholdFunction`, or a callable that was registered.

    Returns:
        The `ThresholdFunction`.

    Raises:
        ValueError: if it is unknown.
    """
    if isinstance(identifier, ThresholdFunction):
        return identifier
    for known in _REGISTRY.values():
        if identifier in (known.name, known.function):
            return known
    raise ValueError(
        f"Unknown threshold function: choose one of {sorted(_REGISTRY)}, or register "
        f"yours with `str_keras.register_g(name, function, s_init)`. "
        f"Received: g={identifier!r}"
    )


def is_threshold_logit(variable: Any) -> bool:
    """Tells whether a `keras.Variable` of a model is a threshold logit s."""
    return variable.name.startswith(THRESHOLD_LOGIT)


def is_threshold_state(variable: Any) -> bool:
    """Tells whether a `keras.Variable` decides thresholds, and is no weight of the net.

    A logit s, or what a ramp leads (`LED`).
    """
    return is_threshold_logit(variable) or variable.name in LED
