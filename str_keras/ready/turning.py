"""Which way round the images of a net stand, and kernels and padding that go with it.

Turned by 180 degrees a net computes the same on an image that is turned too: every
kernel is flipped, and zeros after the last pixel become zeros before the first. Where
Keras pads one zero more at the bottom and right (stride 2, even extents), the turned
net pads it at the top and left, and one more at the other ends is never read: the
symmetric padding that sparse kernels want. Height and width are decided by themselves.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from keras import layers

from str_keras import internals
from str_keras.ready.graph import Graph, Node, Part, Value
from str_keras.ready.kinds import is_pointwise, sums_up
from str_keras.ready.placing import Placing, sizes_wanted
from str_keras.ready.report import Notes
from str_keras.ready.windows import (
    CONVOLUTIONS,
    POOLS,
    Windows,
    is_changed_by_keras,
)

AXES = (0, 1)
_SHIFTS = (layers.ZeroPadding2D, layers.Cropping2D)
Order = tuple[bool, bool]


class _Union:
    """Tensors that stand the same way along one axis."""

    def __init__(self):
        self._parent: dict[int, int] = {}

    def root(self, key: int) -> int:
        while self._parent.setdefault(key, key) != key:
            key = self._parent[key]
        return key

    def join(self, keys: list[int]) -> None:
        for key in keys[1:]:
            self._parent[self.root(key)] = self.root(keys[0])


def is_turnable(node: Node) -> bool:
    """Whether a call is a convolution whose kernel can be flipped."""
    return node.part.kind in CONVOLUTIONS and not is_changed_by_keras(node.part.layer)


def _matters(value: Value, axis: int) -> bool:
    return value.is_image and value.extent(axis) != 1


def _images(node: Node, axis: int) -> list[Value]:
    return [v for v in (*node.inputs, *node.outputs) if _matters(v, axis)]


class Turning:
    """Decides for each image of a graph which way round it stands, and rewrites.

    Args:
        graph: It is changed by `apply`.
        notes: Gets what was changed.
    """

    def __init__(self, graph: Graph, notes: Notes):
        self.graph, self.notes = graph, notes
        self.windows = self._windows()
        self._unions = [_Union() for _ in AXES]
        for node in graph.nodes:
            for axis in AXES:
                if self.follows(node, axis):
                    keys = [id(v) for v in _images(node, axis)]
                    self._unions[axis].join(keys)
        self._turned = [self._decide(axis) for axis in AXES]

    def _windows(self) -> dict[int, Windows]:
        producers = self.graph.producers()
        return {
            id(node): Windows(node, producers)
            for node in self.graph.nodes
            if is_turnable(node) or node.part.kind in POOLS
        }

    def follows(self, node: Node, axis: int) -> bool:
        """Whether a call can take its images turned, and then gives them turned."""
        windows = self.windows.get(id(node))
        if windows is None:
            return node.part.kind in _SHIFTS or is_pointwise(node)
        reach = windows.reach[axis]
        if is_turnable(node):
            return windows.is_centered() or None not in windows.reach
        return reach is not None and reach.is_symmetric()

    def costs(self, axis: int) -> dict[int, tuple[list[Node], list[Node]]]:
        """Of each set of joined images the calls that do not fit, kept and turned.

        Twice where they never will, once where a larger kernel would do.
        """
        found: dict[int, tuple[list[Node], list[Node]]] = {}
        found = defaultdict(lambda: ([], []))
        for node in self.graph.nodes:
            images, sizes = _images(node, axis), sizes_wanted(node)
            windows = self.windows.get(id(node))
            reach = windows and windows.reach[axis]
            if not sizes or not images or not windows or not reach:
                continue
            cost = found[self._unions[axis].root(id(images[0]))]
            for nodes, way in zip(cost, (reach, reach.turned()), strict=True):
                fitting = [s for s in sizes if way.place(s) is not None]
                if not fitting:
                    nodes += [node] * 2
                elif fitting[0] > windows.size[axis]:
                    nodes.append(node)
        return found

    def _decide(self, axis: int) -> dict[int, bool]:
        """Of each set of joined images whether it is to be turned."""
        return {
            key: _rank(turned) < _rank(kept)
            for key, (kept, turned) in self.costs(axis).items()
        }

    def _is_turned(self, value: Value, axis: int) -> bool:
        """Whether images joined with one are turned along an axis."""
        return self._turned[axis].get(self._unions[axis].root(id(value)), False)

    def order(self, node: Node) -> Order:
        """Along which axes a call sees its images turned."""

        def along(axis: int) -> bool:
            images = _images(node, axis)
            follows = bool(images) and self.follows(node, axis)
            return follows and self._is_turned(images[0], axis)

        return along(0), along(1)

    def apply(self) -> bool:
        """Turns what is to be turned, and sets paddings; returns if any was turned."""
        nodes = list(self.graph.nodes)
        orders = {id(node): self.order(node) for node in nodes}
        self._flip(nodes, orders)
        producers = self.graph.producers()
        placing = Placing(self.graph, self.notes)
        swapped: dict[tuple, Part] = {}
        for node in nodes:  # before the paddings that they look through are swapped
            if is_turnable(node):
                placing.place(node, Windows(node, producers), orders[id(node)])
        for node in nodes:
            order = orders[id(node)]
            if node.part.kind in _SHIFTS and any(order):
                key = (id(node.part), order)
                node.part = swapped.setdefault(key, _swap(node.part, order))
        self.graph.drop_unread()
        return any(map(any, orders.values()))

    def _flip(self, nodes: list[Node], orders: dict[int, Order]) -> None:
        """Places flips where an image does not stand the way a call wants it."""
        producers = self.graph.producers()
        flipped: dict[tuple, Value] = {}

        def stands(value: Value, axis: int) -> bool:
            node = producers.get(id(value))
            return node is not None and orders[id(node)][axis] and _matters(value, axis)

        def seen(value: Value, wanted: Order, before: Node | None) -> Value:
            axes = tuple(
                1 + axis
                for axis in AXES
                if _matters(value, axis) and stands(value, axis) != wanted[axis]
            )
            if not axes:
                return value
            key = (id(value), axes)
            if key not in flipped:
                node = _flip_node(value, axes)
                if before is None:
                    self.graph.nodes.append(node)
                else:
                    self.graph.insert(node, before)
                flipped[key] = node.output
                into = wanted != (False, False)
                self.notes.add(
                    _where(value, producers),
                    "image" if into else "output",
                    f"turned along {_words(axes)}" + ("" if into else ", back"),
                )
            return flipped[key]

        for node in nodes:
            if not sums_up(node):
                order = orders[id(node)]
                node.read(lambda v, order=order, node=node: seen(v, order, node))
        plain = (False, False)
        self.graph.outputs = [seen(v, plain, None) for v in self.graph.outputs]


def _rank(nodes: list[Node]) -> tuple[int, int]:
    """How many calls never fit, then how many only with a larger kernel."""
    times = [sum(n is node for n in nodes) for node in set(nodes)]
    return times.count(2), times.count(1)


def _where(value: Value, producers: dict[int, Node]) -> str:
    """Where an image comes from; Keras names inputs that have no name by a number."""
    if id(value) in producers:
        return producers[id(value)].path
    return "input" if value.name.startswith("keras_tensor") else value.name


def _words(axes: tuple[int, ...]) -> str:
    return " and ".join({1: "height", 2: "width"}[axis] for axis in axes)


def _flip_node(value: Value, axes: tuple[int, ...]) -> Node:
    part = Part(internals.flip_kind(), {"axis": axes, "name": "turn"})
    output = Value(value.shape, value.dtype)
    return Node(part, (value,), [output], "turn")


def _swap(part: Part, order: Order) -> Part:
    option = "padding" if part.kind is layers.ZeroPadding2D else "cropping"
    ends = [
        tuple(reversed(pair)) if turn else tuple(pair)
        for pair, turn in zip(part.config[option], order, strict=True)
    ]
    changed: dict[str, Any] = {option: tuple(ends)}
    return part.change(**changed)
