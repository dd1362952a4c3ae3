"""How many instructions a run of a file is, from the emulator's plugin."""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from str_keras.export.runtimes.guest import run_guest
from str_keras.export.runtimes.installed import EMULATED, counting_plugin, program

_RUNS = 3


def count_instructions(
    name: str, jobs: Sequence[dict[str, Any]], folder: str, timeout: float
) -> list[int | str]:
    """Runs files again, with one thread, under the plugin that counts.

    A count holds the few thousand instructions of the interpreter's call from Python
    too. It repeats to four digits, whatever else the machine does.

    Args:
        name: A runtime that is available.
        jobs: The files, as in a guest's job; they ran before.
        folder: Where the guest's own files go.
        timeout: As of `run_guest`.

    Returns:
        For each file the median of three runs, or why there is none.
    """
    if name not in EMULATED:
        return [f"{name} is not emulated"] * len(jobs)
    if counting_plugin() is None:
        return ["qemu's plugin is missing, or does not load"] * len(jobs)
    if not jobs:
        return []
    log = Path(tempfile.mkdtemp(dir=folder)) / "counts"
    job = {
        "files": [job | {"shape": [1, *job["shape"][1:]]} for job in jobs],
        "folder": str(log.parent),
        "threads": 1,
        "warmup": 0,
        "repeats": 0,
        "profile_runs": 0,
        "count_runs": _RUNS,
    }
    told = run_guest(program(name, count_to=log), job, timeout)
    counts = _read_counts(log)
    return [
        int(statistics.median(counts[i]))
        if len(counts[i]) == _RUNS
        else told.ended or "the plugin told none"
        for i in range(len(jobs))
    ]


def _read_counts(log: Path) -> dict[int, list[int]]:
    """By file the instructions between its marks; what comes before is of no run."""
    counts: dict[int, list[int]] = defaultdict(list)
    if log.is_file():
        for line in log.read_text(encoding="utf-8").splitlines():
            _, file, instructions = line.split()
            counts[int(file)].append(int(instructions))
    return defaultdict(list, {file: marks[1:] for file, marks in counts.items()})
