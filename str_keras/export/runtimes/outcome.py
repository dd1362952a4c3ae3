"""What came of one file on one runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

SPARSE_KERNEL = "SPMM"
"""What XNNPACK calls its kernels that multiply a sparse matrix, in profiles."""
# A dense twin takes this much more where sparse kernels are on, and at most that much
# where they are off; measured: 2.5 and more at 90 % of zeros, 0.9 to 1.1.
_ON, _OFF = 1.5, 1.2


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One .tflite file on one runtime: what it gave, or why it did not.

    Attributes:
        runtime: One of `NAMES`.
        file: The .tflite file.
        error: Why there are no outputs: it did not load, failed as it ran, ended the
            process, or took too long. Empty if it ran.
        heads: By name of the output, the values for all samples, `[n, ...]`, in the
            file's own order; quantized outputs as the float32 that they stand for.
        seconds: Of each repeated run of one batch, after warm-up, the files in turn.
            Under an emulator a measure of its work, and no latency.
        operators: Microseconds by kernel in LiteRT's profile of one run; None if there
            is none.
        instructions: Of one run, the median of three; None if not counted.
        note: What else should be known, such as why there is no profile.
    """

    runtime: str
    file: Path
    error: str = ""
    heads: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    seconds: tuple[float, ...] = ()
    operators: dict[str, float] | None = None
    instructions: int | None = None
    note: str = ""

    @property
    def outputs(self) -> np.ndarray | None:
        """The values of the first output; None if the file did not run."""
        return next(iter(self.heads.values()), None)

    @property
    def median_seconds(self) -> float | None:
        """Median over the repeated runs; None without."""
        return float(np.median(self.seconds)) if self.seconds else None

    @property
    def sparse_kernels(self) -> bool | None:
        """Whether sparse kernels ran, by the profile; None if there is none."""
        if self.operators is None:
            return None
        return any(SPARSE_KERNEL in name for name in self.operators)

    def noted(self, note: str) -> Outcome:
        """The same with one more note."""
        notes = [text for text in (self.note, note) if text]
        return dataclasses.replace(self, note="; ".join(notes))


def work_ratio(dense: Outcome, sparse: Outcome) -> float | None:
    """How many times the work of the sparse file its dense twin is.

    Args:
        dense: The twin, of the same call of `run`.
        sparse: The file.

    Returns:
        The ratio of instructions where both were counted, else of the medians of
        seconds; None where neither was measured.
    """
    if dense.instructions and sparse.instructions:
        return dense.instructions / sparse.instructions
    if dense.median_seconds and sparse.median_seconds:
        return dense.median_seconds / sparse.median_seconds
    return None


def sparse_kernels_by_work(dense: Outcome, sparse: Outcome) -> bool | None:
    """Whether sparse kernels ran, judged from a dense twin's work.

    Args:
        dense: The twin, of the same call of `run`.
        sparse: The file; two thirds of its weights or more are zeros.

    Returns:
        True if the twin takes 1.5 times as much or more, False if at most 1.2 times,
        None between, or if nothing was measured.
    """
    ratio = work_ratio(dense, sparse)
    if ratio is None or _OFF < ratio < _ON:
        return None
    return ratio >= _ON
