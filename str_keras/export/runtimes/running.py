"""Runs .tflite files on a runtime: one guest for all, again without what killed it."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from str_keras.export.runtimes.counting import count_instructions
from str_keras.export.runtimes.ends import Ends, read_ends
from str_keras.export.runtimes.guest import run_guest
from str_keras.export.runtimes.installed import available, program
from str_keras.export.runtimes.outcome import Outcome

TIMEOUT = 300.0
"""Seconds in which a guest must come one step further, such as a run of one batch."""
_PROFILE_RUNS = 5


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is to be done with the files."""

    threads: int
    warmup: int
    repeats: int
    profile: bool
    timeout: float


def run(
    name: str,
    files: Sequence[str | os.PathLike[str]],
    inputs: Sequence[np.ndarray] | np.ndarray,
    *,
    repeats: int = 0,
    warmup: int = 1,
    threads: int = 1,
    profile: bool = False,
    count: bool = False,
    timeout: float = TIMEOUT,
) -> list[Outcome]:
    """Runs .tflite files on a runtime, all on the same samples, in one process or page.

    A file that does not load, ends the process or hangs has that as its outcome's
    error, and the others run without it.

    Args:
        name: One of `NAMES`: "native" is ai-edge-litert on this CPU, in a process of
            its own; "x86_no_avx" and "arm64" are the same under qemu; "wasm" is
            LiteRT.js in Debian's Chromium.
        files: Paths of .tflite files of one input.
        inputs: Samples `[n, ...]`, or n arrays. A file of fixed batch gets batches of
            that size, the last one filled up; one of free batch a sample at a time
            (LiteRT.js runs none of those).
            Float samples are quantized for a file that takes quantized ones.
        repeats: Timed runs of the first batch, one of each file in turn.
        warmup: Such runs before, not timed.
        threads: Of XNNPACK.
        profile: Ask LiteRT's profiler which kernels ran; the browser has none.
        count: Count the instructions of a run, with one thread; emulators only.
        timeout: Seconds without any progress after which a guest is ended.

    Returns:
        An outcome a file, in the order of `files`.

    Raises:
        ValueError: for an unknown runtime, a bad number, or samples that do not fit.
        FileNotFoundError: if a file, or the runtime, is missing: the line says what to
            install.
    """
    missing = available(name)
    if missing:
        raise FileNotFoundError(missing)
    _check_numbers(repeats=repeats, warmup=warmup)
    _check_numbers(least=1, threads=threads, files=len(files))
    paths = [Path(file).absolute() for file in files]
    samples = inputs if isinstance(inputs, np.ndarray) else np.stack(list(inputs))
    if not len(samples):
        raise ValueError(f"at least one sample is needed. Received: {samples.shape}")
    outcomes: dict[int, Outcome] = {}
    readable: dict[int, Ends] = {}
    for i, path in enumerate(paths):
        if not path.is_file():
            raise FileNotFoundError(f"There is no such file. Received: file={path}")
        try:
            readable[i] = _read(path)
        except ValueError as error:
            outcomes[i] = Outcome(name, path, error=str(error))
    work = _Work(threads, warmup, repeats, profile and name != "wasm", timeout)
    with tempfile.TemporaryDirectory() as folder:
        jobs = {i: _job(paths[i], e, samples, folder) for i, e in readable.items()}
        outcomes |= _run_until_all_did(name, jobs, readable, work, folder)
        if count:
            good = [i for i in jobs if not outcomes[i].error]
            counts = count_instructions(name, [jobs[i] for i in good], folder, timeout)
            for i, counted in zip(good, counts, strict=True):
                outcomes[i] = _counted(outcomes[i], counted)
    if profile and name == "wasm":
        reason = "no profile: LiteRT.js has no profiler"
        outcomes = {i: outcome.noted(reason) for i, outcome in outcomes.items()}
    return [outcomes[i] for i in range(len(paths))]


def _counted(outcome: Outcome, counted: int | str) -> Outcome:
    if isinstance(counted, str):
        return outcome.noted(f"no instruction count: {counted}")
    return dataclasses.replace(outcome, instructions=counted)


def _check_numbers(least: int = 0, **numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"`{name}` is a whole number, {least} or more. Received: {name}={value}"
            )


def _read(path: Path) -> Ends:
    ends = read_ends(path.read_bytes())
    _ = ends.only_input
    return ends


def _job(path: Path, ends: Ends, samples: np.ndarray, folder: str) -> dict[str, Any]:
    end = ends.only_input
    values = np.ascontiguousarray(end.quantize(samples))
    file = Path(folder) / f"samples-{end.dtype}-{end.scale}-{end.zero_point}"
    if not file.exists():
        values.tofile(file)
    return {
        "path": str(path),
        "input": end.index,
        "outputs": [[output.name, output.index] for output in ends.outputs],
        "samples": str(file),
        "shape": values.shape,
        "dtype": values.dtype.name,
    }


def _run_until_all_did(
    name: str,
    jobs: dict[int, dict[str, Any]],
    ends: dict[int, Ends],
    work: _Work,
    folder: str,
) -> dict[int, Outcome]:
    """Starts guests until one ends by itself, without the files that ended those."""
    outcomes: dict[int, Outcome] = {}
    waiting = list(jobs)
    while waiting:
        job = {
            "files": [jobs[i] for i in waiting],
            "folder": tempfile.mkdtemp(dir=folder),
            "threads": work.threads,
            "warmup": work.warmup,
            "repeats": work.repeats,
            "profile_runs": _PROFILE_RUNS if work.profile else 0,
            "count_runs": 0,
        }
        told = run_guest(program(name), job, work.timeout)
        if told.ended and told.at is not None:
            culprit = waiting.pop(told.at)
            path = Path(jobs[culprit]["path"])
            outcomes[culprit] = Outcome(name, path, error=told.ended)
            continue
        for position, i in enumerate(waiting):
            lines = told.files.get(position, {"error": told.ended})
            outcomes[i] = _outcome(name, jobs[i], ends[i], lines)
        return outcomes
    return outcomes


def _outcome(
    name: str, job: dict[str, Any], ends: Ends, lines: dict[str, Any]
) -> Outcome:
    path = Path(job["path"])
    if "error" in lines:
        return Outcome(name, path, error=" ".join(lines["error"].split())[:500])
    named = {end.name: end for end in ends.outputs}
    heads = {}
    # The browser names outputs by their tensors where a file has no signature, and two
    # of one tensor alike: then their order tells which is which.
    has_names = {told["name"] for told in lines["outputs"]} == set(named)
    for told, (wanted, _) in zip(lines["outputs"], job["outputs"], strict=True):
        end = named[told["name"] if has_names else wanted]
        values = np.fromfile(told["path"], told["dtype"]).reshape(told["shape"])
        heads[end.name] = end.dequantize(values[: job["shape"][0]])
    return Outcome(
        runtime=name,
        file=path,
        heads={end.name: heads[end.name] for end in ends.outputs},
        seconds=tuple(lines.get("seconds", ())),
        operators=lines.get("operators"),
        note=lines.get("note", ""),
    )
