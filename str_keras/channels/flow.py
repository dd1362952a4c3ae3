"""Which channels of a model are dead, and which of the dead can leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from str_keras import internals
from str_keras.channels.steps import (
    Addition,
    Array,
    Mixing,
    Opaque,
    Step,
    Tensor,
    create_step,
    is_foldable,
)
from str_keras.selection import walk


@dataclass(eq=False)
class Space:
    """Channels of tensors that can only leave together.

    Args:
        size: Number of channels.
        pinned: Whether they must all stay: inputs, outputs, unknown layers.
        added: Whether an addition brings several branches together here.
        removed: Which channels leave, as bools.
        parent: The space that this one has become part of.
    """

    size: int
    pinned: bool = False
    added: bool = False
    removed: Array = field(init=False)
    parent: Space | None = None

    def __post_init__(self):
        self.removed = np.zeros(self.size, bool)

    def root(self) -> Space:
        """The space that this one is part of."""
        return self if self.parent is None else self.parent.root()

    def join(self, other: Space) -> None:
        """Makes both one."""
        mine, others = self.root(), other.root()
        if mine is not others:
            others.parent = mine
            mine.pinned |= others.pinned
            mine.added |= others.added


def _tensors(structure: Any) -> list[Tensor]:
    flat = keras.tree.flatten(structure)
    return [x for x in flat if isinstance(x, keras.KerasTensor)]


def _has_options(args: Any, kwargs: Any) -> bool:
    """Whether a call is told more than its inputs: `training=True`, a mask."""
    given = keras.tree.flatten((args, kwargs))
    return any(
        not (isinstance(value, keras.KerasTensor) or value is None or value is False)
        for value in given
    )


class Flow:
    """The channels of a model: spaces, constants, and what may leave.

    Args:
        model: A plain Functional or Sequential model; nested ones are opened, but
            keep their inputs and outputs.
    """

    def __init__(self, model: keras.Model):
        self.steps: list[Step] = []
        self.outputs: set[int] = set()
        self._spaces: dict[int, Space] = {}
        self._constants: dict[int, Array] = {}
        self._seen: set[int] = set()
        self._told: set[int] = set()  # layers in models called with options
        self._trace(model)
        self._leave_alone()
        for step in self.steps:
            self._connect(step)
        for tensor in self.outputs:
            if tensor in self._spaces:  # an output may be an input, passed on
                self._spaces[tensor].root().pinned = True

    def _trace(self, model: Any) -> None:
        graph = internals.functional_graph(model)
        self._seen.add(id(model))
        if graph is None:  # subclassed: opaque
            return

        def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
            has_options = _has_options(args, kwargs)
            if isinstance(operation, keras.Model):
                if has_options:  # `training` reaches all layers inside
                    self._told |= {id(layer) for _, layer in walk(operation)}
                if id(operation) not in self._seen:
                    self._trace(operation)
            outputs = operation.compute_output_spec(*args, **kwargs)
            inputs, found = _tensors((args, kwargs)), _tensors(outputs)
            known = len(found) == 1 and not has_options
            for output in found:
                create = create_step if known else Opaque
                self.steps.append(create(operation, inputs, output))
            return outputs

        outputs = internals.run_graph(graph, graph.inputs, visit)
        self.outputs |= {id(x) for x in keras.tree.flatten(outputs)}

    def _leave_alone(self) -> None:
        """Makes opaque what shares its weights with other calls, or is told by them."""
        calls = Counter(id(step.layer) for step in self.steps)

        def is_left(layer: Any) -> bool:
            shared = calls[id(layer)] > 1 and getattr(layer, "weights", [])
            return bool(shared) or id(layer) in self._told

        self.steps = [
            Opaque(step.layer, step.inputs, step.output)
            if is_left(step.layer)
            else step
            for step in self.steps
        ]

    def space(self, tensor: Tensor) -> Space:
        """The space of a tensor's channels; inputs of the model get a pinned one."""
        if id(tensor) not in self._spaces:
            size = tensor.shape[-1] if len(tensor.shape) > 1 else None
            self._spaces[id(tensor)] = Space(size or 1, pinned=True)
        return self._spaces[id(tensor)].root()

    def constants(self, tensor: Tensor) -> Array:
        """Of each channel (or feature) its constant, or NaN."""
        features = tensor.shape[-1] if len(tensor.shape) > 1 else None
        unknown = np.full(features or 1, np.nan)
        return self._constants.get(id(tensor), unknown)

    def removed(self, tensor: Tensor) -> Array:
        """Which channels (or features) of a tensor leave, as bools."""
        removed = self.space(tensor).removed
        features = tensor.shape[-1] if len(tensor.shape) > 1 else None
        return np.tile(removed, (features or 1) // len(removed))  # by Flatten

    def _connect(self, step: Step) -> None:
        """Gives the step's output its space and its constants."""
        spaces = [self.space(x) for x in step.inputs]
        if isinstance(step, Opaque | Mixing):
            size = step.output.shape[-1] if len(step.output.shape) > 1 else None
            space = Space(size or 1, pinned=isinstance(step, Opaque))
            self._spaces[id(step.output)] = space
            if isinstance(step, Opaque):
                for space in spaces:
                    space.pinned = True
                return
            space.pinned = step.activation is None
        else:
            self._join(step, spaces)
        constants = [self.constants(x) for x in step.inputs]
        self._constants[id(step.output)] = step.constants(constants)

    def _join(self, step: Step, spaces: list[Space]) -> None:
        self._spaces[id(step.output)] = spaces[0]
        if isinstance(step, Addition):
            spaces[0].added = True
        for space in spaces[1:]:
            if space.size == spaces[0].size:
                spaces[0].join(space)
            else:  # one of them was flattened
                space.pinned = spaces[0].pinned = True

    def folded(self, step: Mixing) -> Array:
        """Constants of channels that leave, which the bias takes over; else 0."""
        constants = self.constants(step.inputs[0])
        folds = self.removed(step.inputs[0]) & is_foldable(constants, step.padded)
        return np.where(folds, constants, 0.0)

    def find_needed(self) -> dict[int, Array]:
        """Which channels (or features) of each tensor a later step depends on.

        A channel that leaves as a foldable constant is not needed by who folds it.
        """
        needed: dict[int, Array] = {}
        for step in reversed(self.steps):
            of_output = self.needed_of(needed, step.output)
            for x in step.inputs:
                if isinstance(step, Opaque):
                    of_input: Any = True
                else:
                    of_input = step.needed(of_output)
                if isinstance(step, Mixing):
                    foldable = is_foldable(self.constants(x), step.padded)
                    of_input = of_input & ~(self.removed(x) & foldable)
                needed[id(x)] = self.needed_of(needed, x) | of_input
        return needed

    def needed_of(self, needed: dict[int, Array], tensor: Tensor) -> Array:
        """The entry of a tensor: all of an output, by default none of others."""
        default = np.full(len(self.constants(tensor)), id(tensor) in self.outputs)
        return needed.get(id(tensor), default)

    def _tensors(self) -> Iterator[Tensor]:
        for step in self.steps:
            yield from (*step.inputs, step.output)

    def remove(self) -> dict[int, Array]:
        """Marks in the spaces what leaves; returns `find_needed`.

        Begins with all channels and takes back those that turn out to be needed,
        until none is: what one removal makes dead is found in the same sweep.
        """
        spaces = {id(s): s for s in map(self.space, self._tensors())}.values()
        for space in spaces:
            space.removed[:] = not space.pinned
        while True:
            needed = self.find_needed()
            before = {id(s): s.removed.copy() for s in spaces}
            for tensor in self._tensors():
                removed = self.space(tensor).removed
                features = self.needed_of(needed, tensor)
                removed &= ~features.reshape(-1, len(removed)).any(0)
            for space in spaces:
                if space.removed.all():
                    space.removed[0] = False  # a layer keeps one channel
            if all((before[id(s)] == s.removed).all() for s in spaces):
                return needed
