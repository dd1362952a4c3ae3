"""From a Keras model to its graph of calls, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from str_keras import internals
from str_keras.ready.graph import Graph, Node, Part, Value, tree


def trace(model: keras.Model) -> Graph:
    """The graph of a built Functional or Sequential model without thresholds.

    Raises:
        ValueError: if the model is a subclass that does not call its graph.
    """
    graph: Any = internals.functional_graph(model)
    if graph is None or not internals.calls_its_graph(model):
        raise ValueError(
            "A Functional or Sequential model without a `call` of its own is wanted: "
            "take keras.Model(model.inputs, model.outputs). "
            f"Received: model={model.name} ({type(model).__name__})"
        )
    tracer = _Tracer()
    inputs = [tracer.add(x, x.name) for x in graph.inputs]
    outputs = internals.run_graph(graph, graph.inputs, tracer.visitor(""))
    flat = [tracer.values[id(x)] for x in tree.flatten(outputs)]
    structure = graph.input, graph.output
    return Graph(model.name, inputs, flat, structure, tracer.nodes)


class _Tracer:
    def __init__(self):
        self.nodes: list[Node] = []
        self.values: dict[int, Value] = {}
        self._tensors: list[Any] = []  # kept, so that no id is used twice
        self._parts: dict[int, Part] = {}

    def add(self, tensor: Any, name: str = "") -> Value:
        value = Value(tuple(tensor.shape), tensor.dtype, name)
        self.values[id(tensor)] = value
        self._tensors.append(tensor)
        return value

    def _part(self, layer: Any) -> Part:
        if id(layer) not in self._parts:
            self._parts[id(layer)] = Part(type(layer), layer.get_config(), layer=layer)
        return self._parts[id(layer)]

    def visitor(self, prefix: str) -> Callable[..., Any]:
        def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
            path = prefix + operation.name
            inner = _opened(operation, args)
            if inner is not None:
                return internals.run_graph(inner, args[0], self.visitor(f"{path}/"))
            outputs = operation.compute_output_spec(*args, **kwargs)
            # A new tensor each: a layer may give its input back.
            outputs = tree.map_structure(_renewed, outputs)
            node = Node(self._part(operation), args, [], path, kwargs)
            node.args, node.kwargs = tree.map_structure(self._value, (args, kwargs))
            node.outputs = [self.add(x) for x in tree.flatten(outputs)]
            self.nodes.append(node)
            return outputs

        return visit

    def _value(self, x: Any) -> Any:
        return self.values[id(x)] if isinstance(x, keras.KerasTensor) else x


def _renewed(tensor: Any) -> Any:
    if not isinstance(tensor, keras.KerasTensor):
        return tensor
    return keras.KerasTensor(tensor.shape, tensor.dtype)


def _opened(operation: Any, args: tuple[Any, ...]) -> Any:
    """The graph of a nested model, if its call is nothing but a run of it."""
    if not isinstance(operation, keras.Model) or len(args) != 1:
        return None
    graph: Any = internals.functional_graph(operation)
    if graph is None or not internals.calls_its_graph(operation):
        return None
    given, wanted = tree.flatten(args[0]), graph.inputs
    # Where Keras would reorder inputs by name, or add a dimension, it is called whole.
    simple = not isinstance(args[0], dict) and len(given) == len(wanted)
    same = simple and all(
        len(x.shape) == len(y.shape) for x, y in zip(given, wanted, strict=True)
    )
    return graph if same else None


class _Names:
    """Gives each layer a name of its own, its old one where that is free."""

    def __init__(self, taken: Iterator[str]):
        self._taken = set(taken)

    def find(self, *wishes: str) -> str:
        candidates = [w.replace("/", "_") for w in wishes]
        i = 0
        while candidates[0] in self._taken:
            if len(candidates) > 1:
                candidates.pop(0)
            else:
                i += 1
                candidates = [f"{wishes[-1].replace('/', '_')}_{i}"]
        self._taken.add(candidates[0])
        return candidates[0]


def build(graph: Graph) -> keras.Model:
    """The Keras model of a graph: new layers, the same weights, not compiled."""
    names = _Names(v.name for v in graph.inputs)
    tensors = {
        id(v): keras.Input(batch_shape=v.shape, dtype=v.dtype, name=v.name)
        for v in graph.inputs
    }
    inputs = [tensors[id(v)] for v in graph.inputs]
    made: dict[int, Any] = {}

    def tensor(x: Any) -> Any:
        return tensors[id(x)] if isinstance(x, Value) else x

    graph.drop_unread()
    for node in graph.nodes:
        part = node.part
        is_new = id(part) not in made
        if is_new:
            made[id(part)] = part.create(names.find(part.name, node.path))
        layer = made[id(part)]
        args, kwargs = tree.map_structure(tensor, (node.args, node.kwargs))
        found = tree.flatten(layer(*args, **kwargs))
        if is_new:
            part.fill(layer)
        tensors |= {id(v): x for v, x in zip(node.outputs, found, strict=True)}
    outputs = [tensors[id(v)] for v in graph.outputs]
    ins, outs = graph.structure
    return keras.Model(
        tree.pack_sequence_as(ins, inputs),
        tree.pack_sequence_as(outs, outputs),
        name=graph.name,
    )
