"""Named choices of what to leave dense: where a zero brings no speed, or no bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from str_keras.internals import calls_behind, calls_of

POLICIES = {
    "latency": "only what XNNPACK multiplies faster for its zeros: 1x1 convolutions of "
    "stride 1 and Dense layers on images; not the first convolution, depthwise ones, "
    "nor a classifier right after the pooling",
    "size": "whatever takes less of the file without its zeros: all but the smallest "
    "kernels",
}
"""What each prunes, by name."""

_ZEROS = 0.9  # share at which "size" asks what a kernel takes
_VALUE_BYTES = 2  # float16
# Beside the values: tensors, operators and the description of the encoding.
_STRUCTURE_BYTES = 260


def check_policy(policy: str | None) -> None:
    """Raises a ValueError for a policy that is not known."""
    if policy is not None and policy not in POLICIES:
        raise ValueError(
            f"`policy` is one of {', '.join(POLICIES)}, or None. Received: {policy=}"
        )


def why_dense(
    policy: str | None,
    layer: keras.Layer,
    name: str,
    shape: Sequence[int],
    filter_axes: Sequence[int],
) -> str:
    """Why a policy leaves a kernel dense; empty if it does not.

    Args:
        policy: Of `POLICIES`; None leaves none.
        layer: The built layer that reads the kernel.
        name: Of the kernel's variable.
        shape: Of the kernel.
        filter_axes: Its axes that count output filters.
    """
    check_policy(policy)
    reason = ""
    if policy == "latency":
        reason = _why_no_faster(layer, name)
    elif policy == "size":
        reason = _why_no_smaller(layer, name, shape, filter_axes)
    return f"policy {policy}: {reason}" if reason else ""


def _why_no_faster(layer: keras.Layer, name: str) -> str:
    """What keeps sparse kernels from a layer, wherever it stands.

    Source: XNNPACK's `xnn_check_nchw_compatibility`, src/subgraph.c, and its sparse
    multiplication, to which 1x1 convolutions and fully connected nodes go. It is for
    the whole model to qualify: see `stk.sparse_ready_report` and, of a file,
    `stk.export.check_sparse`.
    """
    if isinstance(layer, layers.Dense) and name == "kernel":
        read = [tensor for call in calls_of(layer) for tensor in call.input_tensors]
        if any(len(tensor.shape) != 4 for tensor in read):
            return "Dense runs sparse on images alone"
        return _why_not_as_classifier(layer)
    if isinstance(layer, layers.SeparableConv2D):
        pointwise = name == "pointwise_kernel"
        return "" if pointwise else "its depthwise part runs dense"
    if not isinstance(layer, layers.Conv2D):
        return f"{type(layer).__name__} runs dense"
    size = tuple(layer.kernel_size)
    if size != (1, 1):
        return f"convolutions of {size[0]}x{size[1]} run dense"
    if tuple(layer.strides) != (1, 1) or layer.groups != 1:
        return "1x1 convolutions with strides or groups run dense"
    return _why_not_as_classifier(layer)


def _why_not_as_classifier(layer: keras.Layer) -> str:
    """What keeps them from a layer that reads pooled features and ends the net.

    It has to be a fully connected node without height and width, which runs dense: as
    a convolution it is refused, or wrong.
    """
    calls = calls_of(layer)
    if calls and all(map(_is_classifier, calls)):
        return "the classifier runs dense"
    return ""


def _is_classifier(call: Any) -> bool:
    """Whether a call reads nothing but what was pooled, and ends the net.

    One whose outputs go into a product or sum (squeeze and excitation) runs sparse, and
    so does one that another of its kind follows; the zeros of that one count to the
    share that switches sparse kernels on.
    """
    if not _reads_pixel(call):
        return False
    above = list(call.parent_nodes)
    while above:
        found = above.pop()
        if _has_matrix(found):
            return False
        if _reads_pixel(found):
            above += found.parent_nodes
    behind = calls_behind(call)
    while behind:
        found = behind.pop()
        if _has_matrix(found) or len(found.input_tensors) > 1:
            return False
        behind += calls_behind(found)
    return True


def _reads_pixel(call: Any) -> bool:
    """Whether a call is on nothing but images of one pixel."""
    shapes = [tuple(tensor.shape) for tensor in call.input_tensors]
    return bool(shapes) and all(len(s) == 4 and s[1:3] == (1, 1) for s in shapes)


def _has_matrix(call: Any) -> bool:
    weights = getattr(call.operation, "weights", [])
    return any(len(weight.shape) > 1 for weight in weights)


def _why_no_smaller(
    layer: keras.Layer, name: str, shape: Sequence[int], filter_axes: Sequence[int]
) -> str:
    """Compares what a kernel of 90 % zeros takes of a file with them and without.

    Without them it is rows: values and their places, in integers as narrow as fits, and
    where each row begins.
    """
    number, row = math.prod(shape), row_length(layer, name, shape, filter_axes)
    kept = math.ceil((1 - _ZEROS) * number)
    sparse = kept * (_VALUE_BYTES + _integer_bytes(row - 1)) + _STRUCTURE_BYTES
    sparse += (number // row + 1) * _integer_bytes(kept)
    return "" if sparse < number * _VALUE_BYTES else "its zeros would save no bytes"


def row_length(
    layer: keras.Layer, name: str, shape: Sequence[int], filter_axes: Sequence[int]
) -> int:
    """Weights in a row of a kernel in a .tflite file, whose last dimension is sparse.

    Rows lie along the input channels, of a depthwise kernel along all channels, of a
    three-dimensional convolution's along the output channels.

    Args:
        layer, name, shape, filter_axes: As of `why_dense`.

    Source: the converter's encoding in LiteRT,
    tflite/converter/transforms/dense_to_sparse_pass.cc.
    """
    filters = {axis % len(shape) for axis in filter_axes}
    inputs = [n for axis, n in enumerate(shape) if axis not in filters]
    depthwise = layers.DepthwiseConv1D | layers.DepthwiseConv2D
    if isinstance(layer, depthwise) or name == "depthwise_kernel":
        return math.prod(shape[axis] for axis in filters)
    if isinstance(layer, layers.Conv3D):
        return shape[-1]
    return math.prod(inputs) if isinstance(layer, layers.EinsumDense) else inputs[-1]


def _integer_bytes(largest: int) -> int:
    return 1 if largest < 256 else 2 if largest < 65536 else 4
