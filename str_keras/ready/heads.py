"""Classifiers of 1x1 convolutions after global average pooling, as Dense layers.

Where sparse kernels are on, a convolution that reads pooled features and ends the net
is refused when the file is loaded, or gives zeros: XNNPACK takes the shape of such
features wrong. A second convolution behind the first one runs (and sparse, which a
Dense layer does not), so such heads stay.
"""

from __future__ import annotations

from keras import layers

from str_keras.ready.graph import Graph, Node, Part, Value
from str_keras.ready.kinds import (
    CLAMPS,
    IDENTITIES,
    activation_of,
    is_average,
    is_dense_of_images,
    is_operation_of_any_rank,
    is_pixelwise_convolution,
    is_pointwise,
    runs_channels_first,
    sums_up,
)
from str_keras.ready.report import Notes

_FLAT = (layers.Flatten, layers.Reshape)
# Layers that do to [batch, channels] what they do to [batch, 1, 1, channels].
_ANY_RANK = (
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Activation, layers.Softmax),
    *(layers.Add, layers.Multiply, layers.Dense, layers.Dropout, layers.Identity),
    *(layers.GaussianNoise, layers.GaussianDropout, layers.BatchNormalization),
)
_SHARED = (
    *("name", "trainable", "dtype", "activation", "use_bias", "kernel_initializer"),
    *("bias_initializer", "kernel_regularizer", "bias_regularizer"),
    *("activity_regularizer", "kernel_constraint", "bias_constraint"),
)


def misreads_pooled(node: Node, graph: Graph, producers: dict, consumers: dict) -> bool:
    """Whether a call reads pooled features where XNNPACK takes their shape wrong.

    Nothing but dropout lies between, and it neither flattens them nor is a 1x1
    convolution; or it is one whose output leaves the images: to the model's caller, or
    a layer that reshapes it.

    Args:
        node: The call.
        graph: Its graph.
        producers: Of the graph.
        consumers: Of the graph.
    """
    if node.part.kind in (*IDENTITIES, *_FLAT) or sums_up(node):
        return False
    if not any(_is_pooled(v, producers) for v in node.inputs):
        return False
    if not (is_pixelwise_convolution(node) or is_dense_of_images(node)):
        return True
    return _leaves(node.output, graph, consumers)


def _is_pooled(value: Value, producers: dict[int, Node]) -> bool:
    node = producers.get(id(value))
    while node is not None and node.part.kind in IDENTITIES:
        node = producers.get(id(node.inputs[0]))
    return node is not None and is_average(node)


def _leaves(value: Value, graph: Graph, consumers: dict[int, list[Node]]) -> bool:
    """Whether a tensor, but for clamps, goes where no image goes."""
    if graph.is_output(value):
        return True
    for node in consumers.get(id(value), []):
        passes = node.part.kind in IDENTITIES or (
            node.part.kind in (layers.ReLU, layers.Activation)
            and activation_of(node.part) in CLAMPS
        )
        if passes and _leaves(node.output, graph, consumers):
            return True
        if not passes and not runs_channels_first(node):
            return True
    return False


class _Head:
    """What a pooled pixel goes through, up to where it is no image any more."""

    def __init__(self, graph: Graph, pooling: Node, consumers: dict[int, list[Node]]):
        self.graph, self.pooling = graph, pooling
        self.nodes: list[Node] = []
        self.values = [pooling.output]
        self.exits: list[Node] = []
        for value in self.values:  # grows
            for node in consumers.get(id(value), []):
                if node in self.nodes or node in self.exits:
                    continue
                if self._passes(node):
                    self.nodes.append(node)
                    self.values.append(node.output)
                else:
                    self.exits.append(node)

    def _passes(self, node: Node) -> bool:
        if is_pixelwise_convolution(node):
            return True
        known = node.part.kind in _ANY_RANK or is_operation_of_any_rank(node)
        return known and is_pointwise(node) and node.output.is_pixel

    def is_closed(self) -> bool:
        """Whether nothing in it reads anything else, and no image reads it."""
        own = {id(v) for v in self.values}
        reads = all(id(v) in own for node in self.nodes for v in node.inputs)
        return reads and not any(runs_channels_first(node) for node in self.exits)

    def flatten(self, notes: Notes, made: dict[int, Part]) -> None:
        """Takes height and width out of it."""
        graph, flat = self.graph, {}
        for value in self.values:
            flat[id(value)] = Value((value.shape[0], value.shape[3]), value.dtype)
        for node in (self.pooling, *self.nodes):
            if node is not self.pooling:
                node.read(lambda v: flat[id(v)])
            if id(node.part) not in made:
                made[id(node.part)] = _without_space(node.part)
            if node.part.kind is layers.Conv2D:
                notes.add(node.path, "convolution", "1x1 after pooling -> Dense")
            node.part = made[id(node.part)]
        for value in self.values:
            if graph.is_output(value) or self._needs_image(value):
                self._restore(value, flat[id(value)])
        for node in self.exits:
            self._take_over(node, flat, notes)
        for node in (self.pooling, *self.nodes):
            node.outputs = [flat[id(node.output)]]

    def _needs_image(self, value: Value) -> bool:
        return any(
            not _only_flattens(node) and any(v is value for v in node.inputs)
            for node in self.exits
        )

    def _restore(self, value: Value, flat: Value) -> None:
        """Height and width of 1 again, for who wants them."""
        config = layers.Reshape((1, 1, value.shape[3]), name="pixel").get_config()
        node = Node(Part(layers.Reshape, config), (flat,), [value], "pixel")
        readers = [n for n in self.graph.nodes if any(v is value for v in n.inputs)]
        if readers:
            self.graph.insert(node, readers[0])
        else:
            self.graph.nodes.append(node)

    def _take_over(self, node: Node, flat: dict[int, Value], notes: Notes) -> None:
        if _only_flattens(node):
            notes.add(node.path, node.part.kind.__name__, "not needed any more")
            self.graph.replace(node.output, flat[id(node.inputs[0])])


def _only_flattens(node: Node) -> bool:
    return node.part.kind in _FLAT and len(node.output.shape) == 2


def _without_space(part: Part) -> Part:
    """A layer for [batch, channels] that was for [batch, 1, 1, channels]."""
    if part.kind is layers.GlobalAveragePooling2D:
        return part.change(keepdims=False)
    if part.kind is layers.BatchNormalization:
        return part.change(axis=-1)
    if part.kind is not layers.Conv2D:
        return part
    kernel, *bias = part.values()
    config = {key: part.config[key] for key in _SHARED if key in part.config}
    config["units"] = part.config["filters"]
    return Part(layers.Dense, config, [kernel[0, 0], *bias])


def use_dense_heads(graph: Graph, notes: Notes) -> None:
    """Rewrites the heads that runtimes refuse, where nothing else depends on them.

    Args:
        graph: It is changed.
        notes: Gets what was changed.
    """
    made: dict[int, Part] = {}
    for pooling in list(graph.nodes):
        producers, consumers = graph.producers(), graph.consumers()
        keeps = pooling.part.config.get("keepdims")
        if pooling.part.kind is not layers.GlobalAveragePooling2D or not keeps:
            continue
        head = _Head(graph, pooling, consumers)
        refused = any(
            misreads_pooled(node, graph, producers, consumers) for node in head.nodes
        )
        if refused and head.is_closed():
            head.flatten(notes, made)
    graph.drop_unread()
