"""Which variables of which layers are kernels, and which layers hold others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers

from str_keras.internals import functional_graph, sublayers
from str_keras.recurrent import FastGRNNCell
from str_keras.thresholds import is_threshold_logit

_LAST, _BEFORE_LAST, _LAST_TWO = (-1,), (-2,), (-2, -1)

# Layer types, and of each kernel its name and the axes that count output filters.
_KERNELS: list[tuple[tuple[type, ...], dict[str, tuple[int, ...]]]] = [
    (
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        {"kernel": _BEFORE_LAST},
    ),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), {"kernel": _LAST_TWO}),
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        {"depthwise_kernel": _LAST_TWO, "pointwise_kernel": _LAST},
    ),
    (
        (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
        {"kernel": _LAST},
    ),
    # Their cells are private; all columns count output filters, as of other cells.
    (
        (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D),
        {"kernel": _LAST, "recurrent_kernel": _LAST},
    ),
    (
        (layers.ReversibleEmbedding,),
        {"embeddings": _LAST, "reverse_embeddings": _LAST},
    ),
    ((layers.Embedding,), {"embeddings": _LAST}),
]
# Cells of recurrent layers; all columns of their kernels count output filters (those of
# a gate are filters too).
_CELLS: list[tuple[type, tuple[str, ...]]] = [
    (layers.SimpleRNNCell, ("kernel", "recurrent_kernel")),
    (layers.LSTMCell, ("kernel", "recurrent_kernel")),
    (layers.GRUCell, ("kernel", "recurrent_kernel")),
    (
        FastGRNNCell,
        (
            *("kernel", "kernel_1", "kernel_2"),
            *("recurrent_kernel", "recurrent_kernel_1", "recurrent_kernel_2"),
        ),
    ),
]
_ATTENTION = (layers.MultiHeadAttention, layers.GroupQueryAttention)
CONV_LSTM = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
# Layers of Keras whose weights may have two axes and are no kernels, or not for us.
_NO_KERNEL: list[tuple[tuple[type, ...], str]] = [
    (
        (
            layers.BatchNormalization,
            layers.GroupNormalization,
            layers.LayerNormalization,
            layers.Normalization,
            layers.RMSNormalization,
        ),
        "a normalization: its weights are scales, none is a kernel",
    ),
    ((layers.PReLU,), "slopes of an activation, one a place: none is a kernel"),
    ((layers.STFTSpectrogram,), "a Fourier basis: nothing in it is learned"),
    (
        (layers.SpectralNormalization,),
        "it assigns the kernel of its layer at each step: use one or the other",
    ),
    (
        (
            layers.FlaxLayer,
            layers.JaxLayer,
            layers.TFSMLayer,
            layers.TorchModuleWrapper,
        ),
        "weights of another framework: wrap by hand with `kernels=`",
    ),
]


@dataclass(frozen=True)
class Kernel:
    """A kernel variable, its layer, and where both stand.

    Args:
        path: Names from the model down, such as "encoder/conv1/kernel".
        layer: The layer that reads it.
        variable: The trained (raw) kernel.
        filter_axes: Axes of the kernel that count output filters.
    """

    path: str
    layer: keras.Layer
    variable: keras.Variable
    filter_axes: tuple[int, ...]


def _einsum_filter_axes(layer: layers.EinsumDense) -> tuple[int, ...]:
    """Axes of the kernel whose labels stand in the output: those not summed over."""
    operands, output = layer.equation.replace(" ", "").split("->")
    labels = operands.split(",")[1]
    return tuple(
        i - len(labels) for i, label in enumerate(labels) if label in output
    ) or (-1,)


def _parts(layer: keras.Layer) -> list[tuple[str, keras.Layer]]:
    """The layers inside of a known one that hold its weights, each with its name.

    The names of their own are of no use: Keras numbers them, and both directions may
    have cells of one name.
    """
    if isinstance(layer, layers.Bidirectional):
        return [("forward", layer.forward_layer), ("backward", layer.backward_layer)]
    if isinstance(layer, layers.TimeDistributed):
        return [("", layer.layer)]
    if isinstance(layer, layers.RNN) and not isinstance(layer, CONV_LSTM):
        return [("", layer.cell)]
    if isinstance(layer, layers.StackedRNNCells):
        return [(f"cell_{i}", cell) for i, cell in enumerate(layer.cells)]
    if isinstance(layer, _ATTENTION):  # query, key, ...: the names are its own
        return [(part.name, part) for part in sublayers(layer) if part.weights]
    return []


def is_recurrent(layer: keras.Layer) -> bool:
    """Whether each kernel of the layer is used once a time step of its input."""
    return isinstance(layer, layers.RNN | layers.Bidirectional)


def is_attention(layer: keras.Layer) -> bool:
    """Whether a layer's kernels are those of projections of query, key and value."""
    return isinstance(layer, _ATTENTION)


def kernel_axes(layer: keras.Layer) -> dict[str, tuple[int, ...]]:
    """Names of a layer's kernels with their filter axes; empty if its type is unknown.

    Args:
        layer: Any layer, built or not. A recurrent one is known if all its cells are,
            a TimeDistributed one if what it holds is. Projections of an attention
            layer, which are there once it is built, have axes of their own.
    """
    if isinstance(layer, _ATTENTION):
        return {"kernel": _LAST}
    if parts := _parts(layer):
        inside = [kernel_axes(part) for _, part in parts]
        merged = {name: axes for found in inside for name, axes in found.items()}
        return merged if all(inside) else {}
    for cell, names in _CELLS:
        if isinstance(layer, cell):
            return dict.fromkeys(names, _LAST)
    if isinstance(layer, layers.EinsumDense):
        return {"kernel": _einsum_filter_axes(layer)}
    for types, kernels in _KERNELS:
        if isinstance(layer, types):
            return kernels
    return {}


