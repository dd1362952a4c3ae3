"""A partition as XNNPACK's nodes, after what XNNPACK folds together.

Sources, as of August 2026: LiteRT, tflite/delegates/xnnpack/xnnpack_delegate.cc (a
reshape before FULLY_CONNECTED); XNNPACK, src/subgraph.c (`xnn_subgraph_fusion`: a PAD
folded into a convolution; `optimize_common_subgraphs_*`: x * x, the minimum and maximum
with a number, activations folded into what is before them) and, in src/subgraph,
convolution-2d.c and depthwise-convolution-2d.c ("same" at stride 1 is explicit padding;
a plain 1x1 convolution becomes a fully connected node).
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from str_keras.export.xnnpack.delegate import TYPE, UNARY, Partition, integers
from str_keras.export.xnnpack.names import operator_name
from str_keras.export.xnnpack.weights import Weights, read_weights

_CLAMPS = ("RELU", "RELU6", "RELU_N1_TO_1")
# What holds the bounds of an activation itself.
_BOUNDED = ("conv", "depthwise", "fully_connected", "average_pool_2d", "max_pool_2d")
_BINARY = ("ADD", "MUL")
_CLAMPED = (*_BINARY, "SUB", "DIV")


@dataclasses.dataclass(frozen=True)
class Window:
    """Geometry of a convolution.

    Attributes:
        kernel, strides, dilation: Height and width.
        padding: Zeros above, right, below, left; None for "same" at a stride, which
            XNNPACK resolves only later.
        channels: Of the input, per group.
        groups: Of a convolution.
        multiplier: Of a depthwise one.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int] | None
    channels: int
    groups: int = 1
    multiplier: int = 1


@dataclasses.dataclass(eq=False)
class Node:
    """A node of XNNPACK's subgraph.

    Attributes:
        kind: "conv", "depthwise", "fully_connected", "unary", "binary", "mean",
            "depth_to_space", "resize", or a TFLite operator's name in lower case.
        operator: TFLite's name of the operator that it comes from.
        name: Of its Keras layer, or of the tensor that it gives.
        inputs: Tensors that it computes with; a kernel and a bias not among them.
        outputs: Tensors.
        weights: Its kernel, if it has one.
        window: If it is a convolution.
        axes: That a mean or sum reduces, from 0 on.
        keeps_dimensions: Of a mean or sum.
    """

    kind: str
    operator: str
    name: str
    inputs: list[int]
    outputs: list[int]
    weights: Weights | None = None
    window: Window | None = None
    axes: tuple[int, ...] = ()
    keeps_dimensions: bool = False
    is_clamp: bool = False


