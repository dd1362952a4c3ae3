"""A Keras model as a flat list of calls that can be rewritten."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from str_keras.model import finish_copy

Array = np.ndarray
tree: Any = keras.tree
_SPATIAL_RANK = 4  # batch, height, width, channels


@dataclass(eq=False)
class Value:
    """What one call gives: a symbolic tensor.

    Args:
        shape: With None for a free dimension.
        dtype: Its name.
        name: Of an input of the model; "" else.
    """

    shape: tuple[int | None, ...]
    dtype: str = "float32"
    name: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it has a height and a width."""
        return len(self.shape) == _SPATIAL_RANK

    def extent(self, axis: int) -> int | None:
        """Height (axis 0) or width (axis 1)."""
        return self.shape[1 + axis]

    @property
    def is_pixel(self) -> bool:
        """Whether its height and width are 1."""
        return self.is_image and self.shape[1:3] == (1, 1)


@dataclass(eq=False)
class Part:
    """A layer or operation to be made anew; calls that share it share the layer.

    Args:
        kind: Its class.
        config: For `kind.from_config`.
        weights: In the order of `set_weights`; None: those of `layer`.
        layer: The layer or operation of the model that it stands for, if any.
    """

    kind: type
    config: dict[str, Any]
    weights: list[Array] | None = None
    layer: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Part:
        return self  # never changed, only replaced

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.config.get("name") or self.kind.__name__.lower()

    def values(self) -> list[Array]:
        """The weights, in float64 where they are floats."""
        weights = self.layer.get_weights() if self.weights is None else self.weights
        return [_widened(np.asarray(w)) for w in weights]

    def change(
        self,
        kind: type | None = None,
        weights: list[Array] | None = None,
        **config: Any,
    ) -> Part:
        """The same layer with another class, other options or other weights."""
        kept = self.weights if weights is None else weights
        return Part(kind or self.kind, {**self.config, **config}, kept, self.layer)

    def create(self, name: str) -> Any:
        """The layer or operation, not built."""
        if issubclass(self.kind, keras.Layer):
            return self.kind.from_config({**self.config, "name": name})
        operation = self.kind.from_config(self.config)  # type: ignore[attr-defined]
        operation.name = name
        return operation

    def fill(self, new: Any) -> None:
        """Gives a layer made by `create` its weights, once it is built."""
        if not isinstance(new, keras.Layer):
            return
        if self.weights is not None:
            new.set_weights(self.weights)
        elif self.layer is not None:
            new.set_weights(self.layer.get_weights())
        finish_copy(new)


def _widened(array: Array) -> Array:
    return array.astype("float64") if array.dtype.kind not in "iub" else array


@dataclass(eq=False)
class Node:
    """One call of a layer or operation.

    Args:
        part: What is called.
        args: Positional arguments, with a `Value` for each tensor.
        outputs: What it gives.
        path: Names from the model down to the layer it comes from.
        kwargs: Arguments by name.
    """

    part: Part
    args: tuple[Any, ...]
    outputs: list[Value]
    path: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> list[Value]:
        """Tensors among the arguments."""
        flat = tree.flatten((self.args, self.kwargs))
        return [x for x in flat if isinstance(x, Value)]

    @property
    def output(self) -> Value:
        """What it gives, of calls that give one tensor."""
        return self.outputs[0]

    def read(self, replace: Callable[[Value], Value]) -> None:
        """Replaces tensors among the arguments."""

        def one(x: Any) -> Any:
            return replace(x) if isinstance(x, Value) else x

        self.args = tree.map_structure(one, self.args)
        self.kwargs = tree.map_structure(one, self.kwargs)


@dataclass(eq=False)
class Graph:
    """The calls of a model in an order in which they can be run.

    Nested models are opened: their layers stand among the others. A layer that is
    called twice has two nodes and one part.

    Args:
        name: The model's.
        inputs: In the order of the model's.
        outputs: Likewise.
        structure: How the model takes its inputs and gives its outputs.
        nodes: The calls.
    """

    name: str
    inputs: list[Value]
    outputs: list[Value]
    structure: tuple[Any, Any]
    nodes: list[Node]

    def copy(self) -> Graph:
        """One that can be changed for itself."""
        structure, self.structure = self.structure, (None, None)
        new = copy.deepcopy(self)
        self.structure = new.structure = structure
        return new

    def producers(self) -> dict[int, Node]:
        """Of each tensor, by its id, the call that gives it."""
        return {id(v): node for node in self.nodes for v in node.outputs}

    def consumers(self) -> dict[int, list[Node]]:
        """Of each tensor, by its id, the calls that read it; no entry if none does."""
        found: dict[int, list[Node]] = {}
        for node in self.nodes:
            for v in {id(x): x for x in node.inputs}.values():
                found.setdefault(id(v), []).append(node)
        return found

    def is_output(self, value: Value) -> bool:
        """Whether the model gives a tensor to its caller."""
        return any(value is v for v in self.outputs)

    def insert(self, new: Node, before: Node) -> None:
        """Places a call right before another."""
        index = next(i for i, node in enumerate(self.nodes) if node is before)
        self.nodes.insert(index, new)

    def replace(self, old: Value, new: Value) -> None:
        """Lets all that read `old`, the model's caller too, read `new`."""
        for node in self.nodes:
            if any(v is old for v in node.inputs):
                node.read(lambda v: new if v is old else v)
        self.outputs = [new if v is old else v for v in self.outputs]

    def drop_unread(self) -> None:
        """Removes the calls that no output depends on."""
        needed = {id(v) for v in self.outputs}
        kept = []
        for node in reversed(self.nodes):
            if any(id(v) in needed for v in node.outputs):
                needed |= {id(v) for v in node.inputs}
                kept.append(node)
        self.nodes = kept[::-1]
