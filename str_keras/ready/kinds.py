"""What each call does to an image: which kinds keep pixels in place, which sum them up.

Only what is known is named; any other layer or operation is opaque: images come to it,
and leave it, the way they stood in the model.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from str_keras import internals
from str_keras.ready.graph import Node, Part, Value
from str_keras.ready.windows import is_changed_by_keras, pair

# What a layer's `activation` may be, by its name; all of one number. XNNPACK runs them
# on images with the channels first: clamps, unary operators, and such as are made of
# them, of additions and of multiplications.
ACTIVATIONS = frozenset(
    (
        *("linear", "relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "sigmoid"),
        *("hard_sigmoid", "hard_silu", "log_sigmoid", "tanh", "hard_tanh"),
        *("softplus", "exponential", "mish"),
    )
)
# Of one number too, but of operators that it does not.
OTHER_ACTIVATIONS = frozenset(
    (
        *("selu", "celu", "tanh_shrink", "soft_shrink", "hard_shrink", "squareplus"),
        *("softsign", "sparse_plus", "sparse_sigmoid", "softmax", "log_softmax"),
    )
)
# Where a convolution ends in one of these it is part of the convolution.
CLAMPS = frozenset(("linear", "relu", "relu6", "hard_tanh"))

# Nothing in inference.
IDENTITIES = (
    *(layers.Identity, layers.Dropout, layers.SpatialDropout2D, layers.AlphaDropout),
    *(layers.GaussianDropout, layers.GaussianNoise, layers.ActivityRegularization),
)
MERGES = (
    *(layers.Add, layers.Multiply, layers.Average, layers.Subtract),
    *(layers.Maximum, layers.Minimum),
)
_POINTWISE = (
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Activation, layers.Softmax),
    *(layers.BatchNormalization, layers.LayerNormalization, layers.Normalization),
    *(layers.Rescaling, layers.Dense, layers.Concatenate, *MERGES, *IDENTITIES),
)
_UNARY_OPERATIONS = frozenset(
    (
        *("Relu", "Relu6", "LeakyRelu", "Elu", "Gelu", "Silu", "Sigmoid", "Tanh"),
        *("HardSigmoid", "HardSilu", "HardTanh", "LogSigmoid", "Softplus"),
        *("Exp", "Negative", "Absolute", "Square", "Sqrt", "Cast", "Clip"),
    )
)
_BINARY_OPERATIONS = frozenset(
    ("Add", "Multiply", "Subtract", "Divide", "TrueDivide", "Maximum", "Minimum")
)
POOLINGS = (layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)


def operation(part: Part) -> str:
    """Name of an operation of `keras.ops`; "" of layers."""
    return internals.operation_name(part.layer) if part.layer is not None else ""


def activation_of(part: Part) -> str | None:
    """Name of Keras' own activation that a layer ends in; None of any other.

    A layer without one ends in "linear".
    """
    config = part.config
    if part.kind is layers.ReLU:
        plain = not config["negative_slope"] and not config["threshold"]
        bound = config["max_value"]
        names = {None: "relu", 6.0: "relu6"}
        return names.get(bound) if plain else None
    if part.kind is layers.LeakyReLU:
        return "leaky_relu"
    if part.kind is layers.ELU:
        return "elu" if config["alpha"] == 1 else None
    name = config.get("activation", "linear")
    known = isinstance(name, str) and name in ACTIVATIONS | OTHER_ACTIVATIONS
    return name if known else None


def is_average(node: Node) -> bool:
    """Whether a call averages, or adds up, over height and width."""
    if node.part.kind is layers.GlobalAveragePooling2D:
        return True
    axes = getattr(node.part.layer, "axis", None)
    if operation(node.part) not in ("Mean", "Sum") or not isinstance(
        axes, tuple | list
    ):
        return False
    return node.inputs[0].is_image and {a % 4 for a in axes} == {1, 2}


def sums_up(node: Node) -> bool:
    """Whether its output does not depend on where the pixels of its input stand."""
    return node.part.kind in POOLINGS or is_average(node)


def _is_constant_per_channel(x: Any) -> bool:
    """Whether an argument that is no tensor of the graph is the same on all pixels."""
    shape = np.shape(x) if x is not None else ()
    return len(shape) < 2 or all(n == 1 for n in shape[:-1])


def _operands(node: Node) -> list[Any]:
    flat = keras.tree.flatten((node.args, node.kwargs))
    return [x for x in flat if x is not None]


def _has_last_axis(axis: Any) -> bool:
    axes = axis if isinstance(axis, tuple | list) else (axis,)
    return all(a in (-1, 3) for a in axes)


def is_pointwise(node: Node) -> bool:
    """Whether each output pixel depends on the input pixels of its place alone.

    And on all alike; what an activation does to the channels of a pixel is open.
    """
    part, kind = node.part, node.part.kind
    operands = [x for x in _operands(node) if isinstance(x, Value)]
    if not operands or not all(v.is_image for v in [*operands, *node.outputs]):
        return False
    if is_changed_by_keras(part.layer):
        return False
    name = operation(part)
    if name in _BINARY_OPERATIONS | _UNARY_OPERATIONS:
        others = [x for x in _operands(node) if not isinstance(x, Value)]
        return all(map(_is_constant_per_channel, others))
    if kind not in _POINTWISE or len(node.outputs) > 1:
        return False
    if not _has_last_axis(part.config.get("axis", -1)):
        return False
    if kind is layers.Rescaling:
        given = part.config["scale"], part.config["offset"]
        return all(_is_constant_per_channel(x) for x in given)
    if kind is layers.BatchNormalization and part.config.get("renorm"):
        return False
    plain = ("activation" not in part.config) or activation_of(part) is not None
    return plain or kind is layers.ReLU


def is_addition(node: Node) -> bool:
    """Whether a call adds or multiplies; XNNPACK runs no other operator of two."""
    binary = {"Add", "Multiply", "Divide", "TrueDivide"}
    if operation(node.part) in binary:
        first_is_tensor = isinstance(_operands(node)[0], Value)
        return operation(node.part) in {"Add", "Multiply"} or (
            first_is_tensor and len(node.inputs) == 1
        )
    return node.part.kind in (layers.Add, layers.Multiply, layers.Average)


def is_unary(node: Node) -> bool:
    """Whether a call is one of one tensor that XNNPACK runs with the channels first."""
    name = operation(node.part)
    if name:
        return name in _UNARY_OPERATIONS - {"Cast", "Clip"}
    kinds = (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Activation)
    return node.part.kind in kinds and activation_of(node.part) in ACTIVATIONS


def is_operation_of_any_rank(node: Node) -> bool:
    """Whether a call of `keras.ops` works on [batch, channels] as it does on images."""
    others = [x for x in _operands(node) if not isinstance(x, Value)]
    known = _BINARY_OPERATIONS | _UNARY_OPERATIONS
    return operation(node.part) in known and all(np.ndim(x) < 2 for x in others)


def is_pixelwise_convolution(node: Node) -> bool:
    """Whether a call is a 1x1 convolution of stride 1 or one pixel, and one group."""
    part = node.part
    if part.kind is not layers.Conv2D or is_changed_by_keras(part.layer):
        return False
    still = pair(part.config["strides"]) == (1, 1) or node.inputs[0].is_pixel
    return (
        still
        and pair(part.config["kernel_size"]) == (1, 1)
        and part.config["groups"] == 1
    )


def is_dense_of_images(node: Node) -> bool:
    """Whether a call is a Dense layer over the channels of each pixel."""
    return node.part.kind is layers.Dense and is_pointwise(node)


def runs_channels_first(node: Node) -> bool:
    """Whether XNNPACK runs a call inside of a sparse part, windows aside.

    Batch norms and constants become multiplications and additions of constants, which
    `stk.export.tflite` writes the way that XNNPACK takes them.
    """
    if node.part.kind in IDENTITIES:
        return True
    if is_pixelwise_convolution(node) or is_dense_of_images(node):
        return True
    if not is_pointwise(node):
        return False
    constant = (layers.BatchNormalization, layers.Rescaling)
    return is_unary(node) or is_addition(node) or node.part.kind in constant
