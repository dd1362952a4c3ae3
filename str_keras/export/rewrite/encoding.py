"""How one kernel is stored: rounded to a type, its zeros left out or not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

DTYPES = ("float32", "float16", "int8")

# Index vectors in the types the schema has, the narrowest first.
_INDEX_TYPES = (
    (np.uint8, schema.Uint8VectorT, schema.SparseIndexVector.Uint8Vector),
    (np.uint16, schema.Uint16VectorT, schema.SparseIndexVector.Uint16Vector),
    (np.int32, schema.Int32VectorT, schema.SparseIndexVector.Int32Vector),
)
_INT8_LARGEST = 127  # -128 is left out: symmetric about a zero that is stored as 0


@dataclasses.dataclass(frozen=True)
class Storage:
    """How a kernel is stored; whatever it is, it is computed with in float32.

    Attributes:
        dtype: "float32", "float16", or "int8": rounded symmetrically, with a scale for
            each output channel.
        sparse: Whether only its non-zeros, and where they are, are stored.

    Raises:
        ValueError: for another dtype.
    """

    dtype: str = "float32"
    sparse: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(
                f"a kernel is stored as one of {DTYPES}. Received: dtype={self.dtype!r}"
            )

    def __str__(self) -> str:
        return self.dtype + " sparse" * self.sparse


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A kernel rounded to a type.

    Attributes:
        values: Of that type, in the kernel's shape; a zero of the kernel is 0.
        scales: Of int8, float32 `[channels]`: what values are multiplied by.
        axis: The dimension of the channels.
    """

    values: np.ndarray
    scales: np.ndarray | None = None
    axis: int = 0


def round_to(values: np.ndarray, dtype: str, axis: int) -> Rounded:
    """Rounds a kernel to the nearest values of a type.

    Args:
        values: float32, finite.
        dtype: One of `DTYPES`. What is beyond float16's range becomes its largest
            number, as in TensorFlow's converter.
        axis: The dimension of the output channels, for the scales of int8.
    """
    if dtype == "float32":
        return Rounded(values)
    if dtype == "float16":
        largest = np.finfo(np.float16).max
        return Rounded(np.clip(values, -largest, largest).astype("<f2"))
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others, initial=0).astype(np.float32)
    # A channel of zeros has any scale; one of denormal numbers has the least normal.
    scales = np.maximum(largest / _INT8_LARGEST, np.finfo(np.float32).tiny)
    scales = np.where(largest == 0, 1, scales).astype("<f4")
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    steps = np.round(values / scales.reshape(shape).astype(np.float64))
    steps = np.clip(steps, -_INT8_LARGEST, _INT8_LARGEST).astype(np.int8)
    return Rounded(steps, scales, axis)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The non-zeros of an array, row by row of its last dimension (CSR).

    Attributes:
        values: The non-zeros.
        segments: `[rows + 1]`: where each row begins among the values.
        indices: For each value its place in its row.
    """

    values: np.ndarray
    segments: np.ndarray
    indices: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray) -> Rows:
        """Encodes an array of one dimension or more."""
        rows = array.reshape(-1, array.shape[-1])
        kept = rows != 0
        if not kept.any():
            # One zero stays: to LiteRT a tensor without data is no constant.
            kept[0, 0] = True
        segments = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
        _, indices = np.nonzero(kept)
        return cls(rows[kept], _narrowest(segments), _narrowest(indices))

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All that is stored."""
        return self.values, self.segments, self.indices

    def parameters(self, shape: tuple[int, ...]) -> Any:
        """LiteRT's `SparsityParametersT`: all dimensions dense but the last.

        That is what TensorFlow's converter writes. Blocks are not used (XNNPACK takes
        dense ones only), nor another order of dimensions (it gains nothing).
        """
        made = schema.SparsityParametersT()
        made.traversalOrder, made.blockMap = list(range(len(shape))), []
        last = schema.DimensionMetadataT()
        last.format = schema.DimensionType.SPARSE_CSR
        last.arraySegments, last.arraySegmentsType = _vector(self.segments)
        last.arrayIndices, last.arrayIndicesType = _vector(self.indices)
        made.dimMetadata = [*(_dense(size) for size in shape[:-1]), last]
        return made


def _narrowest(values: np.ndarray) -> np.ndarray:
    largest = int(values.max(initial=0))
    kinds = (kind for kind, _, _ in _INDEX_TYPES if largest <= np.iinfo(kind).max)
    return values.astype(next(kinds))


def _vector(values: np.ndarray) -> tuple[Any, int]:
    for kind, table, code in _INDEX_TYPES:
        if values.dtype == kind:
            vector: Any = table()
            vector.values = values
            return vector, code
    raise AssertionError(values.dtype)


def _dense(size: int) -> Any:
    dimension = schema.DimensionMetadataT()
    dimension.format, dimension.denseSize = schema.DimensionType.DENSE, size
    return dimension


def quantization(rounded: Rounded) -> Any:
    """LiteRT's `QuantizationParametersT` of an int8 kernel; None of any other."""
    if rounded.scales is None:
        return None
    made: Any = schema.QuantizationParametersT()
    made.scale = rounded.scales
    made.zeroPoint = np.zeros(len(rounded.scales), "<i8")
    made.quantizedDimension = rounded.axis
    return made
