"""What each layer does to the channels that pass through it.

A channel is an index of a tensor's last axis. For each call of a layer a `Step` says
which of its output's channels are constant, given those of its inputs, and which of its
inputs' channels its output needs; what is not known is `Opaque`: it needs everything
and gives nothing away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import activations, layers

Array = np.ndarray
Tensor = Any
ops: Any = keras.ops  # untyped there

# Of one number, so that a constant channel stays constant.
_ELEMENTWISE = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu"),
    *("sigmoid", "hard_sigmoid", "hard_silu", "log_sigmoid", "tanh", "hard_tanh"),
    *("tanh_shrink", "soft_shrink", "hard_shrink", "squareplus"),
    *("softplus", "softsign", "sparse_plus", "sparse_sigmoid", "mish", "exponential"),
)
_ACTIVATIONS = (layers.ReLU, layers.LeakyReLU, layers.ELU)
# In inference a constant channel leaves them as it came.
_UNCHANGED = (
    *(layers.Identity, layers.Dropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
)
# "same" may average zeros of the padding in: not on every backend.
_AVERAGES = (layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
_PADDINGS = (layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def _values(variable: Any) -> Array:
    return np.asarray(ops.convert_to_numpy(variable), np.float64)


def _widest_float() -> str:
    """float64; float32 on JAX where that is not enabled, with a warning otherwise."""
    if keras.backend.backend() != "jax":
        return "float64"
    import jax

    return "float64" if jax.config.read("jax_enable_x64") else "float32"


def apply_elementwise(function: Callable, values: Array) -> Array:
    """`function` of constants; NaN, which stands for "not constant", stays NaN."""
    known = np.isfinite(values)
    tensor = ops.convert_to_tensor(np.where(known, values, 0.0)[None], _widest_float())
    return np.where(known, ops.convert_to_numpy(function(tensor))[0], np.nan)


def _elementwise(function: Any) -> Callable | None:
    """The function if it is one of those of a single number, else None."""
    name = getattr(function, "__name__", None)
    known = name in _ELEMENTWISE and function is activations.get(name)
    return function if known else None


@dataclass(eq=False)
class Step:
    """One call of a layer; a subclass per kind of layer.

    Args:
        layer: The layer, or a `keras.ops` operation.
        inputs: Symbolic tensors that it reads.
        output: Symbolic tensor that it gives, of the inputs' channels unless told.
    """

    layer: Any
    inputs: list[Tensor]
    output: Tensor

    def constants(self, inputs: list[Array]) -> Array:
        """The output's channels, given the inputs': a constant, or NaN where varying.

        Args:
            inputs: Of each input an array of shape (channels,).
        """
        return inputs[0]

    def needed(self, output: Array) -> Array:
        """Which channels of each input the channels `output` (bools) depend on."""
        return output

    def weights(self, kept: Array, inputs: Array, output: Array) -> dict[str, Array]:
        """The layer's weights of the kept channels, by name.

        Args:
            kept: Indices of the output's channels that stay.
            inputs: Indices of the input's channels that stay.
            output: Which of the output's channels are needed, as bools.
        """
        return {}


class Opaque(Step):
    """A layer that is left alone, with all that it reads and gives."""


class Unchanged(Step):
    """Dropout, pooling: constants pass."""


class Elementwise(Step):
    """An activation."""

    function: Callable

    def constants(self, inputs: list[Array]) -> Array:
        """The function of each constant."""
        return apply_elementwise(self.function, inputs[0])


class Padding(Step):
    """Zeros around: a channel stays constant only if it is zero itself."""

    def constants(self, inputs: list[Array]) -> Array:
        """Zeros alone."""
        return np.where(inputs[0] == 0, 0.0, np.nan)


class Addition(Step):
    """A sum of tensors of one shape."""

    def constants(self, inputs: list[Array]) -> Array:
        """The sum where all are constant."""
        return np.sum(inputs, axis=0)


class Flattening(Step):
    """Channel c becomes the features c, c + channels, c + 2 channels and so on."""

    @property
    def positions(self) -> int:
        """Number of features of one channel."""
        return math.prod(self.inputs[0].shape[1:-1])

    def constants(self, inputs: list[Array]) -> Array:
        """Each constant once per position."""
        return np.tile(inputs[0], self.positions)

    def needed(self, output: Array) -> Array:
        """A channel is needed if one of its features is."""
        features: Any = output.reshape(self.positions, -1)
        return features.any(0)


class Normalization(Step):
    """Batch normalization in inference."""

    def __init__(self, layer: Any, inputs: list[Tensor], output: Tensor):
        super().__init__(layer, inputs, output)
        size = output.shape[-1]
        self.gamma = _values(layer.gamma) if layer.scale else np.ones(size)
        self.beta = _values(layer.beta) if layer.center else np.zeros(size)
        self.mean = _values(layer.moving_mean)
        self.variance = _values(layer.moving_variance)

    def constants(self, inputs: list[Array]) -> Array:
        """The normalized constant; beta wherever gamma is zero."""
        scale = self.gamma / np.sqrt(self.variance + self.layer.epsilon)
        normalized = (inputs[0] - self.mean) * scale + self.beta
        return np.where(self.gamma == 0, self.beta, normalized)

    def needed(self, output: Array) -> Array:
        """Those that gamma lets through."""
        return output & (self.gamma != 0)

    def weights(self, kept: Array, inputs: Array, output: Array) -> dict[str, Array]:
        """Gamma, beta and the statistics of the kept channels."""
        return {v.name: _values(v)[kept] for v in self.layer.weights}


class Depthwise(Step):
    """A convolution of each channel for itself."""

    def __init__(self, layer: Any, inputs: list[Tensor], output: Tensor):
        super().__init__(layer, inputs, output)
        self.kernel = _values(layer.kernel)[..., 0]
        taps = tuple(range(self.kernel.ndim - 1))
        self.sums, self.alive = self.kernel.sum(taps), (self.kernel != 0).any(taps)
        self.bias = _values(layer.bias) if layer.use_bias else 0.0
        self.padded = is_padded(layer)

    def constants(self, inputs: list[Array]) -> Array:
        """The bias where the kernel is zero, else as the padding lets it."""
        known = is_foldable(inputs[0], self.padded)
        values = np.where(known, inputs[0], np.nan) * self.sums
        values = np.where(self.alive, values, 0.0) + self.bias
        return apply_elementwise(self.layer.activation, values)

    def needed(self, output: Array) -> Array:
        """Those whose kernel is not zero."""
        return output & self.alive

    def weights(self, kept: Array, inputs: Array, output: Array) -> dict[str, Array]:
        """Kernel and bias of the kept channels, zero where nobody needs them."""
        kernel = np.where(output, self.kernel, 0.0)[..., kept, None]
        if not self.layer.use_bias:
            return {"kernel": kernel}
        return {"kernel": kernel, "bias": np.where(output, self.bias, 0.0)[kept]}


class Mixing(Step):
    """A convolution or Dense: its output has channels of its own.

    `activation` is None where a constant cannot be told from its inputs' (softmax).
    """

    def __init__(self, layer: Any, inputs: list[Tensor], output: Tensor):
        super().__init__(layer, inputs, output)
        self.kernel = _values(layer.kernel)
        taps = tuple(range(self.kernel.ndim - 2))
        self.sums, self.reads = self.kernel.sum(taps), (self.kernel != 0).any(taps)
        self.bias = (
            _values(layer.bias) if layer.use_bias else np.zeros(len(self.reads.T))
        )
        self.activation = _elementwise(layer.activation)
        self.padded = is_padded(layer)

    def constants(self, inputs: list[Array]) -> Array:
        """Where all that a filter reads is constant, and no padding interferes."""
        if self.activation is None:
            return np.full(len(self.bias), np.nan)
        known = is_foldable(inputs[0], self.padded)
        values = np.where(known, inputs[0], 0.0) @ self.sums + self.bias
        values[self.reads[~known].any(0)] = np.nan
        return apply_elementwise(self.activation, values)

    def needed(self, output: Array) -> Array:
        """Those that a needed filter reads."""
        return self.reads[:, output].any(1)

    def weights(self, kept: Array, inputs: Array, output: Array) -> dict[str, Array]:
        """Kernel and bias of the kept channels, zero where nobody needs them."""
        kernel = np.where(output, self.kernel, 0.0)[..., inputs, :][..., kept]
        return {"kernel": kernel, "bias": np.where(output, self.bias, 0.0)[kept]}


def is_padded(layer: Any) -> bool:
    """Whether a convolution or pooling may read zeros beyond the edge."""
    size = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", (1,))
    return getattr(layer, "padding", "valid") != "valid" and set(size) != {1}


def is_foldable(constants: Array, padded: bool) -> Array:
    """Which channels a convolution may get from a bias: at its edges 0 alone."""
    return constants == 0 if padded else np.isfinite(constants)


def _is_last(layer: Any, output: Tensor) -> bool:
    """Whether the channels stand on the last axis, in a known number."""
    last = getattr(layer, "data_format", None) in (None, "channels_last")
    return last and len(output.shape) > 1 and output.shape[-1] is not None


def _is_modified(layer: Any) -> bool:
    """Whether a layer computes otherwise than its kernel says."""
    quantized = getattr(layer, "quantization_mode", None) is not None
    return quantized or getattr(layer, "lora_enabled", False)


def create_step(layer: Any, inputs: list[Tensor], output: Tensor) -> Step:
    """The `Step` of a call of a layer, `Opaque` if its type or options are not known.

    Types are compared exactly: a subclass may compute something else.

    Args:
        layer: A layer or operation.
        inputs: Symbolic tensors of the call.
        output: What it gives.
    """
    kind, arguments = type(layer), (layer, inputs, output)
    if not _is_last(layer, output) or _is_modified(layer) or not inputs:
        return Opaque(*arguments)
    if kind is layers.Add:
        same = len({tuple(x.shape) for x in inputs}) == 1
        return Addition(*arguments) if same else Opaque(*arguments)
    if len(inputs) > 1 or inputs[0].shape[-1] is None:
        return Opaque(*arguments)
    flat = kind is layers.Flatten and len(inputs[0].shape) == 2
    if kind in _UNCHANGED or flat or (kind in _AVERAGES and not is_padded(layer)):
        return Unchanged(*arguments)
    if kind in _PADDINGS or kind in _AVERAGES:
        return Padding(*arguments)
    if kind in _ACTIVATIONS or (
        kind is layers.Activation and _elementwise(layer.activation)
    ):
        step = Elementwise(*arguments)
        step.function = layer.activation if kind is layers.Activation else layer.call
        return step
    if kind is layers.Flatten:
        return Flattening(*arguments)
    return _create_weighted(*arguments)


def _create_weighted(layer: Any, inputs: list[Tensor], output: Tensor) -> Step:
    kind, arguments = type(layer), (layer, inputs, output)
    if kind is layers.BatchNormalization:
        last = layer.axis in (-1, len(output.shape) - 1)
        if last and not getattr(layer, "renorm", False):
            return Normalization(*arguments)
    elif kind in _DEPTHWISE:
        if layer.depth_multiplier == 1 and _elementwise(layer.activation):
            return Depthwise(*arguments)
    elif kind is layers.Dense or (kind in _CONVOLUTIONS and layer.groups == 1):
        return Mixing(*arguments)
    return Opaque(*arguments)
