"""Ways to store a kernel that runtimes refuse, or compute wrong, whatever the graph.

Source, as of August 2026: LiteRT, tflite/delegates/xnnpack/xnnpack_delegate.cc,
`VisitConv2DNode`, `VisitFullyConnectedNode`: a kernel of 8 bits that is not dequantized
is read from the tensor itself, which a DENSIFY leaves empty. Runtimes say "failed to
delegate"; LiteRT.js 2.5.3 gives zeros. And: LiteRT.js gives NaN for a float16 kernel
with a float32 bias, measured.
"""

from __future__ import annotations

from collections.abc import Iterator

from str_keras.export.flatbuffer import Graph
from str_keras.export.xnnpack.delegate import FLOATS, OP, TYPE
from str_keras.export.xnnpack.names import operator_name
from str_keras.export.xnnpack.rules import Failure
from str_keras.export.xnnpack.weights import read_weights

SPARSE_INT8 = Failure(
    "sparse_int8",
    "its kernel of 8 bits is stored sparse and used without DEQUANTIZE",
    "store it dense, or export with weights='int8_weights'",
)
FLOAT32_BIAS = Failure(
    "bias",
    "its kernel is stored as float16 and its bias as float32",
    "store the bias as float16 too",
)
_KERNELS = (OP.CONV_2D, OP.DEPTHWISE_CONV_2D, OP.FULLY_CONNECTED)


def sparse_int8(graph: Graph) -> Iterator[str]:
    """Names of operators whose sparse kernel of 8 bits is not found."""
    for code, operator in graph.operators:
        if code not in (OP.CONV_2D, OP.FULLY_CONNECTED):
            continue
        kernel = int(operator.inputs[1])
        if graph.data(kernel) is not None:
            continue  # dense, or of the form that LiteRT itself multiplies by
        weights = read_weights(graph, kernel)
        if weights is None or weights.dtype != "int8" or weights.dequantized:
            continue
        floats = graph.tensors[int(operator.inputs[0])].type in FLOATS
        if weights.sparse and (floats or code == OP.FULLY_CONNECTED):
            yield operator_name(graph, operator)


def float32_biases(graph: Graph) -> Iterator[str]:
    """Names of operators of a float16 kernel and a float32 bias."""
    for code, operator in graph.operators:
        if code not in _KERNELS or len(operator.inputs) < 3 or operator.inputs[2] < 0:
            continue
        weights = read_weights(graph, int(operator.inputs[1]))
        bias = int(operator.inputs[2])
        plain = (
            graph.data(bias) is not None and graph.tensors[bias].type == TYPE.FLOAT32
        )
        if weights is not None and weights.dtype == "float16" and plain:
            yield operator_name(graph, operator)
