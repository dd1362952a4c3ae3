"""Which storage of a kernel is the smallest, in the file or in a download."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

from str_keras.export.rewrite.encoding import Rows, Storage
from str_keras.export.rewrite.storing import Weight

# What the file takes for the tensors and operators between stored kernel and float32.
_OPERATOR_BYTES = 150
_DIMENSION_BYTES = 28


def stored_bytes(weight: Weight, storage: Storage) -> int:
    """Bytes that a kernel takes in the file, to some tens of bytes."""
    arrays = _arrays(weight, storage)
    return sum(map(len, arrays)) + _structure_bytes(weight, storage)


def packed_bytes(weight: Weight, storage: Storage) -> int:
    """Bytes that a kernel takes in a compressed download, to some tens of bytes."""
    packed = zlib.compress(b"".join(_arrays(weight, storage)), 9)
    return len(packed) + _structure_bytes(weight, storage) // 4


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
    size: Callable[[Weight, Storage], int] = stored_bytes,
) -> Callable[[Weight], Storage]:
    """What `store` can be given: of each kernel the storage that takes the least.

    Args:
        dtypes: Of which to choose; of two of the same size the first.
        sparse: Of which encodings to choose.
        size: `stored_bytes` or `packed_bytes`.
    """
    storages = [Storage(dtype, zeros) for dtype in dtypes for zeros in sparse]

    def choose(weight: Weight) -> Storage:
        return min(storages, key=lambda storage: size(weight, storage))

    return choose
