"""Which operators XNNPACK's delegate takes of a graph, and which of them together.

Sources, as of August 2026: LiteRT, tflite/delegates/xnnpack/xnnpack_delegate.cc
(`PrepareOpsToDelegate`: constants unpacked when the file is loaded; `Subgraph::
VisitNode` and what it calls: what is taken) and tflite/graph_info.cc
(`PartitionGraphIntoIndependentNodeSubsets`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from str_keras.export.flatbuffer import Graph

OP, TYPE = schema.BuiltinOperator, schema.TensorType
NAMES = {value: name for name, value in vars(OP).items() if isinstance(value, int)}
FLOATS = (TYPE.FLOAT32, TYPE.FLOAT16)
_NUMBERS = (*FLOATS, TYPE.INT8, TYPE.UINT8)


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


UNARY = _names(
    "ABS CEIL COS ELU EXP FLOOR GELU HARD_SWISH LEAKY_RELU LOG LOGISTIC NEG RELU RELU6 "
    "RELU_N1_TO_1 ROUND RSQRT SIN SQRT SQUARE TANH"
)
# Of these, integers are taken too.
_QUANTIZED_UNARY = _names("ELU LEAKY_RELU LOGISTIC TANH")
_FLOAT_ONLY = (UNARY - _QUANTIZED_UNARY) | _names(
    "AVERAGE_POOL_2D DIV MAXIMUM MINIMUM PRELU SOFTMAX SQUARED_DIFFERENCE"
)
_ALL_INPUTS = _names(
    "ADD BATCH_MATMUL CONCATENATION DEPTH_TO_SPACE MAX_POOL_2D MUL SPACE_TO_DEPTH SUB "
    "QUANTIZE DEQUANTIZE"
)
# Operators with one computed input, and where their parameters must be constants.
_PARAMETERS = {
    "EXPAND_DIMS": (1,),
    "MEAN": (1,),
    "PAD": (1,),
    "REDUCE_MAX": (1,),
    "REDUCE_MIN": (1,),
    "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,),
    "SLICE": (1, 2),
    "STRIDED_SLICE": (1, 2, 3),
    "SUM": (1,),
    "TRANSPOSE": (1,),
}
_KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_MAX_CONCATENATED = 5
# A fully connected operator that reads a sparse kernel itself, without DENSIFY.
_SPARSE_VERSION = 8


@dataclasses.dataclass
class Partition:
    """Operators that XNNPACK is given together, as one subgraph.

    Attributes:
        graph: The graph that they are of.
        operators: `(name, operator)`, in order of execution; unpacking left out.
        hinted: Whether a kernel is stored sparse: only then XNNPACK tries sparse
            inference (`XNN_FLAG_HINT_SPARSE_INFERENCE`).
        static: Tensors whose values are known when the file is loaded.
        read_by_operators: Tensors that other operators read.
        read_outside: Those, and what the caller reads.
    """

    graph: Graph
    operators: list[tuple[str, Any]]
    hinted: bool
    static: set[int]
    read_by_operators: set[int]
    read_outside: set[int]


def integers(graph: Graph, tensor: int) -> np.ndarray:
    """The values of a constant tensor of int32."""
    return np.asarray(graph.data(tensor)).view("<i4")


def partitions(graph: Graph) -> list[Partition]:
    """The partitions of a graph, in order of execution."""
    unpacking, sparse = _unpacked(graph)
    static = {i for i in range(len(graph.tensors)) if graph.data(i) is not None}
    static |= {int(graph.operators[k][1].outputs[0]) for k in unpacking}
    taken = [
        k in unpacking or _takes(graph, NAMES.get(code, ""), operator, code, static)
        for k, (code, operator) in enumerate(graph.operators)
    ]
    return [
        _partition(graph, group, unpacking, static, sparse)
        for group in _groups(graph, taken)
        if taken[group[0]] and not unpacking.issuperset(group)
    ]


def _partition(
    graph: Graph,
    group: list[int],
    unpacking: set[int],
    static: set[int],
    sparse: set[int],
) -> Partition:
    outputs = {int(i) for i in graph.subgraph.outputs}
    others: set[int] = set()
    hinted, inside = False, set(group)
    for k, (_, operator) in enumerate(graph.operators):
        inputs = {int(i) for i in operator.inputs}
        if k in inside:
            hinted |= bool(inputs & sparse)
        else:
            others |= inputs
    operators = [
        (NAMES.get(graph.operators[k][0], ""), graph.operators[k][1])
        for k in sorted(inside - unpacking)
    ]
    return Partition(graph, operators, hinted, static, others, others | outputs)


def _unpacked(graph: Graph) -> tuple[set[int], set[int]]:
    """Operators that only unpack constants, and the tensors that were sparse."""
    unpacking: set[int] = set()
    known: set[int] = set()
    sparse: set[int] = set()
    for k, (code, operator) in enumerate(graph.operators):
        if code not in (OP.DENSIFY, OP.DEQUANTIZE):
            continue
        source, output = int(operator.inputs[0]), int(operator.outputs[0])
        stored, tensor = graph.data(source) is not None, graph.tensors[source]
        if code == OP.DENSIFY:
            unpacks = stored and tensor.sparsity is not None
        else:
            unpacks = tensor.sparsity is None and (stored or source in known)
            unpacks &= tensor.type in (TYPE.FLOAT16, TYPE.INT8)
        if unpacks:
            unpacking.add(k)
            known.add(output)
            if code == OP.DENSIFY or source in sparse:
                sparse.add(output)
    return unpacking, sparse


def _groups(graph: Graph, taken: list[bool]) -> list[list[int]]:
    """Operators by turns taken and not, each as early as its inputs allow."""
    waiting = {int(i) for _, operator in graph.operators for i in operator.outputs}
    rest, groups = list(range(len(taken))), []
    while rest:
        group: list[int] = []
        grows = True
        while grows:
            grows, left = False, []
            for k in rest:
                operator = graph.operators[k][1]
                ready = not waiting & {int(i) for i in operator.inputs}
                if ready and (not group or taken[k] == taken[group[0]]):
                    group.append(k)
                    waiting -= {int(i) for i in operator.outputs}
                    grows = True
                else:
                    left.append(k)
            rest = left
        if not group:
            raise ValueError("the .tflite model is damaged: its operators wait in turn")
        groups.append(group)
    return groups


def _takes(graph: Graph, name: str, operator: Any, code: int, static: set[int]) -> bool:
    inputs = [int(i) for i in operator.inputs]
    outputs = [int(i) for i in operator.outputs]
    types = [graph.tensors[i].type for i in (*inputs, *outputs) if i >= 0]
    if not _has_plain_activation(operator):
        return False
    if name in _FLOAT_ONLY:
        return all(t in FLOATS for t in types) and _is_plain(name, operator)
    if name in _ALL_INPUTS or name in _QUANTIZED_UNARY:
        few = name != "CONCATENATION" or 2 <= len(inputs) <= _MAX_CONCATENATED
        return few and all(t in _NUMBERS for t in types) and _is_plain(name, operator)
    if name in _PARAMETERS:
        parameters = [inputs[i] for i in _PARAMETERS[name] if i < len(inputs)]
        return (
            graph.tensors[inputs[0]].type in _NUMBERS
            and types[-1] in _NUMBERS
            and all(graph.data(i) is not None for i in parameters)
            and all(graph.tensors[i].type == TYPE.INT32 for i in parameters)
            and _is_plain(name, operator)
            and (name != "STRIDED_SLICE" or (integers(graph, inputs[3]) == 1).all())
        )
    if name == "SPLIT":
        return graph.data(inputs[0]) is not None and types[1] in _NUMBERS
    if name == "TRANSPOSE_CONV":
        return all(i in static for i in (inputs[0], inputs[1])) and types[2] in _NUMBERS
    if name in _KERNELS:
        return _takes_kernel(graph, name, operator, static)
    return False


def _takes_kernel(graph: Graph, name: str, operator: Any, static: set[int]) -> bool:
    source, kernel, *bias = (int(i) for i in operator.inputs)
    bias = [i for i in bias if i >= 0]
    given, stored = graph.tensors[source].type, graph.tensors[kernel].type
    same = given == graph.tensors[int(operator.outputs[0])].type
    mixed = stored == TYPE.INT8 and name != "DEPTHWISE_CONV_2D"  # dynamic range
    fits = same and (given == stored or mixed) and given in _NUMBERS
    if name != "FULLY_CONNECTED":
        return fits and len(bias) == 1 and {kernel, *bias} <= static
    version = graph.model.operatorCodes[operator.opcodeIndex].version
    return fits and {kernel, *bias} <= static and version != _SPARSE_VERSION


def _has_plain_activation(operator: Any) -> bool:
    activations = schema.ActivationFunctionType
    given = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
    return given not in (activations.TANH, activations.SIGN_BIT)


def _is_plain(name: str, operator: Any) -> bool:
    options = operator.builtinOptions
    if name == "SOFTMAX":
        return options.beta == 1
    if name == "LEAKY_RELU":
        return options.alpha != 0 and math.isfinite(options.alpha)
    if name == "STRIDED_SLICE":
        masks = options.ellipsisMask, options.newAxisMask, options.shrinkAxisMask
        return not any(masks)
    if name == "DEPTH_TO_SPACE":
        return options.blockSize > 1
    return True
