"""The operator and the maps from logit to threshold: pure functions of tensors.

Source: Kusupati et al. 2020, section 3, https://arxiv.org/abs/2002.03231.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any
ops: Any = keras.ops  # untyped there; inferred, its results could be None

THRESHOLD_LOGIT = "threshold_logit"
"""Every variable s is named so, or begins so: optimizers tell s by it."""

KEPT = "threshold_kept"
"""The variable of a pruned model that holds how many weights each kernel keeps."""

EXP_LIMIT = 80.0
"""exp(80) = 5.5e34 is beyond any weight and within float32; its gradient is too."""


def _sparse_and_gradient(kernel: Tensor, threshold: Tensor) -> tuple[Tensor, Callable]:
    """`soft_threshold` and the function of its gradients, for `ops.custom_gradient`.

    Autodiff would read the kernel again and give 0 (TensorFlow) or 1/2 (JAX) where
    |w| = t. Here the output alone is kept: it is zero exactly where |w| <= t, and
    elsewhere has the sign of w.
    """
    sparse = kernel - ops.clip(kernel, -threshold, threshold)

    def gradients(*args: Tensor, upstream: Tensor | None = None) -> tuple:
        if upstream is None:  # TensorFlow and JAX pass it as the only argument
            (upstream,) = args
        to_kernel = ops.where(sparse != 0, upstream, ops.zeros_like(upstream))
        to_threshold = -ops.sign(sparse) * upstream
        return to_kernel, _sum_to_shape(to_threshold, threshold.shape)

    return sparse, gradients


_soft_threshold = ops.custom_gradient(_sparse_and_gradient)


def _sum_to_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sums over the axes along which a tensor of `shape` was broadcast."""
    leading = len(tensor.shape) - len(shape)
    axes = [*range(leading)]
    axes += [leading + i for i, n in enumerate(shape) if n != tensor.shape[leading + i]]
    return ops.reshape(ops.sum(tensor, axis=tuple(axes)), shape) if axes else tensor


def soft_threshold(kernel: Tensor, threshold: Tensor) -> Tensor:
    """Shrinks a kernel towards zero: `sign(w) relu(|w| - t) = w - clip(w, -t, t)`.

    The gradient to the kernel is 1 where |w| > t, else 0 (at |w| = t too); to the
    threshold `-sum(sign(w) G)` over the same weights, G the incoming gradient.

    Args:
        kernel: Float tensor of any shape, float32 or float64.
        threshold: Tensor of the same dtype, positive, in units of `kernel`; scalar or
            broadcastable to the kernel, with as many axes or none.

    Returns:
        Tensor of the shape and dtype of `kernel`, exactly 0 where |w| <= t.

    Raises:
        TypeError: if the kernel is neither float32 nor float64 (16 bits lose the sum
            in the threshold's gradient), or the two dtypes differ.

    Source: the paper's equation 2; `g` of equation 3 is applied by the caller.
    """
    dtype = keras.backend.standardize_dtype(kernel.dtype)
    if dtype not in ("float32", "float64"):
        raise TypeError(
            "Thresholds are computed in float32 or float64: cast the kernel first. "
            f"Received: kernel.dtype={dtype}"
        )
    if dtype != keras.backend.standardize_dtype(threshold.dtype):
        raise TypeError(
            "Kernel and threshold must have one dtype. "
            f"Received: kernel.dtype={dtype}, threshold.dtype={threshold.dtype}"
        )
    return _soft_threshold(kernel, threshold)


GRADIENTS = ("masked", "straight_through")


def hard_threshold(
    kernel: Tensor, threshold: Tensor, gradient: str = "masked"
) -> Tensor:
    """Keeps the weights of a magnitude of at least t as they are: `w 1[|w| >= t]`.

    A weight that is 0 counts as pruned, so that its gradient is masked too; a negative
    threshold keeps all.

    Args:
        kernel: Float tensor of any shape.
        threshold: Scalar of the same dtype, in units of `kernel`; no gradient flows
            to it.
        gradient: "masked": pruned weights get none (magnitude pruning);
            "straight_through": all weights get that of their sparse value (DNW).

    Returns:
        Tensor of the shape and dtype of `kernel`.

    Raises:
        ValueError: if `gradient` is another.

    Source: Zhu and Gupta 2017 (masked); Wortsman et al. 2019 (straight through).
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"`gradient` is one of {GRADIENTS}. Received: {gradient=}")
    kept = (ops.abs(kernel) >= threshold) & ((kernel != 0) | (threshold < 0))
    kept = ops.stop_gradient(kept)
    sparse = ops.where(kept, kernel, ops.zeros_like(kernel))
    if gradient == "masked":
        return sparse
    # w + (0 - w) and w + (w - w) are exact: the value is that of `sparse`.
    return kernel + ops.stop_gradient(sparse - kernel)


@dataclass(frozen=True)
class ThresholdFunction:
    """A map g from the logit s to the threshold g(s), with its default start.

    Args:
        name: What `g=` and saved models call it.
        function: Tensor to tensor of the same shape and dtype; positive, increasing.
        s_init: Initial logit where the user names none.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    s_init: float

    def __call__(self, logit: Tensor) -> Tensor:
        """Returns the threshold g(s), of the logit's shape and dtype."""
        return self.function(logit)


def _exp(logit: Tensor) -> Tensor:
    # Above 88 float32 overflows, and 0 * inf makes the gradient NaN.
    return ops.exp(ops.minimum(logit, EXP_LIMIT))


_REGISTRY: dict[str, ThresholdFunction] = {}


def register_g(
    name: str, function: Callable[[Tensor], Tensor], s_init: float
) -> ThresholdFunction:
    """Makes `function` known as `g=name` to layers, models and files.

    Args:
        name: Identifier, saved with the model; the same call must come before loading.
        function: From logit to threshold, of backend-neutral `keras.ops`; positive
            and increasing; same shape and dtype.
        s_init: Default initial logit.

    Returns:
        The registered `ThresholdFunction`.

    Raises:
        ValueError: if another function has the name.
    """
    known = _REGISTRY.get(name)
    if known is not None and known.function is not function:
        raise ValueError(f"A threshold function of this name exists. Received: {name=}")
    _REGISTRY[name] = ThresholdFunction(name, function, float(s_init))
    return _REGISTRY[name]


# From -40 a short recipe sets in where the paper's -3200 wants 100 ImageNet epochs;
# both give g(s) = 0 in float32 beside any weight, so training starts dense.
register_g("sigmoid", ops.sigmoid, s_init=-40.0)
register_g("exp", _exp, s_init=-10.0)


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

    A logit s, or the numbers of weights that a pruned model keeps.
    """
    return is_threshold_logit(variable) or variable.name == KEPT
