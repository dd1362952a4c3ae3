"""What a threshold does to a kernel, and what pruned weights get of the gradient.

Two of three registries, free to combine: the operator (forward) and the backward rule.
Where the threshold comes from is the third, see `str_keras.sparsifying`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import keras

from str_keras.registries import Registry
from str_keras.thresholds import Tensor, ops

Share = float | Tensor


@dataclass(frozen=True)
class Operator:
    """The sparse kernel as a function of kernel and threshold.

    Args:
        name: What `operator=` and saved models call it, parameters with it.
        function: From kernel and threshold (broadcastable to it, positive) to the
            sparse kernel; 0 exactly where |w| <= t, elsewhere of the sign of w.
        threshold_slope: From kernel and threshold to the derivative of a weight that is
            not pruned by its threshold; None: no gradient, thresholds are not learned.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]
    threshold_slope: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Backward:
    """What weights that are pruned now get of the gradient of their sparse value.

    Weights that are not get all of it.

    Args:
        name: What `backward=` and saved models call it, parameters with it.
        share: From the progress of the training in [0, 1] to the share, 0 or more.
    """

    name: str
    share: Callable[[float], float]

    @functools.cached_property
    def constant(self) -> float | None:
        """The share, if it is the same all along; else None."""
        first = self.share(0.0)
        points = (step / 1000 for step in range(1001))
        return first if all(self.share(p) == first for p in points) else None


_OPERATORS: Registry[Operator] = Registry("operator", tensors=2)
_BACKWARDS: Registry[Backward] = Registry("backward", tensors=1)


def register_operator(
    name: str,
    function: Callable[..., Tensor],
    threshold_slope: Callable[..., Tensor] | None = None,
    check: Callable[..., str | None] = lambda *parameters: None,
) -> None:
    """Makes `function` known as `operator=name`, or as "name(1.5)" with a parameter.

    Args:
        name: Letters, digits and underscores; saved with the model, so the same call
            must come before loading.
        function: `function(kernel, threshold, *parameters)`, see `Operator`, of
            backend-neutral `keras.ops`. Its gradient is the backward rule's: it is
            never differentiated.
        threshold_slope: `threshold_slope(kernel, threshold, *parameters)`, see
            `Operator`.
        check: Of the parameters (floats): what is wrong with them, or None.

    Raises:
        ValueError: if the name is no identifier, or is taken by a function that is
            defined elsewhere. The same place may be registered again, with other code.
    """

    slope = threshold_slope

    def make(full_name: str, *parameters: float) -> Operator:
        return Operator(
            full_name,
            functools.partial(_with, function, parameters),
            slope and functools.partial(_with, slope, parameters),
        )

    _OPERATORS.register(name, function, check, make)


def register_backward(
    name: str,
    share: Callable[..., float],
    check: Callable[..., str | None] = lambda *parameters: None,
) -> None:
    """Makes a rule known as `backward=name`, or as "name(0.5)" with a parameter.

    Args:
        name: As of `register_operator`.
        share: `share(progress, *parameters)`, see `Backward`.
        check: As of `register_operator`.

    Raises:
        ValueError: if the name is no identifier, or is taken by another rule.
    """

    def make(full_name: str, *parameters: float) -> Backward:
        rule = Backward(full_name, lambda progress: share(progress, *parameters))
        rule.share(0.0)  # what it raises, it raises now
        return rule

    _BACKWARDS.register(name, share, check, make)


def get_operator(identifier: str | Operator) -> Operator:
    """Returns the operator of a name such as "soft" or "feather(3)".

    Raises:
        ValueError: if it is unknown, or its parameters are.
    """
    if isinstance(identifier, Operator):
        return identifier
    return _OPERATORS.get(identifier)


def get_backward(identifier: str | Backward) -> Backward:
    """Returns the backward rule of a name such as "masked" or "scaled(0.5)".

    Raises:
        ValueError: if it is unknown, or its parameters are.
    """
    if isinstance(identifier, Backward):
        return identifier
    return _BACKWARDS.get(identifier)


def _with(
    function: Callable[..., Tensor],
    parameters: tuple[float, ...],
    kernel: Tensor,
    threshold: Tensor,
) -> Tensor:
    return function(kernel, threshold, *parameters)


