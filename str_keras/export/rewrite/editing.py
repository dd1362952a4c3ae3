"""A .tflite file opened for changes, through LiteRT's own schema objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from str_keras.export.flatbuffer import Graph, read_model

OP = schema.BuiltinOperator
TYPE = schema.TensorType

_TYPES = {
    "float32": TYPE.FLOAT32,
    "float16": TYPE.FLOAT16,
    "int8": TYPE.INT8,
    "int32": TYPE.INT32,
}
# The schema writes opcodes above 126 to a second field, and this one says so.
_LAST_OLD_CODE = 127
_IDENTIFIER = b"TFL3"


class _SharingBuilder(flatbuffers.Builder):
    """Writes equal vectors once, but for the data of tensors.

    The zero points of all kernels are alike, and a kernel's scales are wanted by its
    stored tensor and by the unpacked one. Data stays apart: runtimes tell tensors by
    its address, and equal non-zeros may lie at other places of two kernels.
    """

    __slots__ = ("_apart", "_offsets")

    def __init__(self, model: Any) -> None:
        super().__init__(1 << 20)
        self._apart = {id(buffer.data) for buffer in model.buffers}
        self._offsets: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:
        if id(x) in self._apart:
            return super().CreateNumpyVector(x)
        key = (x.dtype.str, x.tobytes())
        if key not in self._offsets:
            self._offsets[key] = super().CreateNumpyVector(x)
        return self._offsets[key]


class Editor:
    """Adds operators and tensors to a model and writes it again.

    Args:
        content: The bytes of a .tflite file.

    Attributes:
        model: LiteRT's `ModelT`.

    Raises:
        ValueError: if they are no TensorFlow Lite flatbuffer.
    """

    def __init__(self, content: bytes):
        self.model = read_model(content)

    def graphs(self) -> list[Graph]:
        """The subgraphs as they are now; made anew at each call."""
        return [Graph(self.model, g) for g in self.model.subgraphs or ()]

    def add_buffer(self, values: np.ndarray) -> int:
        """Stores the values; returns the index of their buffer."""
        buffer: Any = schema.BufferT()
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        buffer.data = np.frombuffer(little.tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def add_tensor(
        self,
        subgraph: Any,
        name: bytes,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        values: np.ndarray | None = None,
        signature: Sequence[int] | None = None,
    ) -> int:
        """Adds a tensor to the subgraph; returns its index.

        Args:
            subgraph: LiteRT's `SubGraphT`.
            name: The tensor's name.
            shape: Its shape, a free batch as 1.
            dtype: "float32", "float16", "int8" or "int32".
            values: Of a constant, in any shape; None: it is computed.
            signature: The shape with -1 for a free batch; None: nothing is free.
        """
        tensor: Any = schema.TensorT()
        tensor.name, tensor.type, tensor.hasRank = name, _TYPES[dtype], True
        tensor.shape = [int(n) for n in shape]
        if signature is not None:
            tensor.shapeSignature = [int(n) for n in signature]
        tensor.buffer = 0 if values is None else self.add_buffer(values)
        subgraph.tensors.append(tensor)
        return len(subgraph.tensors) - 1

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        version: int = 1,
        options: Any = None,
    ) -> Any:
        """An operator of the name, such as "DENSIFY"; the caller places it.

        Args:
            name: Of `schema.BuiltinOperator`.
            inputs: Indices of tensors.
            outputs: Indices of tensors.
            version: The least version of the operation that does what is wanted.
            options: LiteRT's options object, such as `PadOptionsT`.
        """
        made = schema.OperatorT()
        self.set_operation(made, name, version, options)
        made.inputs, made.outputs = list(inputs), list(outputs)
        return made

    def set_operation(
        self, operator: Any, name: str, version: int = 1, options: Any = None
    ) -> None:
        """Makes an operator one of the name; its inputs and outputs stay."""
        operator.opcodeIndex = self._opcode(getattr(OP, name), version)
        operator.builtinOptions = options
        kind = "NONE" if options is None else type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)

    def _opcode(self, builtin: int, version: int) -> int:
        for index, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                code.version = max(code.version, version)
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.version = builtin, version
        code.deprecatedBuiltinCode = min(builtin, _LAST_OLD_CODE)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def to_bytes(self) -> bytes:
        """The bytes of the changed file, without data that nothing reads."""
        for subgraph in self.model.subgraphs:
            _empty_unused_tensors(subgraph)
        self._drop_unused_buffers()
        builder = _SharingBuilder(self.model)
        builder.Finish(self.model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

    def _drop_unused_buffers(self) -> None:
        tensors = [t for graph in self.model.subgraphs for t in graph.tensors]
        readers = [*tensors, *(self.model.metadata or ())]
        kept = sorted({0, *(reader.buffer for reader in readers)})
        moved = {old: new for new, old in enumerate(kept)}
        for reader in readers:
            reader.buffer = moved[reader.buffer]
        self.model.buffers = [self.model.buffers[old] for old in kept]
        # Until 2020 metadata had its buffers in a list of its own.
        if self.model.metadataBuffer is not None:
            self.model.metadataBuffer = [
                moved[int(old)] for old in self.model.metadataBuffer if old in moved
            ]


def set_inputs(operator: Any, inputs: Sequence[int]) -> None:
    """Sets an operator's inputs, which the reader hands out as a read-only array."""
    operator.inputs = [int(index) for index in inputs]


def float_constant(graph: Graph, index: int) -> np.ndarray | None:
    """Values of a dense float32 constant, None of any other tensor."""
    tensor, data = graph.tensors[index], graph.data(index)
    if data is None or tensor.type != TYPE.FLOAT32 or tensor.sparsity is not None:
        return None
    return data.view("<f4").reshape(graph.shape(index))


def _empty_unused_tensors(subgraph: Any) -> None:
    used = {int(i) for i in (*subgraph.inputs, *subgraph.outputs)}
    for operator in subgraph.operators:
        used.update(int(i) for i in (*operator.inputs, *operator.outputs))
    for index, tensor in enumerate(subgraph.tensors):
        if index not in used:  # it stays: others are known by their number
            tensor.buffer, tensor.name, tensor.quantization = 0, b"", None
            tensor.sparsity = None
