"""Another storage for each kernel of a file; the graph computes what it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from str_keras.export.errors import ExportError
from str_keras.export.flatbuffer import Graph, kernel_constants
from str_keras.export.rewrite.editing import OP, Editor, float_constant, set_inputs
from str_keras.export.rewrite.encoding import (
    Rounded,
    Rows,
    Storage,
    quantization,
    round_to,
)

# Where each operator's kernel has its output channels; of an embedding its rows.
_CHANNEL_AXES = {
    OP.CONV_2D: 0,
    OP.DEPTHWISE_CONV_2D: 3,
    OP.CONV_3D: 4,
    OP.TRANSPOSE_CONV: 0,
    OP.CONV_3D_TRANSPOSE: 3,
    OP.FULLY_CONNECTED: 0,
    OP.BATCH_MATMUL: -1,
    OP.GATHER: 0,
    OP.EMBEDDING_LOOKUP: 0,
}
_BIAS = 2
_BIASED = (OP.CONV_2D, OP.DEPTHWISE_CONV_2D, OP.FULLY_CONNECTED)
# Those that XNNPACK takes. Of a kernel that another operator reads as well, DENSIFY is
# left to XNNPACK, which does not run it, and DEQUANTIZE to LiteRT, which then reads
# what was never unpacked: outputs are wrong, and nothing says so.
_UNPACKING = (OP.CONV_2D, OP.DEPTHWISE_CONV_2D, OP.FULLY_CONNECTED, OP.TRANSPOSE_CONV)
_OPERATORS = {code: name for name, code in vars(OP).items() if isinstance(code, int)}
# The least versions of DEQUANTIZE that take float16, and int8 with many scales.
_DEQUANTIZE_VERSIONS = {"float16": 3, "int8": 5}


@dataclasses.dataclass(frozen=True)
class Weight:
    """A kernel of a .tflite file.

    Attributes:
        name: The converter's name of the tensor.
        operator: What it is used by, such as "CONV_2D".
        values: float32, in the shape the file has it in.
        axis: The dimension of its output channels.
        unpacks: Whether it may be sparse in another type than float32.
    """

    name: str
    operator: str
    values: np.ndarray
    axis: int
    unpacks: bool = True

    def allows(self, storage: Storage) -> bool:
        """Whether outputs are right on every runtime if it is stored so."""
        return self.unpacks or not storage.sparse or storage.dtype == "float32"

    def rounded(self, dtype: str) -> Rounded:
        """The kernel rounded to "float32", "float16" or "int8"."""
        return round_to(self.values, dtype, self.axis)


def store(content: bytes, choose: Callable[[Weight], Storage]) -> bytes:
    """Rewrites a dense float32 .tflite: each kernel is stored as chosen.

    A kernel that is no float32 constant (of an integer or half-precision file, or
    sparse-encoded already) stays as it is. Rounded to float16 or int8 it is turned
    back to float32 by DEQUANTIZE, and unpacked by DENSIFY, which LiteRT does once, at
    load. Kernels of int8 that the file computes with as such (the converter's dynamic
    range) are not written: sparse-encoded, those do not load.

    Args:
        content: The bytes of the file.
        choose: The storage of each kernel, asked once a kernel.

    Returns:
        The bytes of the new file. Zeros are zeros in it.

    Raises:
        ExportError: if a kernel that is to be stored otherwise is not finite, or does
            not allow what was chosen (see `Weight.allows`).
        ValueError: if `content` is no TensorFlow Lite flatbuffer.
    """
    editor = Editor(content)
    for graph in editor.graphs():
        before: list[Any] = []
        halved = set()
        for index, weight in _weights(graph):
            storage = choose(weight)
            if storage == Storage():
                continue
            if not np.isfinite(weight.values).all():
                raise ExportError(
                    "a kernel has values that are not finite: was the training "
                    f"stable? Received: {weight.name}"
                )
            if not weight.allows(storage):
                raise ExportError(
                    f"a kernel of {weight.operator} is sparse in float32 only: in "
                    "another type LiteRT never unpacks it and outputs are wrong; take "
                    f"{storage.dtype}, dense. Received: {weight.name} as {storage}"
                )
            before += _store(editor, graph, index, weight, storage)
            if storage.dtype == "float16":
                halved.add(index)
        before += _halve_biases(editor, graph, halved)
        graph.subgraph.operators = before + list(graph.subgraph.operators)
    return editor.to_bytes()


def weights(content: bytes) -> list[Weight]:
    """The kernels that `store` asks about, in the order of the file.

    Raises:
        ValueError: if `content` is no TensorFlow Lite flatbuffer.
    """
    return [
        weight for graph in Editor(content).graphs() for _, weight in _weights(graph)
    ]


def _weights(graph: Graph) -> Iterator[tuple[int, Weight]]:
    for index, code, operator in kernel_constants(graph):
        values = float_constant(graph, index)
        if values is None or values.size == 0 or values.ndim < 2:
            continue
        axis = _CHANNEL_AXES[code] % values.ndim
        if code == OP.BATCH_MATMUL and operator.builtinOptions.adjY:
            axis = values.ndim - 2
        name = graph.tensors[index].name.decode()
        users = [(c, op) for c, op in graph.operators if index in map(int, op.inputs)]
        unpacks = all(_xnnpack_takes(graph, code, user) for code, user in users)
        yield index, Weight(name, _OPERATORS[code], values, axis, unpacks)


def _xnnpack_takes(graph: Graph, code: int, operator: Any) -> bool:
    # Of a free batch a transposed convolution's output shape is computed: left alone.
    computed = code == OP.TRANSPOSE_CONV and graph.data(int(operator.inputs[0])) is None
    return code in _UNPACKING and not computed


def _store(
    editor: Editor, graph: Graph, index: int, weight: Weight, storage: Storage
) -> list[Any]:
    """Makes the constant a computed tensor; returns the operators that compute it."""
    kernel, subgraph = graph.tensors[index], graph.subgraph
    shape, name = graph.shape(index), kernel.name
    rounded = weight.rounded(storage.dtype)
    rows = Rows.of(rounded.values) if storage.sparse else None
    stored = editor.add_tensor(
        subgraph,
        name,
        shape,
        storage.dtype,
        values=rows.values if rows else rounded.values,
    )
    subgraph.tensors[stored].quantization = quantization(rounded)
    operators, last = [], stored
    dequantized = storage.dtype != "float32"
    # The converter's names are long, a few percent of a small file: one has it in full.
    kernel.buffer, kernel.name = 0, b"float32/%d" % index
    if rows is not None:
        subgraph.tensors[stored].sparsity = rows.parameters(shape)
        last = index
        if dequantized:
            dense = b"dense/%d" % index
            last = editor.add_tensor(subgraph, dense, shape, storage.dtype)
            subgraph.tensors[last].quantization = quantization(rounded)
        options = schema.DensifyOptionsT()
        operators.append(editor.operator("DENSIFY", [stored], [last], options=options))
    if dequantized:
        operators.append(_dequantize(editor, last, index, storage.dtype))
    return operators


def _dequantize(editor: Editor, source: int, target: int, dtype: str) -> Any:
    return editor.operator(
        "DEQUANTIZE",
        [source],
        [target],
        version=_DEQUANTIZE_VERSIONS[dtype],
        options=schema.DequantizeOptionsT(),
    )


def _halve_biases(editor: Editor, graph: Graph, halved: set[int]) -> list[Any]:
    """Stores the biases beside float16 kernels as float16 too.

    With a float32 bias beside it, LiteRT.js 2.5 leaves such an operator to a slow
    kernel, and gave NaN.
    """
    users: dict[int, list[Any]] = {}
    for code, operator in graph.operators:
        inputs = [int(i) for i in operator.inputs]
        halves = code in _BIASED and len(inputs) > _BIAS and inputs[1] in halved
        for position, index in enumerate(inputs):
            alone = halves and position == _BIAS
            users.setdefault(index, []).append(operator if alone else None)
    operators = []
    for bias, by in users.items():
        beside = [operator for operator in by if operator is not None]
        values = float_constant(graph, bias) if beside and bias >= 0 else None
        if values is None:
            continue
        tensor, target = graph.tensors[bias], bias
        half = round_to(values, "float16", 0).values
        stored = editor.add_tensor(
            graph.subgraph, tensor.name, values.shape, "float16", values=half
        )
        if len(beside) == len(by):
            tensor.buffer, tensor.name = 0, b"float32/%d" % bias
        else:  # others want it as it is
            name = b"float32/%d/again" % bias
            target = editor.add_tensor(graph.subgraph, name, values.shape)
            for operator in beside:
                inputs = [int(i) for i in operator.inputs]
                inputs[_BIAS] = target
                set_inputs(operator, inputs)
        operators.append(_dequantize(editor, stored, target, "float16"))
    return operators