class Subgraph:
    """A partition's nodes, and what is known of its values.

    Args:
        partition: It.
    """

    def __init__(self, partition: Partition):
        self.partition = partition
        self.graph = partition.graph
        self._made: list[tuple[tuple[int, ...], int]] = []
        self.nodes: list[Node] = []
        for name, operator in partition.operators:
            self.nodes += self._lower(name, operator)
        self._fold_paddings()
        self._fold_clamps()
        self.producers = {
            tensor: i for i, node in enumerate(self.nodes) for tensor in node.outputs
        }

    def _is_made(self, tensor: int) -> bool:
        return tensor >= len(self.graph.tensors)

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Shape of a value; a free batch is 1."""
        if self._is_made(tensor):
            return self._made[tensor - len(self.graph.tensors)][0]
        return self.graph.shape(tensor)

    def type(self, tensor: int) -> int:
        """TFLite's type of a value."""
        if self._is_made(tensor):
            return self._made[tensor - len(self.graph.tensors)][1]
        return self.graph.tensors[tensor].type

    def is_static(self, tensor: int) -> bool:
        """Whether the value is known when the file is loaded."""
        return tensor in self.partition.static

    def computed(self, node: Node) -> list[int]:
        """The inputs of a node that are not static; one may come twice."""
        return [i for i in node.inputs if not self.is_static(i)]

    def is_external(self, tensor: int) -> bool:
        """Whether a value comes from outside of the partition or is read there."""
        return tensor not in self.producers or tensor in self.partition.read_outside

    def readers(self, tensor: int) -> list[int]:
        """Indices of the nodes that read a value."""
        return [i for i, node in enumerate(self.nodes) if tensor in node.inputs]

    def _make(self, shape: tuple[int, ...], like: int) -> int:
        self._made.append((shape, self.type(like)))
        return len(self.graph.tensors) + len(self._made) - 1

    def _lower(self, name: str, operator: Any) -> list[Node]:
        inputs = [int(i) for i in operator.inputs]
        outputs = [int(i) for i in operator.outputs]
        node = Node(
            name.lower(), name, operator_name(self.graph, operator), inputs, outputs
        )
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            return [self._convolution(node, operator.builtinOptions)]
        if name == "FULLY_CONNECTED":
            return self._fully_connected(node, operator.builtinOptions)
        node.inputs = [i for i in inputs if self.type(i) != TYPE.INT32]
        if name in ("MEAN", "SUM"):
            rank = len(self.shape(inputs[0]))
            axes = integers(self.graph, inputs[1]).ravel()
            node.kind, node.axes = "mean", tuple(int(a) % max(rank, 1) for a in axes)
            node.keeps_dimensions = bool(operator.builtinOptions.keepDims)
        elif name == "RESIZE_BILINEAR":
            node.kind = "resize"
        elif name in UNARY:
            node.kind, node.is_clamp = "unary", name in _CLAMPS
        elif name in (*_CLAMPED, "MINIMUM", "MAXIMUM"):
            return self._two_operands(node, operator.builtinOptions)
        return [node]

    def _two_operands(self, node: Node, options: Any) -> list[Node]:
        name, (first, second) = node.operator, node.inputs
        if name in _BINARY:
            node.kind = "binary"
        if name == "MUL" and first == second:
            node.kind, node.inputs = "unary", [first]
        if name in ("MINIMUM", "MAXIMUM"):
            numbers = [i for i in node.inputs if self._is_number(i)]
            others = [i for i in node.inputs if i not in numbers]
            if len(numbers) == 1 and len(self.shape(numbers[0])) <= len(
                self.shape(others[0])
            ):
                node.kind, node.inputs, node.is_clamp = "unary", others, True
            return [node]
        if not options.fusedActivationFunction:
            return [node]
        output = node.outputs[0]
        node.outputs = [self._make(self.shape(output), output)]
        clamp = Node("unary", "RELU", node.name, list(node.outputs), [output])
        clamp.is_clamp = True
        return [node, clamp]

    def _is_number(self, tensor: int) -> bool:
        return self.is_static(tensor) and math.prod(self.shape(tensor)) == 1

    def _fully_connected(self, node: Node, options: Any) -> list[Node]:
        source, kernel = node.inputs[:2]
        node.kind, node.inputs = "fully_connected", [source]
        node.weights = read_weights(self.graph, kernel)
        if options.keepNumDims:
            return [node]
        channels = self.shape(kernel)[1]
        rows = math.prod(self.shape(source)) // max(channels, 1)
        flat = self._make((rows, channels), source)
        node.inputs = [flat]
        return [Node("reshape", "RESHAPE", node.name, [source], [flat]), node]

    def _convolution(self, node: Node, options: Any) -> Node:
        source, kernel = node.inputs[:2]
        _, height, width, channels = self.shape(kernel)
        strides = options.strideH, options.strideW
        dilation = options.dilationHFactor, options.dilationWFactor
        padding: tuple[int, int, int, int] | None = (0, 0, 0, 0)
        if options.padding == schema.Padding.SAME:
            padding = None
            if strides == (1, 1):
                padding = _same((height, width), dilation)
        window = Window((height, width), strides, dilation, padding, channels)
        node.kind = "conv"
        if node.operator == "CONV_2D":
            groups = self.shape(source)[3] // channels
            window = dataclasses.replace(window, groups=groups)
        else:
            node.kind = "depthwise"
            multiplier = options.depthMultiplier
            window = dataclasses.replace(window, multiplier=multiplier)
        if node.kind == "conv" and _is_plain(window):
            node.kind = "fully_connected"
        node.inputs, node.window = [source], window
        node.weights = read_weights(self.graph, kernel)
        return node

    def _fold_paddings(self) -> None:
        counts = collections.Counter(i for n in self.nodes for i in set(n.inputs))
        counts.update(self.partition.read_outside)
        pads = {n.outputs[0]: n for n in self.nodes if n.kind == "pad"}
        widths = {out: self._spatial(pad) for out, pad in pads.items()}
        for node in list(self.nodes):
            source, window = node.inputs[0] if node.inputs else -1, node.window
            more = widths.get(source)
            if node.kind not in ("conv", "depthwise") or counts[source] != 1:
                continue
            if window is None or window.padding is None or more is None:
                continue
            top, right, bottom, left = map(sum, zip(window.padding, more, strict=True))
            padding = top, right, bottom, left
            node.window = dataclasses.replace(window, padding=padding)
            node.inputs = list(pads[source].inputs)
            self.nodes = [n for n in self.nodes if n is not pads[source]]

    def _spatial(self, pad: Node) -> tuple[int, ...] | None:
        """What a PAD adds above, right, below, left; None if to other dimensions."""
        operator = next(
            op for _, op in self.partition.operators if op.outputs[0] == pad.outputs[0]
        )
        widths = integers(self.graph, int(operator.inputs[1])).reshape(-1, 2)
        if len(widths) != 4 or np.any(widths[[0, 3]]):
            return None
        (top, bottom), (left, right) = widths[1].tolist(), widths[2].tolist()
        return top, right, bottom, left

    def _fold_clamps(self) -> None:
        """Merges an activation into the one node before it that has bounds."""
        counts = collections.Counter(i for n in self.nodes for i in set(n.inputs))
        counts.update(self.partition.read_outside)
        producers: dict[int, Node] = {}
        kept = []
        for node in self.nodes:
            before = producers.get(node.inputs[0]) if node.inputs else None
            bounded = before and (before.is_clamp or before.kind in _BOUNDED)
            if node.is_clamp and before and bounded and counts[node.inputs[0]] == 1:
                before.outputs = node.outputs
                node = before
            else:
                kept.append(node)
            producers |= dict.fromkeys(node.outputs, node)
        self.nodes = kept


def _is_plain(window: Window) -> bool:
    """Whether a convolution is defined as a fully connected node."""
    form = window.kernel, window.strides, window.groups, window.padding
    return form == ((1, 1), (1, 1), 1, (0, 0, 0, 0))


def _same(
    kernel: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """What "same" adds at stride 1: above, right, below, left."""
    height, width = ((k - 1) * d for k, d in zip(kernel, dilation, strict=True))
    return height // 2, width - width // 2, height - height // 2, width // 2
