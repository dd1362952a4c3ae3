"""Times, ratios and counts of several files on several runtimes: table and JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from str_keras.export.benchmarking.spread import Spread
from str_keras.export.runtimes.installed import EMULATED
from str_keras.tables import text_table

_SPARSE = {True: "yes", False: "no", None: "unknown"}
_SHOWN_KERNELS = 4


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One file on one runtime with so many threads.

    Attributes:
        runtime: One of `runtimes.NAMES`.
        threads: Of XNNPACK.
        file: The file's name.
        trouble: Why it did not run, or what is wrong with its outputs; then there are
            no ratios: a wrong result has no speed.
        sparse_kernels: Whether sparse kernels ran; None if unknown.
        evidence: How that is known, or why not.
        seconds: Of a run of one batch.
        faster: How many times such a run goes into the baseline's of the same turn.
        instructions: Of a run with one thread, where an emulator counted them.
        fewer: How many times they go into the baseline's.
        operators: Microseconds a run by kernel, from LiteRT's profiler, in a process of
            one file; None where there is none.
    """

    runtime: str
    threads: int
    file: str
    trouble: str = ""
    sparse_kernels: bool | None = None
    evidence: str = ""
    seconds: Spread | None = None
    faster: Spread | None = None
    instructions: int | None = None
    fewer: float | None = None
    operators: dict[str, float] | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Share of each kernel in the profiled time, the largest first."""
        spent = self.operators or {}
        whole = sum(spent.values())
        order = sorted(spent, key=lambda name: -spent[name])
        return {name: spent[name] / whole for name in order} if whole else {}


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """What was measured, of what, with what.

    Attributes:
        baseline: Name of the file that the others are compared with.
        bytes: Of each file by name, in the order given, the baseline first.
        rows: A file on a runtime each.
        machine: Processor, number of cores, and the load before and after: how many
            programs wanted to run, in the mean over a minute.
        versions: Of the packages and programs.
    """

    baseline: str
    bytes: dict[str, int]
    rows: tuple[BenchmarkRow, ...]
    machine: dict[str, Any]
    versions: dict[str, str]

    @property
    def is_right(self) -> bool:
        """Whether every file ran everywhere, with the same outputs."""
        return not any(row.trouble for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """All of it, for `json.dumps`."""
        return dataclasses.asdict(self) | {"is_right": self.is_right}

    def __str__(self) -> str:
        columns = ("runtime", "threads", "file", "bytes", "sparse", "median")
        columns += ("quartiles", "faster", "quartiles", "instructions", "fewer")
        lines = [text_table(columns, [self._cells(row) for row in self.rows], (0, 2))]
        lines.append(
            f"Faster, fewer: than {self.baseline}, turn by turn. Load of the "
            f"machine ({self.machine['cores']} cores): "
            f"{self.machine['load_before']:.2f} before, "
            f"{self.machine['load_after']:.2f} after."
        )
        emulated = {row.runtime for row in self.rows if row.runtime in EMULATED}
        if emulated:
            names = ", ".join(sorted(emulated))
            lines.append(f"Times of {names} are emulated work, not latency.")
        lines += [_where(row) + row.trouble for row in self.rows if row.trouble]
        lines += [
            _where(row) + row.evidence
            for row in self.rows
            if row.sparse_kernels is None and row.evidence
        ]
        lines += [_where(row) + _kernels(row) for row in self.rows if row.shares]
        return "\n".join(lines)

    def _cells(self, row: BenchmarkRow) -> tuple[str, ...]:
        return (
            row.runtime,
            str(row.threads),
            row.file,
            f"{self.bytes[row.file]:,}",
            "-" if row.trouble else _SPARSE[row.sparse_kernels],
            *_shown(row.seconds, 1000, "ms"),
            *_shown(row.faster, 1, "x"),
            f"{row.instructions:,}" if row.instructions else "-",
            f"{row.fewer:.2f} x" if row.fewer else "-",
        )


def _shown(spread: Spread | None, scale: float, unit: str) -> tuple[str, str]:
    if spread is None:
        return "-", "-"
    median, low, high = (
        f"{scale * value:,.{_digits(scale * spread.median)}f}"
        for value in (spread.median, spread.low, spread.high)
    )
    return f"{median} {unit}", f"{low} to {high}"


def _digits(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 100 else 2


def _where(row: BenchmarkRow) -> str:
    return f"{row.runtime}, {row.file}: "


def _kernels(row: BenchmarkRow) -> str:
    most = list(row.shares.items())[:_SHOWN_KERNELS]
    return ", ".join(f"{share:.0%} {name}" for name, share in most)
