"""Where the turned nodes leave a value in another layout, or shape, than is read.

XNNPACK does not check that a cluster ends in a node that turns its values back, and
reckons the shape of a mean with kept dimensions in NCHW wrong. Release builds compute
on (their assertions are compiled out), on Arm, WebAssembly and x86 without AVX alike.

Sources, as of August 2026: XNNPACK, in src/subgraph, `create_*` and `reshape_*` of
convolution-2d.c, fully-connected.c, depthwise-convolution-2d.c, unary.c, binary.c,
static-resize-bilinear-2d.c, depth-to-space-2d.c and static-reduce.c.
"""

from __future__ import annotations

import dataclasses
import math

from str_keras.export.xnnpack.clusters import Cause, Rewriting
from str_keras.export.xnnpack.nodes import Node
from str_keras.export.xnnpack.rules import Failure

_BATCH, _SPACE, _CHANNELS = 0, {1, 2}, 3
# static-reduce.c: NCHW_AXES_MAPPING, and what it takes for the inverse.
_TO_NCHW, _FROM_NCHW = (0, 2, 3, 1), (0, 3, 2, 1)
_POOLED = Failure(
    "pooled_head",
    "it reads pooled features of 4 dimensions, whose shape XNNPACK reckons wrong",
    "classify by GlobalAveragePooling2D() and Dense, the same function as "
    "GlobalAveragePooling2D(keepdims=True) and a 1x1 convolution; elsewhere let a 1x1 "
    "convolution come right after the pooling, and others after it",
)
SHAPE_ALONE = "pooled_output"
_GIVES_POOLED = Failure(
    SHAPE_ALONE,
    "pooled features of 4 dimensions are an output, of a wrong shape",
    "let GlobalAveragePooling2D drop its dimensions (keepdims=False)",
)
_PARTIAL = Failure(
    "pooling",
    "it averages over other dimensions than height and width together, or channels",
    "average over height and width together",
)
_LEFT = Failure(
    "output",
    "its output leaves XNNPACK's graph",
    "end in GlobalAveragePooling2D, or store the file dense (sparse=False)",
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """A node that gives wrong values, or that XNNPACK refuses.

    Attributes:
        node: Its index.
        refused: Whether runtimes with XNNPACK's checks of 2026 refuse the file for it.
        cause: The rule, and the index of the node that breaks it.
    """

    node: int
    refused: bool
    cause: Cause


def faults(rewriting: Rewriting) -> list[Fault]:
    """What goes wrong where sparse kernels are on."""
    return _Shapes(rewriting).faults


class _Shapes:
    """Follows the shapes that XNNPACK reckons, and layouts."""

    def __init__(self, rewriting: Rewriting):
        self.rewriting, self.subgraph = rewriting, rewriting.subgraph
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.faults: list[Fault] = []
        if not rewriting.nchw:
            return
        for i, node in enumerate(self.subgraph.nodes):
            for tensor in node.outputs:
                self.shapes[tensor] = self.subgraph.shape(tensor)
            if node.inputs and node.outputs:
                self._follow(i, node)
        outside = self.subgraph.partition.read_outside
        operators = self.subgraph.partition.read_by_operators
        for i, node in enumerate(self.subgraph.nodes):
            for tensor in outside.intersection(filter(self._is_off, node.outputs)):
                # Operators behind it are then given another shape than their own.
                self._add(i, Cause(_GIVES_POOLED, i), refused=tensor in operators)

    def _add(self, index: int, cause: Cause, refused: bool = False) -> None:
        self.faults.append(Fault(index, refused, cause))

    def _shape(self, tensor: int) -> tuple[int, ...]:
        return self.shapes.get(tensor, self.subgraph.shape(tensor))

    def _is_off(self, tensor: int) -> bool:
        return self._shape(tensor) != self.subgraph.shape(tensor)

    def _is_nchw(self, tensor: int) -> bool:
        return tensor in self.rewriting.nchw

    def _is_flat(self, tensor: int) -> bool:
        """Whether both layouts are the same bytes: one pixel, or one channel."""
        shape = self.subgraph.shape(tensor)
        return len(shape) != 4 or math.prod(shape[1:3]) == 1 or shape[3] == 1

    def _follow(self, index: int, node: Node) -> None:
        read, output = self.subgraph.computed(node), node.outputs[0]
        turns = any(map(self._is_nchw, read)) and not self._is_nchw(output)
        if node.kind == "mean":
            self._reduce(index, node)
        elif node.kind == "unary":
            self.shapes[output] = self._shape(read[0])
            short = math.prod(self._shape(read[0])) < math.prod(
                self.subgraph.shape(read[0])
            )
            if short:
                self._add(index, Cause(_POOLED, index))
            elif turns and not self._is_flat(output):
                self._add(index, self._why_not(output))
        elif node.kind in ("conv", "depthwise", "fully_connected"):
            self._multiply(index, node, turns)
        elif node.kind == "binary":
            self._combine(index, node, turns)
        elif node.kind == "reshape":
            if math.prod(self._shape(read[0])) != math.prod(
                self.subgraph.shape(read[0])
            ):
                self._add(index, Cause(_POOLED, index), refused=True)
        elif node.kind == "resize":
            if turns and not self._is_flat(output):
                self._add(index, self._why_not(output))
        elif any(map(self._is_off, read)) and node.kind != "depth_to_space":
            self._add(index, Cause(_POOLED, index))

    def _multiply(self, index: int, node: Node, turns: bool) -> None:
        source, output = node.inputs[0], node.outputs[0]
        if self._is_nchw(output):
            return
        if self._shape(source)[-1] != self.subgraph.shape(source)[-1]:
            self._add(index, Cause(_POOLED, index), refused=True)
        elif turns and not self._is_flat(source):
            self._add(index, self._why_not(output))

    def _combine(self, index: int, node: Node, turns: bool) -> None:
        output = node.outputs[0]
        shapes = [self._shape(tensor) for tensor in node.inputs]
        if self._is_nchw(output):
            shapes = [(shape[0], shape[-1], *shape[1:-1]) for shape in shapes]
        pairs = zip(*shapes, strict=False)
        if any(map(self._is_off, node.inputs)):
            fits = all(len(set(pair) - {1}) <= 1 for pair in pairs)
            self._add(index, Cause(_POOLED, index), refused=not fits)
        elif turns and not all(map(self._is_flat, [*node.inputs, output])):
            self._add(index, self._why_not(output))

    def _reduce(self, index: int, node: Node) -> None:
        source, output = node.inputs[0], node.outputs[0]
        if not self._is_nchw(source):
            return
        held = self.subgraph.shape(source)
        dims = [held[axis] for axis in _FROM_NCHW]
        axes = {_TO_NCHW[axis] for axis in node.axes}
        given = self._is_nchw(output)
        gone = []
        for axis in range(4):
            mapped = _TO_NCHW[_FROM_NCHW[axis]] if given else axis
            reduced = axes
            if given and node.keeps_dimensions:
                reduced = {_TO_NCHW[a] for a in axes}
            gone.append(mapped in reduced)
        shape = [
            1 if reduced else n
            for n, reduced in zip(dims, gone, strict=True)
            if node.keeps_dimensions or not reduced
        ]
        self.shapes[output] = tuple(shape)
        # Of height, width and channels together, what is left stands in another order;
        # and batch and channels together are mixed up.
        reduced = set(node.axes)
        alone = reduced >= _SPACE or _CHANNELS in reduced
        if not alone or reduced >= {_BATCH, _CHANNELS}:
            self._add(index, Cause(_PARTIAL, index))

    def _why_not(self, tensor: int) -> Cause:
        """Why a value is not held in NCHW."""
        for i in self.subgraph.readers(tensor):
            failure = self.rewriting.failures[i]
            if failure is not None:
                return Cause(failure, i)
        for i in self.subgraph.readers(tensor):
            cause = self.rewriting.cause_of(i)
            if cause is not None:
                return cause
        return Cause(_LEFT, self.subgraph.producers[tensor])