def is_matrix(variable: keras.Variable) -> bool:
    """Whether a weight is counted as a kernel: two axes or more, and no bias.

    The bias of a GRU has two axes; so have the logits of thresholds per filter.
    """
    return (
        len(variable.shape) > 1
        and variable.name != "bias"
        and not is_threshold_logit(variable)
    )


def find_matrices(
    layer: keras.Layer, path: str, own: bool = False
) -> Iterator[tuple[str, keras.Layer, keras.Variable]]:
    """Yields the weights of a built layer that are counted as kernels.

    Args:
        layer: A built layer.
        path: The layer's path.
        own: Whether to leave out those of the layers that an opened one holds, see
            `inner_layers`.

    Yields:
        Path, layer and variable, in order of the layer's weights. Paths are unique:
        those of the two directions of a Bidirectional are "path/forward/kernel" and
        "path/backward/kernel", of stacked cells "path/cell_0/kernel", of attention
        "path/query/kernel" and so on; otherwise a name that occurs again gets a number.
    """
    parts = _parts(layer)
    for name, part in parts:
        inner = f"{path}/{name}" if name else path
        for full, reader, variable in find_matrices(part, inner):
            # A cell is no layer that is called on the whole sequence.
            cell = isinstance(layer, layers.RNN) and not is_recurrent(reader)
            yield full, layer if cell else reader, variable
    numbers: dict[str, int] = {}
    inside = inner_layers(layer) if own else []
    others = {id(v) for _, inner in inside for v in inner.weights}
    for variable in [] if parts else layer.weights:
        if is_matrix(variable) and id(variable) not in others:
            number = numbers.get(variable.name, 0)
            numbers[variable.name] = number + 1
            suffix = f"_{number}" if number else ""
            yield f"{path}/{variable.name}{suffix}", layer, variable


def inner_layers(layer: keras.Layer) -> list[tuple[str, keras.Layer]]:
    """The layers that a custom layer or subclassed model holds, each with its name.

    That is the name of the attribute: Keras numbers the names of layers anew in each
    copy. Empty for a layer of a known kind, and for what computes with the weights of
    a layer inside by itself (wrappers, recurrent layers of unknown cells).
    """
    closed = layers.Wrapper | layers.RNN | layers.StackedRNNCells
    graph = isinstance(layer, keras.Model) and functional_graph(layer) is not None
    if graph or isinstance(layer, closed) or kernel_axes(layer) or no_kernel(layer):
        return []
    names = dict(_attributes(layer))
    found = []
    for i, inner in enumerate(sublayers(layer)):
        name = names.get(id(inner), f"layer_{i}")
        if any(is_matrix(v) for v in inner.weights):
            found.append((name, inner))
    return found


def _attributes(layer: keras.Layer) -> Iterator[tuple[int, str]]:
    """Identities of what a layer's attributes hold, in lists too, with their names."""

    def visit(value: Any, name: str) -> Iterator[tuple[int, str]]:
        if isinstance(value, keras.Layer):
            yield id(value), name
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                yield from visit(item, f"{name}_{i}")
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from visit(item, f"{name}_{key}")

    # The last one counts: an attribute that a layer has first under two names.
    for attribute, value in vars(layer).items():
        if attribute != "_layers":  # of Keras: all of them, without names
            yield from visit(value, attribute.strip("_"))


def no_kernel(layer: keras.Layer) -> str:
    """Why a layer of Keras with weights of two axes has no kernel for us; else ""."""
    return next((why for types, why in _NO_KERNEL if isinstance(layer, types)), "")


def readers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer and, of a known one, those inside that read its kernels."""
    return [layer, *(r for _, part in _parts(layer) for r in readers(part))]


def reader_of(layer: keras.Layer, variable: keras.Variable) -> keras.Layer:
    """The innermost layer of a known one that holds a variable of it."""
    held = [r for r in readers(layer) if any(v is variable for v in r.weights)]
    return held[-1]


def find_kernels(
    layer: keras.Layer, path: str, names: Sequence[str] | None = None
) -> list[Kernel]:
    """Returns the kernels of one built layer.

    Args:
        layer: A built layer.
        path: The layer's path, a prefix of the kernels'.
        names: Names of the variables that are kernels, for a layer whose type is not
            in our table; looked up in its sublayers too. Of those of unknown layers
            the last axis counts output filters.

    Raises:
        ValueError: if a name is of no variable of two or more axes.
    """
    wanted = set(kernel_axes(layer) if names is None else names)
    found = [
        Kernel(full, reader, variable, kernel_axes(reader).get(variable.name, _LAST))
        for full, reader, variable in find_matrices(layer, path, own=names is None)
        if variable.name in wanted
    ]
    if names is not None and set(names) - {kernel.variable.name for kernel in found}:
        raise ValueError(
            f"The layer {layer.name!r} has no kernel of this name, only "
            f"{[v.name for v in layer.weights]}. Received: kernels={list(names)}"
        )
    return found
