"""Whether a net has the form that XNNPACK's sparse kernels want, and what stands in
the way.

A sparse part begins at a 3x3 convolution of stride 2 on three channels, padded by 1 on
every side, and ends at the average over all pixels; everything in between has to be of
kinds that run with the channels first, and nothing inside may be read outside. One
layer of another kind inside turns it off, or makes outputs wrong where sparse kernels
are on: `stk.export.check_sparse` replays the rules on a file, in full.

Source: XNNPACK, src/subgraph.c (xnn_check_nchw_compatibility and
xnn_subgraph_rewrite_for_nchw).
"""

from __future__ import annotations

from keras import layers

from str_keras.ready.graph import Graph, Node, Value
from str_keras.ready.heads import misreads_pooled
from str_keras.ready.kinds import (
    ACTIVATIONS,
    MERGES,
    activation_of,
    is_average,
    runs_channels_first,
)
from str_keras.ready.placing import STEM_CHANNELS, fit, sizes_wanted
from str_keras.ready.report import Obstacle
from str_keras.ready.windows import Windows, pair, zeros_of

_RETRAIN = "another layer in its place, trained"
_INEXACT = "exact=False, and fine-tune"


class Rules:
    """The rules on a graph.

    Args:
        graph: As it would be converted.

    Attributes:
        obstacles: What stands in the way.
        inside: Ids of the calls of the sparse parts.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.producers, self.consumers = graph.producers(), graph.consumers()
        self.obstacles: list[Obstacle] = []
        self.inside: set[int] = set()
        self._values: set[int] = set()
        self._ends = self._works = False
        for node in graph.nodes:
            self._visit(node)
        self._check_ends()

    @property
    def holds(self) -> bool:
        """Whether there is a sparse part, and nothing stands in its way."""
        return bool(self.inside) and not self.obstacles

    def _add(self, path: str, kind: str, reason: str, mend: str) -> None:
        found = Obstacle(path, kind, reason, mend)
        if found not in self.obstacles:
            self.obstacles.append(found)

    def _enter(self, node: Node) -> None:
        self.inside.add(id(node))
        self._values |= {id(v) for v in node.outputs}

    def _is_inside(self, value: Value) -> bool:
        return id(value) in self._values

    def _visit(self, node: Node) -> None:
        images = [v for v in node.inputs if v.is_image]
        read = [v for v in images if self._is_inside(v)]
        if not read:
            self._visit_outside(node)
        elif is_average(node):
            self._ends = True
            if node.output.is_image:
                self._enter(node)
            else:
                self.inside.add(id(node))
        elif self._passes(node):
            self._visit_inside(node, len(read) == len(images))
        else:
            self._leave(node, read)

    def _visit_outside(self, node: Node) -> None:
        """A stem, what it could have been, or a layer in front of it."""
        if node.part.kind is not layers.Conv2D or not node.output.is_image:
            return
        reason = self._stem_obstacle(node)
        if reason is None:
            self._enter(node)
        elif self._is_first(node):
            self._add(node.path, _kind(node), *reason)
            self._enter(node)  # what else would stand in the way?

    def _is_first(self, node: Node) -> bool:
        """Whether no convolution stands before a call."""
        seen, waiting = set(), list(node.inputs)
        while waiting:
            above = self.producers.get(id(waiting.pop()))
            if above is None or id(above) in seen:
                continue
            if above.part.kind in (layers.Conv2D, layers.DepthwiseConv2D):
                return False
            seen.add(id(above))
            waiting += above.inputs
        return True

    def _stem_obstacle(self, node: Node) -> tuple[str, str] | None:
        """Why a convolution is no stem, and the mend; None if it is one."""
        config = node.part.config
        size, strides = pair(config["kernel_size"]), pair(config["strides"])
        channels = node.inputs[0].shape[-1]
        want = "a stem of 3x3, stride 2, padding 1, trained"
        if channels != STEM_CHANNELS:
            return (
                f"the first convolution reads {channels} channels; it must be 3",
                "images of 3 channels, and train anew",
            )
        if config["groups"] != 1:
            return "the first convolution has groups", want
        if strides != (2, 2):
            told = "x".join(map(str, strides))
            return f"the first convolution has stride {told}; it must be 2", want
        if max(size) > 3:
            told = "x".join(map(str, size))
            return f"the first convolution is {told}; it must be 3x3", want
        return self._padding_obstacle(node)

    def _padding_obstacle(self, node: Node) -> tuple[str, str] | None:
        """Why windows are not those of a padding by half the kernel; None if so."""
        windows = Windows(node, self.producers)
        known = [r for r in windows.reach if r is not None]
        if len(known) < 2:
            if windows.is_centered():
                return None
            return "the size of its image is not known", "a fixed input size"
        plan = fit(node, known)
        wanted = plan is not None and plan[1] == (0, 0) and windows.size[0] == plan[0]
        if wanted and windows.dilation == (1, 1):
            return None
        rows, columns = known
        told = f"({rows.before}, {rows.after}), ({columns.before}, {columns.after})"
        half = max(windows.size) // 2
        extents = f"{rows.extent}x{columns.extent}"
        return (
            f"reads zeros {told} around {extents} pixels; whichever way the net is "
            f"turned, {half} on every side is another padding",
            _INEXACT,
        )

    def _passes(self, node: Node) -> bool:
        """Whether a call may stand inside."""
        part = node.part
        if zeros_of(part) is not None:
            readers = self.consumers.get(id(node.output), [])
            return len(readers) == 1 and bool(sizes_wanted(readers[0]))
        if sizes_wanted(node) and part.kind is layers.DepthwiseConv2D:
            return self._padding_obstacle(node) is None
        if part.kind is layers.UpSampling2D:
            smooth = part.config["interpolation"] == "bilinear"
            return smooth and not node.inputs[0].is_pixel
        return runs_channels_first(node) and _ends_well(node)

    def _visit_inside(self, node: Node, alone: bool) -> None:
        if not alone:
            self._add(
                node.path,
                _kind(node),
                "one of its inputs does not come through the stem",
                "a net of one stem",
            )
        read = {id(v) for v in node.inputs}
        if len(read) < len(node.inputs) and node.part.kind is not layers.Multiply:
            self._add(
                *(node.path, _kind(node), "reads one image twice: counts as shared"),
                "a multiplication by 2 in its place",
            )
        self._check_pooled(node)
        self._works |= node.part.kind in (layers.Conv2D, layers.Dense)
        self._enter(node)

    def _check_pooled(self, node: Node) -> None:
        if misreads_pooled(node, self.graph, self.producers, self.consumers):
            self._add(
                node.path,
                _kind(node),
                "reads pooled features: wrong, or refused, but by a 1x1 convolution "
                "that another one follows",
                "GlobalAveragePooling2D() and Dense; inside, a 1x1 convolution first",
            )

    def _leave(self, node: Node, read: list[Value]) -> None:
        """A call that is not of the sparse part reads from it."""
        alone = all(len(self.consumers[id(v)]) == 1 for v in read)
        if alone and all(v.is_pixel for v in read):
            self._check_pooled(node)
            return  # of one pixel both layouts are the same bytes
        self._add(node.path, _kind(node), *self._reason(node))
        self._enter(node)

    def _reason(self, node: Node) -> tuple[str, str]:
        part, config = node.part, node.part.config
        if part.kind is layers.DepthwiseConv2D:
            if sizes_wanted(node):
                size = pair(config["kernel_size"])
                if max(size) > 5:
                    return f"its kernel is {size[0]}x{size[1]}; at most 5x5", _RETRAIN
                return self._padding_obstacle(node) or ("", "")
            if config["depth_multiplier"] != 1:
                return "its depth multiplier is not 1", _RETRAIN
            return "its strides are neither 1 nor 2", _RETRAIN
        if part.kind is layers.Conv2D:
            size, strides = pair(config["kernel_size"]), pair(config["strides"])
            if config["groups"] != 1:
                return "it has groups", _RETRAIN
            if size == (1, 1):
                told = f"a 1x1 convolution of stride {strides[0]}; it must be 1"
                return told, _RETRAIN
            return (
                f"a {size[0]}x{size[1]} convolution of all channels; only 1x1 and "
                "depthwise ones run there",
                "depthwise and 1x1 in its place, trained",
            )
        if part.kind in MERGES and not runs_channels_first(node):
            return "of two operands only sums and products run there", _RETRAIN
        if zeros_of(part) is not None:
            return "padding that goes into no convolution", _RETRAIN
        if part.kind in (layers.Flatten, layers.Reshape):
            return (
                "images leave the sparse part other than by the average of all pixels",
                "GlobalAveragePooling2D in its place, trained",
            )
        return "this kind does not run with the channels first", _RETRAIN

    def _check_ends(self) -> None:
        for value in self.graph.outputs:
            node = self.producers.get(id(value))
            if self._is_inside(value) and value.is_image and node and is_average(node):
                self._add(
                    *(node.path, "output", "gives pooled features of four dimensions"),
                    "GlobalAveragePooling2D(keepdims=False)",
                )
            pixel = value.is_pixel and not self.consumers.get(id(value))
            if self._is_inside(value) and value.is_image and not pixel:
                path = self.producers[id(value)].path
                self._add(
                    path,
                    "output",
                    "an image inside of the sparse part is an output of the model",
                    "a model of its own for it",
                )
        if self.obstacles:
            return
        if not self.inside:
            self._add("", "model", "no convolution of images", "nothing to make sparse")
        elif not self._ends:
            self._add(
                *("", "model", "no average over all pixels ends the sparse part"),
                "GlobalAveragePooling2D before the classifier",
            )
        elif not self._works:
            self._add("", "model", "no 1x1 convolution inside", "nothing to gain")


def _ends_well(node: Node) -> bool:
    """Whether the activation that a layer ends in runs there too."""
    if "activation" not in node.part.config:
        return True
    return activation_of(node.part) in ACTIVATIONS


def _kind(node: Node) -> str:
    return node.part.kind.__name__
