"""Which storage of a kernel is the smallest, in the file or in a download."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeAlias

from str_keras.export.rewrite.encoding import Rows, Storage
from str_keras.export.rewrite.storing import Weight

Size: TypeAlias = Callable[[Weight, Storage], int]

# What the file takes for the tensors and operators between stored kernel and float32.
_OPERATOR_BYTES = 150
_DIMENSION_BYTES = 28
_ZERO_POINT_BYTES = 8


def stored_bytes(weight: Weight, storage: Storage, alike: int = 1) -> int:
    """Bytes that a kernel takes in the file, to some tens of bytes.

    Args:
        weight: The kernel.
        storage: How it is stored.
        alike: How many kernels of the file have as many channels: as int8 they share
            their zero points.
    """
    arrays = _arrays(weight, storage)
    zero_points = _ZERO_POINT_BYTES * weight.values.shape[weight.axis] // alike
    shared = zero_points if storage.dtype == "int8" else 0
    return sum(map(len, arrays)) + _structure_bytes(weight, storage) + shared


def packed_bytes(weight: Weight, storage: Storage) -> int:
    """Bytes that a kernel takes in a compressed download, to some tens of bytes."""
    packed = zlib.compress(b"".join(_arrays(weight, storage)), 9)
    return len(packed) + _structure_bytes(weight, storage) // 4


def bytes_in(kernels: Iterable[Weight]) -> Size:
    """`stored_bytes` for the kernels of one file."""
    alike = Counter(kernel.values.shape[kernel.axis] for kernel in kernels)

    def size(weight: Weight, storage: Storage) -> int:
        channels = weight.values.shape[weight.axis]
        return stored_bytes(weight, storage, alike[channels])

    return size


def _arrays(weight: Weight, storage: Storage) -> list[bytes]:
    rounded = weight.rounded(storage.dtype)
    scales = [] if rounded.scales is None else [rounded.scales]
    stored = Rows.of(rounded.values).arrays if storage.sparse else (rounded.values,)
    return [array.tobytes() for array in (*stored, *scales)]


def _structure_bytes(weight: Weight, storage: Storage) -> int:
    operators = int(storage.sparse) + int(storage.dtype != "float32")
    dimensions = weight.values.ndim * storage.sparse
    return operators * _OPERATOR_BYTES + dimensions * _DIMENSION_BYTES


def smallest(
    dtypes: Iterable[str],
    sparse: Iterable[bool] = (False, True),
    size: Size = stored_bytes,
) -> Callable[[Weight], Storage]:
    """What `store` can be given: of each kernel the storage that takes the least.

    A kernel that can be sparse in float32 only is so if that is the smallest.

    Args:
        dtypes: Of which to choose; of two of the same size the first.
        sparse: Of which encodings to choose.
        size: `stored_bytes`, `bytes_in(kernels)` or `packed_bytes`.
    """
    storages = [Storage(dtype, zeros) for dtype in dtypes for zeros in sparse]
    instead = Storage("float32", sparse=True)

    def choose(weight: Weight) -> Storage:
        allowed = [s if weight.allows(s) else instead for s in storages]
        return min(allowed, key=lambda storage: size(weight, storage))

    return choose
