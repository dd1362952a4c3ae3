"""How often each weight of a kernel is used for one example, by its layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras
from keras import layers

from str_keras import internals
from str_keras.budget.table import sum_known
from str_keras.kernels import (
    CONV_LSTM,
    is_attention,
    is_matrix,
    is_recurrent,
    kernel_axes,
)
from str_keras.layers import SoftThreshold

Shape = tuple[int | None, ...]
_CONVOLUTIONS = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)


def _product(shape: Shape) -> int | None:
    """Product of a shape's sizes, None if one is not known."""
    return None if None in shape else math.prod(n or 0 for n in shape)


def _uses(layer: keras.Layer, inputs: Shape, outputs: Shape) -> int | None:
    """How often each weight of a kernel is used for one example (its MACs per weight).

    Dense: once per position of the output; a convolution: once per output pixel, a
    transposed one: per input pixel; EinsumDense: over the input's labels that the
    kernel lacks; an embedding is read, and multiplies nothing.
    """
    if isinstance(layer, layers.EinsumDense):
        operands = layer.equation.replace(" ", "").split("->")[0].split(",")
        missing = len(inputs) - len(operands[0].replace("...", ""))
        labels = operands[0].replace("...", "?" * missing)
        free = [
            n
            for n, label in zip(inputs, labels, strict=True)
            if label not in operands[1]
        ]
        return _product(tuple(free[1:]))
    if isinstance(layer, layers.Dense):
        return _product(outputs[1:-1])
    if isinstance(layer, layers.Embedding):
        return 0
    if not isinstance(layer, _CONVOLUTIONS):
        return None
    transposed = (
        layers.Conv1DTranspose,
        layers.Conv2DTranspose,
        layers.Conv3DTranspose,
    )
    shape = inputs if isinstance(layer, transposed) else outputs
    first = layer.data_format == "channels_first"
    return _product(shape[2:] if first else shape[1:-1])


def _attention_uses(layer: keras.Layer, query: Shape, value: Shape) -> dict[str, Any]:
    """`_uses` by the projection's name: at places of the query, or of the value."""
    places = {"key": value, "value": value}
    return {
        part.name: _product(places.get(part.name, query)[1:-1])
        for part in internals.sublayers(layer)
    }


def _uses_a_step(layer: keras.Layer, inputs: Shape) -> int | None:
    """How often a recurrent layer uses each weight of its kernels in a time step.

    Once; a ConvLSTM once per pixel of its state.
    """
    if isinstance(layer, layers.Bidirectional):
        return _uses_a_step(layer.forward_layer, inputs)
    if not isinstance(layer, CONV_LSTM):
        return 1
    step = (inputs[0], *inputs[2:])
    state = layer.cell.compute_output_shape(step)[0]
    first = layer.cell.data_format == "channels_first"
    return _product(state[2:] if first else state[1:-1])


class _Uses:
    """`_uses` by the variable's id, added up over its calls, in nested models too."""

    def __init__(self) -> None:
        self.found: dict[int, int | None] = {}
        self.times: int | None = 1
        """How often the layers are called that are visited now, in one call."""

    def _add(self, variables: Iterable[keras.Variable], number: int | None) -> None:
        if self.times is None or number is None:
            number = None
        else:
            number *= self.times
        for variable in variables:
            if is_matrix(variable):
                already = self.found.get(id(variable), 0)
                self.found[id(variable)] = sum_known((already, number))

    def visit(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Takes one call in; returns its outputs."""
        first = internals.first_argument(operation, args, kwargs)
        if isinstance(operation, keras.Model):
            graph = internals.functional_graph(operation)
            if graph is not None:
                return internals.run_graph(graph, first, self.visit)
        outputs = operation.compute_output_spec(*args, **kwargs)
        inner = operation.layer if isinstance(operation, SoftThreshold) else operation
        if isinstance(inner, keras.Layer) and inner.weights:
            given = internals.arguments(operation, args, kwargs)
            self._count(inner, first, given, outputs)
        return outputs

    def _count(self, layer: Any, first: Any, given: dict, outputs: Any) -> None:
        if isinstance(layer, layers.TimeDistributed):
            self._count_over_time(layer, first)
        elif is_attention(layer):
            shapes = (given[name].shape for name in ("query", "value"))
            uses = _attention_uses(layer, *shapes)
            for part in internals.sublayers(layer):
                self._add(part.weights, uses[part.name])
        elif isinstance(layer, layers.ReversibleEmbedding):
            # Forward it is read; backward it is multiplied with at each place.
            places = _product(first.shape[1:-1]) if given.get("reverse") else 0
            own = layer.weights if layer.tie_weights else [layer.reverse_embeddings]
            self._add(layer.weights, 0)
            self._add(own, places)
        elif not kernel_axes(layer):
            self._add(layer.weights, None)
        elif is_recurrent(layer):  # its outputs may be several: states, too
            steps, a_step = first.shape[1], _uses_a_step(layer, first.shape)
            self._add(layer.weights, _product((steps, a_step)))
        else:
            self._add(layer.weights, _uses(layer, first.shape, outputs.shape))

    def _count_over_time(self, layer: Any, first: Any) -> None:
        before, steps = self.times, first.shape[1]
        self.times = None if before is None or steps is None else before * steps
        one = keras.KerasTensor((first.shape[0], *first.shape[2:]), first.dtype)
        self.visit(layer.layer, one)
        self.times = before


def count_uses(model: keras.Model, input_shape: Any) -> dict[int, int | None]:
    """How often each weight of a kernel is used for one example: its MACs per weight.

    Args:
        model: A built Functional or Sequential model.
        input_shape: As of `summary`.

    Returns:
        By the variable's id; None where a size is open, or the layer of an unknown
        kind. Variables that are no part of the graph's own layers are not in it.

    Raises:
        ValueError: if `input_shape` is given and the model has several inputs.
    """
    uses = _Uses()
    inputs = model.inputs
    if input_shape is not None:
        if len(inputs) != 1:
            raise ValueError(
                "`input_shape` is for models of one input. "
                f"Received: model={model.name} with {len(inputs)} inputs"
            )
        shape = (None, *input_shape)
        inputs = [keras.KerasTensor(shape, dtype=inputs[0].dtype)]
    uses.visit(model, inputs[0] if len(inputs) == 1 else inputs)
    return uses.found
