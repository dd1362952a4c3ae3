"""Runs files in turn on each runtime and compares each with the baseline."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from str_keras.export.benchmarking.report import BenchmarkReport, BenchmarkRow
from str_keras.export.benchmarking.spread import Spread, ratios
from str_keras.export.flatbuffer import read_kernels
from str_keras.export.runtimes.ends import read_ends
from str_keras.export.runtimes.installed import (
    EMULATED,
    available,
    runtime_versions,
)
from str_keras.export.runtimes.judging import Judge
from str_keras.export.runtimes.outcome import Outcome
from str_keras.export.runtimes.running import TIMEOUT, run
from str_keras.export.runtimes.twin import dense_twin
from str_keras.run_directory import versions


def benchmark(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    inputs: np.ndarray | None = None,
    runtimes: Sequence[str] = ("native",),
    threads: Sequence[int] = (1,),
    repeats: int = 30,
    emulated_repeats: int = 5,
    warmup: int = 3,
    count: bool = True,
    profile: bool = True,
    tolerance: float | None = None,
    timeout: float = TIMEOUT,
) -> BenchmarkReport:
    """Times .tflite files of the same input against each other, one of each in turn.

    The first file is the baseline; of one that is stored sparse it is the dense twin,
    the same file with its zeros stored, which is made and run beside it. Outputs are
    compared with the file's own on this CPU: a wrong result has no speed.

    Args:
        files: Paths; of no two the same name.
        inputs: Samples `[n, ...]`, all of which are compared and the first of which are
            timed; None takes one random input.
        runtimes: Of `runtimes.NAMES`: "native" is this CPU, "wasm" the browser;
            "x86_no_avx" and "arm64" are emulated: their times are a measure of work.
        threads: Numbers of threads, each measured apart; under emulators only one.
        repeats: Timed runs of each file, a batch each.
        emulated_repeats: The same under emulators, which take seconds for one.
        warmup: Runs before, not timed; under emulators one at the most.
        count: Count instructions, under emulators.
        profile: Ask LiteRT's profiler for the time of each kernel; the browser has
            none.
        tolerance: Largest max|difference| / max|y| to the outputs on this CPU; None:
            1e-4, for int8 0.02.
        timeout: Seconds without progress after which a runtime is ended.

    Returns:
        A row for each file, runtime and number of threads; printed it is a table.

    Raises:
        ValueError: for a bad argument, or a file that cannot be read.
        FileNotFoundError: if a file or a runtime is missing, with what to do.
    """
    listed = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = _check_files([Path(file) for file in listed])
    counts = _check_threads(threads)
    names = _check_runtimes(runtimes)
    with tempfile.TemporaryDirectory() as folder:
        paths = _with_baseline(paths, Path(folder))
        samples = _samples(paths[0]) if inputs is None else np.asarray(inputs)
        judges = _judges(paths, samples, tolerance, timeout)
        twins = _twins_of_first(paths)
        before, rows = _load(), []
        for name in names:
            emulated = name in EMULATED
            for number in (1,) if emulated else counts:
                outcomes = run(
                    name,
                    paths,
                    samples,
                    repeats=emulated_repeats if emulated else repeats,
                    warmup=min(warmup, 1) if emulated else warmup,
                    threads=number,
                    profile=profile and name != "wasm",
                    count=count and emulated,
                    timeout=timeout,
                )
                rows += [
                    _row(outcome, outcomes[0], judge, number, is_twin)
                    for outcome, judge, is_twin in zip(
                        outcomes, judges, twins, strict=True
                    )
                ]
        return BenchmarkReport(
            baseline=paths[0].name,
            bytes={path.name: path.stat().st_size for path in paths},
            rows=tuple(rows),
            machine=_machine() | {"load_before": before, "load_after": _load()},
            versions=versions() | runtime_versions(names),
        )


def _check_files(paths: list[Path]) -> list[Path]:
    if not paths:
        raise ValueError("at least one file is needed. Received: files=[]")
    names = [path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two files have the same name. Received: {', '.join(twice)}")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"There is no such file. Received: file={path}")
    return paths


def _check_threads(threads: Sequence[int]) -> list[int]:
    counts = list(dict.fromkeys(threads))
    whole = all(type(number) is int and number > 0 for number in counts)
    if not counts or not whole:
        raise ValueError(
            f"`threads` are whole numbers, 1 or more. Received: threads={counts}"
        )
    return counts


def _check_runtimes(runtimes: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(runtimes))
    if not names:
        raise ValueError("at least one runtime is needed. Received: runtimes=()")
    for name in names:
        missing = available(name)
        if missing:
            raise FileNotFoundError(f"{missing}, or leave it out of the runtimes")
    return names


def _with_baseline(paths: list[Path], folder: Path) -> list[Path]:
    """The files with the dense twin of the first before it, if that is sparse."""
    twin = dense_twin(paths[0].read_bytes())
    if twin is None:
        return paths
    names = {path.name for path in paths}
    name = f"{paths[0].stem}-dense-twin.tflite"
    if name in names:
        raise ValueError(
            "the dense twin of the first file needs a name of its own: rename the "
            f"other file. Received: {name}"
        )
    (folder / name).write_bytes(twin)
    return [folder / name, *paths]


def _samples(path: Path) -> np.ndarray:
    inputs = read_ends(path.read_bytes()).inputs
    if len(inputs) != 1:
        raise ValueError(
            f"files of one input can be timed. Received: {path.name} of {len(inputs)}"
        )
    return inputs[0].random(1)


def _judges(
    paths: list[Path], samples: np.ndarray, tolerance: float | None, timeout: float
) -> list[Judge]:
    """Of each file what knows its right outputs: those on this CPU."""
    native = run("native", paths, samples, timeout=timeout)
    return [
        Judge(path.read_bytes(), {}, outcome.heads, tolerance)
        for path, outcome in zip(paths, native, strict=True)
    ]


def _row(
    outcome: Outcome, baseline: Outcome, judge: Judge, threads: int, is_twin: bool
) -> BenchmarkRow:
    found = judge.row(outcome, baseline if is_twin else None)
    compared = found.is_right and outcome is not baseline
    return BenchmarkRow(
        runtime=outcome.runtime,
        threads=threads,
        file=outcome.file.name,
        trouble=found.trouble,
        sparse_kernels=found.sparse_kernels,
        evidence=found.evidence,
        seconds=Spread.of(outcome.seconds),
        faster=ratios(baseline.seconds, outcome.seconds) if compared else None,
        instructions=outcome.instructions,
        fewer=_fewer(baseline, outcome) if compared else None,
        operators=outcome.operators,
    )


def _fewer(baseline: Outcome, outcome: Outcome) -> float | None:
    if not baseline.instructions or not outcome.instructions:
        return None
    return baseline.instructions / outcome.instructions


def _twins_of_first(paths: list[Path]) -> list[bool]:
    """Whether a file may be judged by the first one's work: another, of its sizes."""
    sizes = [
        sorted(kernel.size for kernel in read_kernels(path.read_bytes()))
        for path in paths
    ]
    return [i > 0 and sizes[i] == sizes[0] for i in range(len(paths))]


def _load() -> float:
    return os.getloadavg()[0]


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        told = [line.partition(":") for line in info.read_text().splitlines()]
        models = [
            value.strip() for key, _, value in told if key.startswith("model name")
        ]
        processor = models[0] if models else processor
    return {"processor": processor, "cores": os.cpu_count()}
