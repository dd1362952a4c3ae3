"""Which nodes may run in NCHW; of another the rule that fails, why, and the mend.

Source, as of August 2026: XNNPACK, src/subgraph.c, `xnn_check_nchw_compatibility`.
"""

from __future__ import annotations

import dataclasses
import enum

from str_keras.export.xnnpack.delegate import FLOATS
from str_keras.export.xnnpack.nodes import Node, Subgraph, Window


class Role(enum.Flag):
    """What a node can be in a cluster."""

    NONE = 0
    INSIDE = enum.auto()  # NCHW in and out
    ENTERS = enum.auto()  # reads NHWC, gives NCHW: the first convolution
    LEAVES = enum.auto()  # reads NCHW, gives NHWC


@dataclasses.dataclass(frozen=True)
class Failure:
    """A rule that does not hold.

    Attributes:
        rule: Its short name.
        reason: What is against it; reads on from the node's name and a colon.
        mend: What to do.
    """

    rule: str
    reason: str
    mend: str


Answer = tuple[Role, Failure | None]

_STEM = (
    "the one convolution larger than 1x1 is the first: 3x3, stride 2, no groups or "
    "dilation"
)


def classify(node: Node, subgraph: Subgraph) -> Answer:
    """What a node can be in a cluster, and why it can be nothing."""
    values, kernel = (*node.inputs, *node.outputs), node.weights
    dynamic = kernel and kernel.dtype == "int8" and not kernel.dequantized
    if dynamic or any(subgraph.type(tensor) not in FLOATS for tensor in values):
        return _fails(
            "type",
            "it computes with integers",
            "store kernels as float32, float16 or int8_weights: sparse kernels compute "
            "in float32",
        )
    check = _CHECKS.get(node.kind)
    if check is not None:
        return check(node, subgraph)
    return _fails(
        "operator",
        f"{node.operator} is not among the operators of sparse inference",
        "build the model without it between the first convolution and the pooling, or "
        "store the file dense (sparse=False)",
    )


def _fails(rule: str, reason: str, mend: str) -> tuple[Role, Failure]:
    return Role.NONE, Failure(rule, reason, mend)


def _fully_connected(node: Node, subgraph: Subgraph) -> Answer:
    return Role.INSIDE, None


def _conv(node: Node, subgraph: Subgraph) -> Answer:
    window = node.window
    assert window is not None
    if window.groups != 1:
        return _fails("groups", f"it has {window.groups} groups", "use one group")
    if window.dilation != (1, 1):
        return _fails("dilation", f"its dilation is {_by(window.dilation)}", _STEM)
    if window.kernel == (1, 1):
        mend = "give a 1x1 convolution stride 1 and no padding"
        if window.padding not in (None, (0, 0, 0, 0)):
            return _fails("pointwise", f"it pads {_sides(window)}", mend)
        return _fails("pointwise", f"its stride is {_by(window.strides)}", mend)
    if window.kernel != (3, 3):
        reason = f"a convolution of {_by(window.kernel)}, where 1x1 runs sparse"
        return _fails("kernel", reason, _STEM)
    if window.strides != (2, 2):
        reason = (
            f"a 3x3 convolution of stride {_by(window.strides)}, where 2x2 is wanted"
        )
        return _fails("stride", reason, _STEM)
    if window.channels != 3:
        return _fails(
            "channels",
            f"a 3x3 convolution that reads {window.channels} "
            f"channel{'s'[: window.channels > 1]}, where 3 are wanted",
            "let the first convolution read images of 3 channels; others be 1x1",
        )
    if window.padding != (1, 1, 1, 1):
        return Role.NONE, _padding(window)
    return Role.ENTERS, None


def _depthwise(node: Node, subgraph: Subgraph) -> Answer:
    window = node.window
    assert window is not None
    half = window.kernel[0] // 2
    if window.dilation != (1, 1):
        reason = f"its dilation is {_by(window.dilation)}"
        return _fails("dilation", reason, "use dilation_rate=1")
    if window.multiplier != 1:
        reason = f"its depth multiplier is {window.multiplier}"
        return _fails("multiplier", reason, "use depth_multiplier=1")
    if window.strides not in ((1, 1), (2, 2)):
        reason = f"its stride is {_by(window.strides)}"
        return _fails("stride", reason, "use stride 1 or 2")
    if window.kernel not in ((3, 3), (5, 5)):
        reason = f"its kernel is {_by(window.kernel)}"
        return _fails("kernel", reason, "use depthwise kernels of 3x3 or 5x5")
    if window.padding != (half,) * 4:
        return Role.NONE, _padding(window)
    return Role.INSIDE, None


def _by(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]}x{sizes[1]}"


def _sides(window: Window) -> str:
    assert window.padding is not None
    names = ("above", "right", "below", "left")
    pads = zip(window.padding, names, strict=True)
    return ", ".join(f"{n} {side}" for n, side in pads)


def _padding(window: Window) -> Failure:
    half = window.kernel[0] // 2
    reason = (
        "it pads 'same' at stride 2"
        if window.padding is None
        else (f"it pads {_sides(window)}")
    )
    return Failure(
        "padding",
        f"{reason}, where {half} on every side is wanted",
        f"ZeroPadding2D({half}) and padding='valid'; stk.make_sparse_ready(model) "
        "does it where the outputs stay equal",
    )


def _binary(node: Node, subgraph: Subgraph) -> Answer:
    shapes = [subgraph.shape(i) for i in node.inputs]
    mend = (
        "keep operands of 4 dimensions, a constant first; stk.export.tflite(..., "
        "sparse=True) writes constants so"
    )
    if any(len(shape) != 4 for shape in shapes):
        reason = f"{node.operator} of {_shape(shapes[0])} and {_shape(shapes[1])}"
        return _fails("rank", f"{reason}, not both of 4 dimensions", mend)
    # XNNPACK measures the first operand, whichever of them is constant.
    static = [subgraph.is_static(i) for i in node.inputs]
    if any(static) and sum(n != 1 for n in shapes[0]) > 1:
        reason = "its second operand is a constant"
        if static[0]:
            reason = f"its constant {_shape(shapes[0])} varies in several dimensions"
        return _fails("constant", reason, mend)
    return Role.INSIDE, None


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _unary(node: Node, subgraph: Subgraph) -> Answer:
    return _with_4_dimensions(node, subgraph, Role.INSIDE)


def _mean(node: Node, subgraph: Subgraph) -> Answer:
    return _with_4_dimensions(node, subgraph, Role.INSIDE | Role.LEAVES)


def _with_4_dimensions(node: Node, subgraph: Subgraph, role: Role) -> Answer:
    shape = subgraph.shape(node.inputs[0])
    if len(shape) == 4:
        return role, None
    reason = f"{node.operator} of {_shape(shape)}, not of 4 dimensions"
    return _fails("rank", reason, "keep 4 dimensions up to the pooling")


def _resize(node: Node, subgraph: Subgraph) -> Answer:
    _, height, width, _ = subgraph.shape(node.inputs[0])
    if height > 1 and width > 1:
        return Role.INSIDE, None
    reason = f"it resizes {_by((height, width))} pixels"
    return _fails("resize", reason, "resize from 2x2 pixels on")


def _depth_to_space(node: Node, subgraph: Subgraph) -> Answer:
    return Role.LEAVES, None


_CHECKS = {
    "fully_connected": _fully_connected,
    "conv": _conv,
    "depthwise": _depthwise,
    "binary": _binary,
    "unary": _unary,
    "mean": _mean,
    "resize": _resize,
    "depth_to_space": _depth_to_space,
}
