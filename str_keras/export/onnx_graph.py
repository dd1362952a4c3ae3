"""The kernels of an ONNX graph, and its inputs and outputs by names of ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from str_keras.export.extras import require
from str_keras.export.flatbuffer import StoredKernel

# Where the operators that multiply by weights hold them.
_KERNEL_OPERANDS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
# Operators between a stored kernel and its use.
_LAYOUT = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def read_kernels(model: Any) -> list[StoredKernel]:
    """The kernels of an ONNX model, each stored one once.

    Args:
        model: An `onnx.ModelProto`; kernels inside the bodies of loops count too.
    """
    (helper,) = require("onnx", "onnx.numpy_helper")
    stored = {}
    for tensor in _kernels(model.graph, {}):
        values = helper.to_array(tensor)
        if values.ndim > 1 and np.issubdtype(values.dtype, np.floating):
            stored[tensor.name] = StoredKernel(
                name=tensor.name,
                size=math.prod(values.shape),
                nonzeros=int(np.count_nonzero(values)),
                dtype=values.dtype.name,
                sparse=False,
            )
    return list(stored.values())


def _kernels(graph: Any, outer: Mapping[str, Any]) -> Iterator[Any]:
    """Constants that operators of a graph take as weights.

    Args:
        graph: A `GraphProto`.
        outer: By name, constants that the graph sees from around it.
    """
    known = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = node.attribute[0].t
        elif node.op_type in _LAYOUT and node.input[0] in known:
            known[node.output[0]] = known[node.input[0]]
        for position in _KERNEL_OPERANDS.get(node.op_type, ()):
            if node.input[position] in known:
                yield known[node.input[position]]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                # A Loop hands its inputs to its body in order; an If has no inputs.
                passed = zip(attribute.g.input, node.input, strict=False)
                inner = {i.name: known[name] for i, name in passed if name in known}
                yield from _kernels(attribute.g, {**known, **inner})


def name_ends(model: Any, input_name: str, output_name: str) -> None:
    """Names the one input, the one output and the batch of an ONNX model, in place."""
    graph = model.graph
    names = {graph.input[0].name: input_name, graph.output[0].name: output_name}
    for end in (graph.input[0], graph.output[0]):
        end.name = names[end.name]
        end.type.tensor_type.shape.dim[0].dim_param = "batch"
    _rename(graph, names)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)
