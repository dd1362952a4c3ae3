"""Bytes of the .tflite file of a model, from the numbers of its non-zeros."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from str_keras.budget.counting import kernel_paths
from str_keras.budget.file_graph import Structure, structure
from str_keras.kernels import kernel_axes, reader_of
from str_keras.model import SubstitutedModel, find_thresholded
from str_keras.policies import row_length
from str_keras.selection import select

WEIGHTS = ("float32", "float16", "int8_weights")
# What stands around the arrays of a kernel, in bytes: fitted to written files.
_SPARSE, _SPARSE_DIMENSION = 176, 16
_DEQUANTIZED, _DIMENSION, _SCALED, _SCALED_TWICE = 94, 4, 16, 34
_BASE, _KIND = 811, 92
# What export takes for them when it chooses how to store a kernel.
_CHOICE_OPERATOR, _CHOICE_DIMENSION, _ZERO_POINT = 150, 28, 8

_NO_UNPACKING = (layers.Conv3D, layers.Conv3DTranspose)


@dataclass(frozen=True)
class StoredShape:
    """A kernel as a file has it.

    Args:
        path: Its path in the model.
        size: Number of weights.
        rows: Rows of which the non-zeros are stored, with `row` weights each.
        row: See `rows`.
        channels: Output channels, of which int8 has a scale each.
        dimensions: Of the tensor in the file.
        bias: Values beside it that are rounded to float16 with it; 0 without.
        unpacks: Whether it may be sparse in another type than float32.
    """

    path: str
    size: int
    rows: int
    row: int
    channels: int
    dimensions: int
    bias: int
    unpacks: bool


class FileSize:
    """Bytes of the file that `stk.export.tflite(..., sparse=True)` would write.

    Pure arithmetic on shapes and names: no file is written, no TensorFlow needed. Each
    kernel counts as it would be stored, dense or sparse, as is smaller; the rest of
    the file (operators, tensors and their names, biases with batch normalization
    folded in) is estimated from the graph.

    Against 120 files of eight nets with 50 to 99 % zeros, in all three kinds (weights
    drawn from a normal distribution, the smallest zeroed), it was off by at most 0.25 %
    for MobileNetV1 of a quarter width, MobileNetV2, ResNet10 and ResNet18, and 0.8 %
    for smaller nets, of 12 kB and more. Weights that are kept, but so small that int8
    rounds them to zero, count as stored (with soft thresholds up to 1.1 %).

    Layers that TensorFlow writes as many operators count as one, which misses some
    kilobytes: a file of 20 kB was told 2 to 9 % too small with a Conv1D or
    SeparableConv2D, by a third with attention, by half with a GRU. `correct` takes the
    rest over from a single written file: float32 and float16 were then right to 0.3 %
    at 50 and 99 % zeros, int8_weights to 3 %, and 8 % in a net of 9 kB.

    Args:
        model: Built Functional or Sequential model with thresholds, or a plain one.
        weights: "float32", "float16" or "int8_weights", as of `export.tflite`.

    Attributes:
        paths: Of the kernels whose numbers of kept weights are given, in order: those
            of `find_thresholded(model)`, of a plain model those that could have a
            threshold. Others count as they are now.
        sizes: Of each its number of weights, int64.

    Raises:
        ValueError: for other `weights`, or a model without a kernel.
    """

    paths: tuple[str, ...]
    sizes: np.ndarray

    def __init__(self, model: keras.Model, weights: str = "float16"):
        if weights not in WEIGHTS:
            raise ValueError(
                f"`weights` is one of {WEIGHTS}. Received: weights={weights!r}"
            )
        found = structure(model)
        kernels = list(_stored_shapes(model, found))
        alike = Counter(shape.channels for shape, _ in kernels)
        led = _led(model)
        order = {id(variable): place for place, variable in enumerate(led)}
        mine = {order[id(v)]: s for s, v in kernels if id(v) in order}
        if not mine or len(mine) != len(led):
            raise ValueError(
                "A size is told of models whose kernels stand in the layers of its "
                f"graph. Received: {len(mine)} of {len(led)} kernels found"
            )
        others = [(s, v) for s, v in kernels if id(v) not in order]
        self.weights = weights
        self._kernels = _Kernels([mine[i] for i in range(len(led))], weights, alike)
        self.paths, self.sizes = self._kernels.paths, self._kernels.size
        rest = 0.0
        if others:
            counts = np.array([_nonzeros(variable) for _, variable in others])
            rest = _Kernels([s for s, _ in others], weights, alike)(counts)
        self.base = (
            _BASE + _KIND * (1 + (weights != "float32")) + found.bytes + float(rest)
        )

    def __call__(self, kept: Any) -> float:
        """Bytes if so many weights of each kernel are not zero; grows with each.

        Args:
            kept: Numbers `[kernels]`, in order of `paths`; need not be whole.

        Raises:
            ValueError: for another number of kernels.
        """
        kept = np.asarray(kept, "float64")
        if kept.shape != self.sizes.shape:
            raise ValueError(
                f"One number a kernel is wanted, {len(self.sizes)} in all. "
                f"Received: kept of shape {kept.shape}"
            )
        return self.base + float(self._kernels(kept))

    def correct(self, written: int, kept: Any) -> None:
        """Takes over what a file of the model was written with, from now on.

        For nets of which the rest of the file is estimated badly (see above).

        Args:
            written: Bytes of a file of these `weights`.
            kept: Numbers of non-zeros that it was written with, as of a call.

        Raises:
            ValueError: for another number of kernels.
        """
        self.base += written - self(kept)


def estimate_bytes(
    model: keras.Model, kept: Iterable[float] | None = None, weights: str = "float16"
) -> int:
    """Bytes of the sparse .tflite file of a model: see `FileSize`.

    Args:
        model: As of `FileSize`.
        kept: Numbers of kept weights, see `FileSize`; None: as the model is now.
        weights: As of `FileSize`.

    Raises:
        ValueError: as of `FileSize`.
    """
    size = FileSize(model, weights)
    return round(size(_kept_now(model) if kept is None else kept))


def _led(model: keras.Model) -> list[keras.Variable]:
    """The variables of the kernels whose numbers are given."""
    led = [item.kernel.variable for item in find_thresholded(model)]
    return led or [kernel.variable for kernel in select(model)[0]]


def _kept_now(model: keras.Model) -> list[int]:
    read = [item.sparse() for item in find_thresholded(model)] or _led(model)
    return [_nonzeros(values) for values in read]


def _nonzeros(values: Any) -> int:
    return int(np.count_nonzero(np.asarray(keras.ops.convert_to_numpy(values))))


def _stored_shapes(
    model: keras.Model, found: Structure
) -> Iterator[tuple[StoredShape, keras.Variable]]:
    inner = model.model if isinstance(model, SubstitutedModel) else model
    for path, whole, variable in kernel_paths(inner):
        layer = reader_of(whole, variable)
        shape = tuple(int(n) for n in variable.shape)
        axes = kernel_axes(layer).get(variable.name, (-1,))
        size = math.prod(shape)
        row = row_length(layer, variable.name, shape, axes)
        flat = isinstance(layer, layers.Dense | layers.EinsumDense | layers.RNN)
        first = variable.name == "depthwise_kernel"  # a SeparableConv's bias is beside
        biased = not (first or isinstance(layer, _NO_UNPACKING))
        stored = StoredShape(
            path=path,
            size=size,
            rows=size // max(row, 1),
            row=row,
            channels=math.prod(shape[axis] for axis in axes),
            dimensions=2 if flat or len(shape) < 3 else max(len(shape), 4),
            bias=found.biases.get(id(whole), 0) if biased else 0,
            unpacks=not isinstance(layer, _NO_UNPACKING),
        )
        yield stored, variable


def _widths(largest: np.ndarray) -> np.ndarray:
    """Bytes of an integer that holds numbers up to `largest`."""
    return np.where(largest < 256, 1, np.where(largest < 65536, 2, 4))


def _padded(number: np.ndarray) -> np.ndarray:
    return np.ceil(number / 4) * 4


class _Kernels:
    """Sum of what kernels take, as a function of their non-zeros; vectorized."""

    def __init__(self, kernels: list[StoredShape], weights: str, alike: Counter[int]):
        def column(name: str) -> np.ndarray:
            return np.array([getattr(kernel, name) for kernel in kernels], "int64")

        self.paths = tuple(kernel.path for kernel in kernels)
        self.size, self.rows = column("size"), column("rows")
        self.channels, self.dimensions = column("channels"), column("dimensions")
        self.bias, self.unpacks = column("bias"), column("unpacks").astype(bool)
        self.index = _widths(column("row") - 1)
        same = np.array([alike[kernel.channels] for kernel in kernels])
        self.zero_points = _ZERO_POINT * self.channels // same
        self._of_group, self._group = np.unique(self.channels, return_inverse=True)
        self.weights = weights
        if weights == "int8_weights":
            self._int8_from = self._first_int8()
            last = np.maximum(self._int8_from - 1, 0)
            self._least = np.where(self._int8_from > 0, self._float(last, 2), 0)

    def __call__(self, kept: np.ndarray) -> np.ndarray:
        kept = np.clip(kept, 1, self.size)  # one zero is stored where all are
        if self.weights == "float32":
            return self._float(kept, 4).sum()
        if self.weights == "float16":
            return self._float(kept, 2).sum()
        as_int8 = np.maximum(self._int8(kept), self._least)
        taken = kept >= self._int8_from
        # Kernels of as many channels share their zero points.
        shared = np.bincount(self._group, taken) > 0
        points = _ZERO_POINT * (self._of_group * shared).sum()
        return np.where(taken, as_int8, self._float(kept, 2)).sum() + points

    def _sparse(self, kept: np.ndarray, width: int) -> np.ndarray:
        segments = (self.rows + 1) * _widths(kept)
        arrays = _padded(kept * width) + _padded(segments) + _padded(kept * self.index)
        return arrays + _SPARSE + _SPARSE_DIMENSION * self.dimensions

    def _float(self, kept: np.ndarray, width: int) -> np.ndarray:
        """The smaller of dense and sparse; of float16 with the bias beside it."""
        dense = _padded(self.size * float(width))
        sparse = self._sparse(kept, width)
        if width == 4:
            return np.minimum(dense, sparse)
        cast = _DEQUANTIZED + _DIMENSION * self.dimensions
        halved = np.where(self.bias > 0, _DEQUANTIZED + _DIMENSION - 2 * self.bias, 0)
        dense, packed = dense + cast, sparse + cast
        packed = np.where(self.unpacks, packed, np.inf)
        single = np.where(self.unpacks, np.inf, self._sparse(kept, 4) - halved)
        return np.minimum(np.minimum(dense, packed), single) + halved

    def _int8(self, kept: np.ndarray) -> np.ndarray:
        scales = 4 * self.channels + _SCALED + _DEQUANTIZED
        scales += _DIMENSION * self.dimensions
        packed = self._sparse(kept, 1) + _SCALED_TWICE
        single = np.where(self.unpacks, packed + scales, self._sparse(kept, 4))
        return np.minimum(_padded(self.size.astype(float)) + scales, single)

    def _first_int8(self) -> np.ndarray:
        """From how many kept weights on export takes int8 rather than float16."""
        low, high = np.zeros_like(self.size), self.size + 1
        while (low < high).any():
            middle = (low + high) // 2
            takes = (self._choice(middle, 1) <= self._choice(middle, 2)) & (low < high)
            high = np.where(takes, middle, high)
            low = np.where(takes | (low >= high), low, middle + 1)
        return low

    def _choice(self, kept: np.ndarray, width: int) -> np.ndarray:
        """Bytes by which export chooses: `export.rewrite.sizes.stored_bytes`."""
        kept = np.maximum(kept, 1)
        dense = self.size * width + _CHOICE_OPERATOR
        arrays = kept * (width + self.index) + (self.rows + 1) * _widths(kept)
        sparse = arrays + 2 * _CHOICE_OPERATOR + _CHOICE_DIMENSION * self.dimensions
        scales = (4 * self.channels + self.zero_points) * (width == 1)
        # What may not be sparse in another type is in float32.
        single = sparse + (4 - width) * kept - _CHOICE_OPERATOR
        sparse = np.where(self.unpacks, sparse + scales, single)
        return np.minimum(dense + scales, sparse)
