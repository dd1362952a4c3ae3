"""What a .tflite file holds, read with LiteRT's own schema."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_OP = schema.BuiltinOperator
_TYPE = schema.TensorType

# Where the operators that multiply by weights hold them. A constant that is scaled,
# added or gathered from by another operator is no kernel.
_KERNEL_OPERANDS = {
    _OP.CONV_2D: (1,),
    _OP.DEPTHWISE_CONV_2D: (1,),
    _OP.CONV_3D: (1,),
    _OP.TRANSPOSE_CONV: (1,),
    _OP.CONV_3D_TRANSPOSE: (1,),
    _OP.FULLY_CONNECTED: (1,),
    _OP.BATCH_MATMUL: (0, 1),
    _OP.GATHER: (0,),
    _OP.EMBEDDING_LOOKUP: (1,),
}
# Operators between a stored kernel and its use.
_UNPACKING = (_OP.DENSIFY, _OP.DEQUANTIZE, _OP.QUANTIZE, _OP.RESHAPE, _OP.TRANSPOSE)
_NUMPY = {
    _TYPE.FLOAT32: np.float32,
    _TYPE.FLOAT16: np.float16,
    _TYPE.FLOAT64: np.float64,
    _TYPE.INT8: np.int8,
    _TYPE.INT16: np.int16,
}


@dataclasses.dataclass(frozen=True)
class StoredKernel:
    """One kernel as the file stores it.

    Attributes:
        name: The converter's name of the tensor.
        size: Elements of the kernel, zeros included.
        nonzeros: Elements that are not zero (int8: not the zero point).
        dtype: "float32", "float16", "int8", ...
        sparse: Whether only the non-zeros, and where they are, are stored.
    """

    name: str
    size: int
    nonzeros: int
    dtype: str
    sparse: bool


class Graph:
    """One subgraph: its operators by name of the operation, tensors and producers."""

    def __init__(self, model: Any, subgraph: Any):
        self.model = model
        self.subgraph = subgraph
        self.tensors = subgraph.tensors
        self.operators = [(self._code(op), op) for op in subgraph.operators]
        self.producers = {
            int(out): (code, op) for code, op in self.operators for out in op.outputs
        }

    def _code(self, operator: Any) -> int:
        code = self.model.operatorCodes[operator.opcodeIndex]
        return max(code.builtinCode, code.deprecatedBuiltinCode)

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of a tensor; a free dimension counts as 1."""
        shape = self.tensors[index].shape
        return () if shape is None else tuple(int(n) for n in shape)

    def data(self, index: int) -> np.ndarray | None:
        """The stored bytes of a constant tensor, None of any other."""
        data = self.model.buffers[self.tensors[index].buffer].data
        if data is None or len(data) == 0:
            # A sparse kernel without a non-zero stores no value, and is there.
            is_sparse = self.tensors[index].sparsity is not None
            return np.zeros(0, np.uint8) if is_sparse else None
        return np.asarray(data, np.uint8)

    def stored(self, index: int) -> int | None:
        """The constant that a tensor is unpacked from, None if it is computed."""
        while index >= 0 and self.data(index) is None:
            code, operator = self.producers.get(index, (None, None))
            if operator is None or code not in _UNPACKING:
                return None
            index = int(operator.inputs[0])
        return index if index >= 0 else None


def read_model(content: bytes) -> Any:
    """Reads a .tflite file into LiteRT's `ModelT`, whose arrays are read-only.

    Args:
        content: The bytes of the file.

    Raises:
        ValueError: if they are no TensorFlow Lite flatbuffer.
    """
    if content[4:8] != b"TFL3":
        raise ValueError(
            "these bytes are no .tflite model: the identifier TFL3 is missing. "
            f"Received: {len(content)} bytes starting with {content[:8]!r}"
        )
    try:
        return schema.ModelT.InitFromPackedBuf(content, 0)
    except Exception as error:  # the generated reader raises whatever comes first
        raise ValueError(f"the .tflite model is damaged: {error}") from error


def read_graphs(content: bytes) -> list[Graph]:
    """Reads the subgraphs of a .tflite file.

    Args:
        content: The bytes of the file.

    Raises:
        ValueError: if they are no TensorFlow Lite flatbuffer.
    """
    model = read_model(content)
    try:
        return [Graph(model, subgraph) for subgraph in model.subgraphs or ()]
    except Exception as error:  # an index that points nowhere
        raise ValueError(f"the .tflite model is damaged: {error}") from error


def read_kernels(content: bytes) -> list[StoredKernel]:
    """The kernels of a .tflite file, each stored one once.

    Args:
        content: The bytes of the file.

    Returns:
        Every constant that a convolution, a fully connected layer, a matrix product
        or an embedding takes as its weights, sparse-encoded ones included.

    Raises:
        ValueError: if they are no TensorFlow Lite flatbuffer.
    """
    kernels: dict[int, StoredKernel] = {}
    for graph in read_graphs(content):
        for index, _, _ in kernel_constants(graph):
            tensor = graph.tensors[index]
            if tensor.type in _NUMPY and tensor.buffer not in kernels:
                kernels[tensor.buffer] = _kernel(graph, index)
    return list(kernels.values())


def kernel_constants(graph: Graph) -> Iterator[tuple[int, int, Any]]:
    """The constants that are kernels, each once, with the operator that takes it.

    Returns:
        `(tensor, code, operator)`: index of the stored constant, and its first user.
    """
    seen = set()
    for code, operator in graph.operators:
        for position in _KERNEL_OPERANDS.get(code, ()):
            index = graph.stored(int(operator.inputs[position]))
            if index is not None and index not in seen:
                seen.add(index)
                yield index, code, operator


def _kernel(graph: Graph, index: int) -> StoredKernel:
    tensor = graph.tensors[index]
    values = np.asarray(graph.data(index)).view(_NUMPY[tensor.type])
    zero = 0
    if np.issubdtype(values.dtype, np.integer) and tensor.quantization is not None:
        points = tensor.quantization.zeroPoint
        zero = int(points[0]) if points is not None and len(points) else 0
    return StoredKernel(
        name=tensor.name.decode(),
        size=math.prod(graph.shape(index)),
        nonzeros=int(np.count_nonzero(values != zero)),
        dtype=values.dtype.name,
        sparse=tensor.sparsity is not None,
    )


def operator_kernels(graph: Graph) -> Iterator[tuple[Any, StoredKernel]]:
    """The operators of a graph that take kernels, with each kernel they take."""
    for code, operator in graph.operators:
        for position in _KERNEL_OPERANDS.get(code, ()):
            index = graph.stored(int(operator.inputs[position]))
            if index is not None and graph.tensors[index].type in _NUMPY:
                yield operator, _kernel(graph, index)


def count_operators(content: bytes, name: str) -> int:
    """How many operators of a name, such as "DENSIFY", a .tflite file has."""
    wanted = getattr(_OP, name)
    return sum(code == wanted for g in read_graphs(content) for code, _ in g.operators)
