"""A sparse file with its zeros stored: what its work is measured against."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from str_keras.export.flatbuffer import read_graphs

_DENSIFY = schema.BuiltinOperator.DENSIFY
_SIZES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.INT8: "int8",
}


def dense_twin(content: bytes) -> bytes | None:
    """The file with every sparse-encoded kernel stored whole; same graph, same values.

    Args:
        content: The bytes of a .tflite file.

    Returns:
        The twin's bytes; None if no kernel is sparse-encoded, or one is in blocks, or
        of other numbers than float32, float16 and int8.

    Raises:
        ValueError: if they are no TensorFlow Lite flatbuffer, or a damaged one.
    """
    graphs = read_graphs(content)
    found = False
    for graph in graphs:
        unpacking = {id(op): op for code, op in graph.operators if code == _DENSIFY}
        for operator in unpacking.values():
            source = graph.tensors[int(operator.inputs[0])]
            target = graph.tensors[int(operator.outputs[0])]
            try:
                data = np.asarray(graph.data(int(operator.inputs[0])))
                values = _expand(source, data)
            except (IndexError, ValueError) as error:
                raise ValueError(
                    "the .tflite model is damaged: the values of a sparse kernel have "
                    f"no place in it. Received: {error}"
                ) from error
            if values is None:
                return None
            buffer: Any = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            target.buffer = len(graph.model.buffers)
            graph.model.buffers.append(buffer)
            # The sparse one stays as an empty tensor that nobody reads.
            source.buffer, source.sparsity = 0, None
            found = True
        subgraph = next(s for s in graph.model.subgraphs if s.tensors is graph.tensors)
        subgraph.operators = [o for o in subgraph.operators if id(o) not in unpacking]
    if not found:
        return None
    builder = flatbuffers.Builder(len(content))
    builder.Finish(graphs[0].model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _expand(tensor: Any, data: np.ndarray) -> np.ndarray | None:
    """Values of a sparse-encoded tensor, its zeros among them; None of other kinds.

    Source: the format in TensorFlow Lite's schema.fbs (SparsityParameters): a tree, a
    level a dimension in traversal order, whose leaves are the stored values.
    """
    sparsity = tensor.sparsity
    in_blocks = sparsity.blockMap is not None and len(sparsity.blockMap)
    if in_blocks or tensor.type not in _SIZES:
        return None
    values = data.view(_SIZES[tensor.type])
    coordinates: list[np.ndarray] = []
    nodes = 1
    for level in sparsity.dimMetadata:
        if level.format == schema.DimensionType.DENSE:
            parents = np.repeat(np.arange(nodes), level.denseSize)
            own = np.tile(np.arange(level.denseSize), nodes)
        else:
            segments = np.asarray(level.arraySegments.values)
            parents = np.repeat(np.arange(nodes), np.diff(segments))
            own = np.asarray(level.arrayIndices.values)
        coordinates = [above[parents] for above in coordinates] + [own]
        nodes = len(own)
    dense = np.zeros(tuple(int(n) for n in tensor.shape), values.dtype)
    order = [int(n) for n in sparsity.traversalOrder]
    by_dimension = tuple(coordinates[order.index(d)] for d in range(dense.ndim))
    dense[by_dimension] = values[:nodes]
    return dense
