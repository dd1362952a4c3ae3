"""How many zeros a file holds, kernel by kernel."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from str_keras.export.flatbuffer import StoredKernel, read_kernels
from str_keras.tables import text_table


@dataclasses.dataclass(frozen=True)
class ZeroCount:
    """The kernels of a .tflite file as it stores them; `print` it.

    Attributes:
        kernels: In the order of their use: name, size, nonzeros, dtype and whether
            they are stored sparse.
    """

    kernels: tuple[StoredKernel, ...]

    @property
    def params(self) -> int:
        """Elements of all kernels, zeros included."""
        return sum(kernel.size for kernel in self.kernels)

    @property
    def zeros(self) -> int:
        """Elements that are 0 when the file runs; of integers, at their zero point."""
        return self.params - sum(kernel.nonzeros for kernel in self.kernels)

    @property
    def sparsity(self) -> float:
        """Share of zeros, in [0, 1]; 0 without kernels."""
        return self.zeros / self.params if self.params else 0.0

    def __str__(self) -> str:
        rows = [
            (
                kernel.name.partition(";")[0],
                kernel.dtype + " sparse" * kernel.sparse,
                f"{kernel.size:,}",
                f"{kernel.size - kernel.nonzeros:,}",
                f"{1 - kernel.nonzeros / kernel.size:.2%}",
            )
            for kernel in self.kernels
        ]
        total = (f"{self.params:,}", f"{self.zeros:,}", f"{self.sparsity:.2%}")
        columns = ("kernel", "stored as", "weights", "zeros", "share")
        return text_table(columns, [*rows, [], ("all", "", *total)], left=(0, 1))


def count_zeros(path: str | os.PathLike[str]) -> ZeroCount:
    """Counts the zeros of each kernel of a .tflite file, of whatever type and encoding.

    Rounding to 8 or 16 bits keeps every zero and adds those that small weights round
    to; `tflite` compares both with the model before it keeps a file, this counts them
    in any file. Neither TensorFlow nor a run of the file is needed.

    Args:
        path: Of the file.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no TensorFlow Lite flatbuffer.
    """
    return ZeroCount(tuple(read_kernels(Path(path).read_bytes())))