def _sum_to_shape(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sums over the axes along which a tensor of `shape` was broadcast."""
    leading = len(tensor.shape) - len(shape)
    axes = [*range(leading)]
    axes += [leading + i for i, n in enumerate(shape) if n != tensor.shape[leading + i]]
    return ops.reshape(ops.sum(tensor, axis=tuple(axes)), shape) if axes else tensor


def apply_threshold(
    kernel: Tensor, threshold: Tensor, operator: Operator, share: Share
) -> Tensor:
    """The sparse kernel, with the gradients of a backward rule.

    With G the incoming gradient: to the kernel G where the sparse value is not 0, else
    `share` G; to the threshold the sum over both of `threshold_slope` times that, 0 if
    the operator has no slope.

    Autodiff would read the kernel again and give 0 (TensorFlow) or 1/2 (JAX) where
    |w| = t. Here the output alone is kept.

    Args:
        kernel: Float tensor of any shape, float32 or float64.
        threshold: Tensor of the same dtype, positive, in units of `kernel`; scalar or
            broadcastable to the kernel, with as many axes or none.
        operator: See `Operator`.
        share: What pruned weights get of the gradient; a number, or a scalar tensor.

    Returns:
        Tensor of the shape and dtype of `kernel`.

    Raises:
        TypeError: if the kernel is neither float32 nor float64 (16 bits lose the sum
            in the threshold's gradient), or the two dtypes differ.
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

    def forward(kernel: Tensor, threshold: Tensor, *shares: Tensor) -> tuple:
        sparse = operator.function(kernel, threshold)

        def gradients(*args: Tensor, upstream: Tensor | None = None) -> tuple:
            if upstream is None:  # TensorFlow and JAX pass it as the only argument
                (upstream,) = args
            pruned = upstream * shares[0] if shares else ops.zeros_like(upstream)
            to_kernel = ops.where(sparse != 0, upstream, pruned)
            to_threshold = ops.zeros_like(threshold)
            if operator.threshold_slope is not None:
                slope = operator.threshold_slope(kernel, threshold)
                to_threshold = _sum_to_shape(slope * to_kernel, threshold.shape)
            return to_kernel, to_threshold, *(ops.zeros_like(s) for s in shares)

        return sparse, gradients

    masked = isinstance(share, float | int) and share == 0
    shares = () if masked else (ops.convert_to_tensor(share, dtype),)
    return ops.custom_gradient(forward)(kernel, threshold, *shares)


def _soft(kernel: Tensor, threshold: Tensor) -> Tensor:
    # Two passes, where sign(w) relu(|w| - t) takes five.
    return kernel - ops.clip(kernel, -threshold, threshold)


def _soft_slope(kernel: Tensor, threshold: Tensor) -> Tensor:
    return -ops.sign(kernel)


def _hard(kernel: Tensor, threshold: Tensor) -> Tensor:
    # Asked so, a weight that is no number is seen.
    pruned = ops.abs(kernel) <= threshold
    return ops.where(pruned, ops.zeros_like(kernel), kernel)


def _feather(kernel: Tensor, threshold: Tensor, p: float = 3.0) -> Tensor:
    """`sign(w) (|w|^p - t^p)^(1/p)`, as `w (1 - (1 - x)^p)^(1/p)`: no overflow.

    With `x = (|w| - t) / |w|`; near the threshold `|w| - t` is exact, `t / |w|` is not.
    """
    size = ops.abs(kernel)
    pruned = size <= threshold
    share = (size - threshold) / ops.where(pruned, ops.ones_like(size), size)
    share = ops.where(pruned, ops.zeros_like(size), share)
    rest = -ops.expm1(p * ops.log1p(-share))
    return ops.where(pruned, ops.zeros_like(kernel), kernel * rest ** (1 / p))


ANNEALED_UNTIL = 0.9
"""Share of the training after which an annealed rule gives pruned weights nothing."""


def _annealed(progress: float, alpha: float) -> float:
    """The slower of a sigmoid and a half cosine from alpha down, 0 in the last tenth.

    Source: AutoSparse, Kundu et al. 2023, as PQuantML 0.1 has it.
    """
    if progress >= ANNEALED_UNTIL:
        return 0.0
    cosine = (1 + math.cos(math.pi * progress)) / 2
    sigmoid = 1 / (1 + math.exp(-6 + 12 * progress))
    return alpha * max(cosine, sigmoid)


def _none(*parameters: float) -> str | None:
    return "it takes none" if parameters else None


def _share(*parameters: float) -> str | None:
    good = len(parameters) == 1 and 0 <= parameters[0] <= 1
    return None if good else "it takes one, from 0 to 1"


def _power(*parameters: float) -> str | None:
    good = len(parameters) <= 1 and all(p >= 1 for p in parameters)
    return None if good else "it takes one power, of at least 1"


register_operator("soft", _soft, _soft_slope, _none)
register_operator("hard", _hard, None, _none)
register_operator("feather", _feather, None, _power)
register_backward("masked", lambda progress: 0.0, _none)
register_backward("straight_through", lambda progress: 1.0, _none)
register_backward("scaled", lambda progress, theta: theta, _share)
register_backward("annealed", _annealed, _share)


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
    return apply_threshold(kernel, threshold, get_operator("soft"), 0.0)
