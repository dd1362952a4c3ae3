"""A kernel as the file stores it, counted."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from str_keras.export.flatbuffer import Graph
from str_keras.export.xnnpack.delegate import OP, TYPE

_TYPES = {TYPE.FLOAT32: np.float32, TYPE.FLOAT16: np.float16, TYPE.INT8: np.int8}


@dataclasses.dataclass(frozen=True)
class Weights:
    """A kernel.

    Attributes:
        size: Elements, zeros included.
        zeros: Elements that are zero.
        dtype: As stored: "float32", "float16" or "int8".
        sparse: Whether only the non-zeros are stored.
        dequantized: Whether a DEQUANTIZE makes float32 of it before its use.
    """

    size: int
    zeros: int
    dtype: str
    sparse: bool
    dequantized: bool


def read_weights(graph: Graph, tensor: int) -> Weights | None:
    """The kernel behind DENSIFY and DEQUANTIZE; None if it is computed, or unknown."""
    size, dequantized = math.prod(graph.shape(tensor)), False
    while graph.data(tensor) is None:
        code, operator = graph.producers.get(tensor, (None, None))
        if operator is None or code not in (OP.DENSIFY, OP.DEQUANTIZE):
            return None
        dequantized |= code == OP.DEQUANTIZE
        tensor = int(operator.inputs[0])
    stored = graph.tensors[tensor]
    kind = _TYPES.get(stored.type)
    if kind is None:
        return None
    values = np.asarray(graph.data(tensor)).view(kind)
    # A step of zero stands for 0 in symmetric quantization, the only one of kernels.
    nonzeros = int(np.count_nonzero(values))
    sparse = stored.sparsity is not None
    return Weights(size, size - nonzeros, np.dtype(kind).name, sparse, dequantized)
