"""Starts a guest program on a job and reads what it tells.

A job is a JSON file:

    files         a list of {path, input, outputs, samples, shape, dtype}: the .tflite;
                  index of its input tensor; [name, index] of each output tensor; the
                  file of the samples' values and their shape and dtype
    folder        where outputs go, a file of values each
    threads       of XNNPACK
    warmup, repeats            timed runs, of the first batch
    profile_runs, count_runs   0: none

The guest tells JSON lines on its standard output: `{at, stage}` before it does anything
with file `at`, so that a crash has a culprit and silence an end; `{file, ...}` with one
of `error`, `outputs`, `seconds`, `operators`, `note`; `{done}` at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from str_keras.export.runtimes.installed import Program

_DOING = {
    "load": "loading it",
    "run": "running it",
    "time": "timing it",
    "profile": "profiling it",
    "count": "counting its instructions",
}
_GRACE = 10.0
# Linux then ends the guest if this process is killed, and cannot end it itself.
_WITH_US = ("setpriv", "--pdeathsig", "TERM")


@dataclasses.dataclass
class Told:
    """What a guest told until it ended.

    Attributes:
        files: By number of the file, its lines merged.
        at: The file it was at when it ended before it was done; None before the first.
        ended: Why it ended before it was done; empty if it was.
    """

    files: dict[int, dict[str, Any]] = dataclasses.field(default_factory=dict)
    at: int | None = None
    ended: str = ""


def run_guest(program: Program, job: dict[str, Any], timeout: float) -> Told:
    """Runs a guest program to its end; whatever comes of it, nothing is raised.

    Args:
        program: As of `installed.program`.
        job: See above.
        timeout: Seconds without a line after which the guest is ended.
    """
    path = Path(job["folder"]) / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    with_us = _WITH_US if shutil.which(_WITH_US[0]) else ()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*with_us, *program.on(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=program.environment,
            # The guest may start processes of its own, to be ended with it.
            start_new_session=True,
        )
        try:
            return _listen(process, log, timeout)
        finally:
            _end(process)


def _listen(process: subprocess.Popen[bytes], log: IO[bytes], timeout: float) -> Told:
    told, stage = Told(), ""
    try:
        for line in _lines(process, timeout):
            if "done" in line:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
                return told
            if "at" in line:
                told.at, stage = line["at"], line["stage"]
            else:
                told.files.setdefault(line.pop("file"), {}).update(line)
    except TimeoutError:
        told.ended = f"ended after {timeout:g} s without a sign of progress"
    else:
        told.ended = _death(process, log)
    if stage:
        told.ended += f", while {_DOING[stage]}"
    return told


def _lines(process: subprocess.Popen[bytes], timeout: float) -> Iterator[dict]:
    """The guest's lines as they come, until it closes its standard output.

    Raises:
        TimeoutError: if none comes for `timeout` seconds.
    """
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        rest = b""
        while True:
            if not selector.select(timeout):
                raise TimeoutError
            read = os.read(process.stdout.fileno(), 1 << 16)
            if not read:
                return
            *lines, rest = (rest + read).split(b"\n")
            yield from (json.loads(line) for line in lines)


def _death(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    try:
        status = process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        return "the process stopped telling, and was ended"
    if status < 0:
        return f"the process died of {signal.Signals(-status).name}"
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f"the process ended with status {status}: {said[-1] if said else ''}"[:500]


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the guest and what it started; gently first, so that it can clean up."""
    for number, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if number == signal.SIGKILL or process.poll() is None:
                os.killpg(process.pid, number)
            process.wait(grace)
    if process.stdout is not None:
        process.stdout.close()
