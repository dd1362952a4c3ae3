"""Batch norms that TensorFlow's converter would leave as two operators of their own.

It folds those that follow a convolution directly. One that follows an activation can go
into the convolution that reads it, unless that one pads: there the zeros of the padding
are not normalized.
"""

from __future__ import annotations

import numpy as np
from keras import layers

from str_keras.ready.graph import Array, Graph, Node
from str_keras.ready.kinds import activation_of
from str_keras.ready.report import Notes, Obstacle
from str_keras.ready.windows import CONVOLUTIONS, Windows, is_changed_by_keras

_FOLDING = (*CONVOLUTIONS, layers.Dense)


class _Norms:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.producers, self.consumers = graph.producers(), graph.consumers()

    def left_alone(self) -> list[Node]:
        """Batch norms of images that the converter does not fold."""
        return [
            node
            for node in self.graph.nodes
            if node.part.kind is layers.BatchNormalization
            and node.output.is_image
            and not self._is_folded(node)
        ]

    def _is_folded(self, node: Node) -> bool:
        before = self.producers.get(id(node.inputs[0]))
        if before is None or self._reader(before) is not node:
            return False
        if before.part.kind is layers.BatchNormalization:
            return self._is_folded(before)
        return before.part.kind in _FOLDING and activation_of(before.part) == "linear"

    def _reader(self, node: Node) -> Node | None:
        """The one call that reads an output, if there is no other reader."""
        readers = self.consumers.get(id(node.output), [])
        only = len(readers) == 1 and not self.graph.is_output(node.output)
        return readers[0] if only else None

    def obstacle(self, node: Node) -> str:
        """Why a batch norm cannot go into the call that reads it; "" if it can."""
        reader = self._reader(node)
        if reader is None:
            return "several layers read it"
        part = reader.part
        shared = sum(n.part is part for n in self.graph.nodes) > 1
        if part.kind not in _FOLDING or is_changed_by_keras(part.layer):
            return f"{reader.path} reads it, which is no convolution"
        if shared:
            return f"{reader.path} reads other images too"
        if part.kind is layers.Dense:
            return ""
        reaches = Windows(reader, self.producers).reach
        if any(r is None or r.before > 0 or r.after > 0 for r in reaches):
            return f"{reader.path} pads: zeros at the edges are not normalized"
        config = part.config
        if config.get("groups", 1) > 1 or config.get("depth_multiplier", 1) > 1:
            return f"{reader.path} has groups"
        return ""

    def fold(self, node: Node) -> None:
        """Puts a batch norm into the call that reads it."""
        reader = self._reader(node)
        assert reader is not None
        scale, shift = _affine(node)
        kernel, *bias = reader.part.values()
        depthwise = reader.part.kind is layers.DepthwiseConv2D
        summed = (0, 1, 3) if depthwise else tuple(range(kernel.ndim - 1))
        added = (kernel * shift[:, None]).sum(summed)
        weights = [kernel * scale[:, None], sum(bias, added)]
        reader.part = reader.part.change(weights=weights, use_bias=True)
        reader.read(lambda v: node.inputs[0] if v is node.output else v)


def _affine(node: Node) -> tuple[Array, Array]:
    """A batch norm in inference as scale and shift of each channel."""
    config, values = node.part.config, list(node.part.values())
    gamma = values.pop(0) if config["scale"] else 1.0
    beta = values.pop(0) if config["center"] else 0.0
    mean, variance = values
    scale = gamma / np.sqrt(variance + config["epsilon"])
    return scale, beta - mean * scale


def fold_norms(graph: Graph, notes: Notes) -> None:
    """Puts batch norms behind activations into the convolutions that read them.

    Args:
        graph: It is changed.
        notes: Gets what was changed.
    """
    for node in _Norms(graph).left_alone():
        norms = _Norms(graph)
        if not norms.obstacle(node):
            reader = norms.consumers[id(node.output)][0]
            norms.fold(node)
            notes.add(node.path, "batch norm", f"goes into {reader.path}")
    graph.drop_unread()


def remarks(graph: Graph) -> list[Obstacle]:
    """Batch norms that stay, each with the reason."""
    norms = _Norms(graph)
    return [
        Obstacle(
            node.path,
            "batch norm",
            norms.obstacle(node),
            "runs as a multiplication and an addition; place it right behind a "
            "convolution",
        )
        for node in norms.left_alone()
    ]
