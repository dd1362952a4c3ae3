"""What a file did on each runtime, as a table and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from str_keras.export.runtimes.installed import EMULATED
from str_keras.tables import text_table

_SPARSE = {True: "yes", False: "no", None: "unknown"}


@dataclasses.dataclass(frozen=True)
class RuntimeRow:
    """One runtime's line.

    Attributes:
        runtime: One of `NAMES`.
        error: Why the file did not load or run; empty if it did.
        fault: What is wrong with its outputs; empty if nothing.
        difference: max|runtime - reference| / max|reference|, the worst of the outputs;
            None if there is nothing to compare.
        from_native: The same against the file's own run on this CPU.
        agreement: Share of samples with the reference's top-1, in [0, 1], the worst of
            the outputs; None for outputs of one value.
        sparse_kernels: Whether sparse kernels ran; None if unknown.
        evidence: How that is known, or why not.
        seconds: Median of a run of one batch; None if not timed.
        instructions: Of such a run; None if not counted.
        work_ratio: Times the work of this file that its dense twin is, in instructions
            where they were counted, else in time; None if not measured.
    """

    runtime: str
    error: str = ""
    fault: str = ""
    difference: float | None = None
    from_native: float | None = None
    agreement: float | None = None
    sparse_kernels: bool | None = None
    evidence: str = ""
    seconds: float | None = None
    instructions: int | None = None
    work_ratio: float | None = None

    @property
    def is_right(self) -> bool:
        """Whether the file ran, and its outputs were compared and are right."""
        return not self.error and not self.fault and self.difference is not None

    @property
    def trouble(self) -> str:
        """What is not right; empty if all is."""
        if self.is_right:
            return ""
        nothing = "there is nothing to compare with: native gave no outputs"
        return self.error or self.fault or nothing


@dataclasses.dataclass(frozen=True)
class RuntimesReport:
    """A .tflite file on several runtimes.

    Attributes:
        file: Its path.
        sha256: Of its content.
        bytes: Its size.
        weights: The coarsest kind of its kernels: "float32", "float16", "int8", or
            "int8_weights" where only they are int8.
        reference: "Keras" or "native": whose outputs all are compared with.
        samples: How many.
        source: "images" or "random inputs".
        tolerance: Largest difference to the reference that is right.
        rows: A runtime each.
        versions: Of the packages.
    """

    file: str
    sha256: str
    bytes: int
    weights: str
    reference: str
    samples: int
    source: str
    tolerance: float
    rows: tuple[RuntimeRow, ...]
    versions: dict[str, str]

    @property
    def is_right(self) -> bool:
        """Whether the file runs everywhere with the right outputs."""
        return all(row.is_right for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """All of it, for `json.dumps`."""
        rows = [dataclasses.asdict(r) | {"is_right": r.is_right} for r in self.rows]
        return dataclasses.asdict(self) | {"is_right": self.is_right, "rows": rows}

    def __str__(self) -> str:
        columns = ("runtime", "runs", f"from {self.reference}", "top-1", "sparse")
        columns += ("median", "instructions", "dense twin")
        rows = [
            (
                row.runtime,
                "no" if row.error else "wrong" if row.fault else "yes",
                _shown(row.difference, ".1e"),
                _shown(row.agreement, ".2%"),
                "-" if row.error else _SPARSE[row.sparse_kernels],
                _milliseconds(row.seconds),
                _shown(row.instructions, ",d"),
                "-" if row.work_ratio is None else f"{row.work_ratio:.2f} x",
            )
            for row in self.rows
        ]
        lines = [text_table(columns, rows, left=(0, 1, 4))]
        lines.append(
            f"{self.file}: {self.bytes:,} bytes, {self.weights}; compared with "
            f"{self.reference} on {self.samples} {self.source}, tolerance "
            f"{self.tolerance:g}."
        )
        lines += [f"{r.runtime}: {r.trouble}" for r in self.rows if r.trouble]
        lines += [
            f"{r.runtime}: {r.evidence}"
            for r in self.rows
            if r.sparse_kernels is None and r.evidence
        ]
        if any(r.runtime in EMULATED and r.seconds is not None for r in self.rows):
            lines.append(
                f"Times of {', '.join(EMULATED)} are emulated work, not latency."
            )
        return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"
