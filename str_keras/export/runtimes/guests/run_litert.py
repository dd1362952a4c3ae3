"""Runs .tflite files on ai-edge-litert; told by a job's file, tells JSON lines.

Usage: python run_litert.py JOB.json

It runs natively and under emulators, so it imports ai-edge-litert and numpy alone.
`str_keras/export/runtimes/guest.py` starts it, and describes the job and the lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

import litert_profiler  # beside this file
import numpy as np
from ai_edge_litert.interpreter import Interpreter

_MARK = 0x5354 << 16


class _File:
    """One .tflite file, loaded, and its samples cut into batches."""

    def __init__(self, told: dict[str, Any], threads: int) -> None:
        self.path = told["path"]
        self._interpreter = Interpreter(model_path=self.path, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = told["input"]
        self._outputs = [index for _, index in told["outputs"]]
        details = {d["index"]: d for d in self._interpreter.get_input_details()}
        self._batch = int(details[self._input]["shape"][0])
        # The job may want but the first of the samples.
        number = int(np.prod(told["shape"]))
        samples = np.fromfile(told["samples"], told["dtype"], number)
        samples = samples.reshape(told["shape"])
        self.count = len(samples)
        rows = np.arange(-(-self.count // self._batch) * self._batch) % self.count
        self.batches = samples[rows].reshape(-1, self._batch, *samples.shape[1:])

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        self.set_input(batch)
        self._interpreter.invoke()
        outputs = [self._interpreter.get_tensor(index) for index in self._outputs]
        for values in outputs:
            if values.shape[:1] != (self._batch,):
                raise ValueError(
                    f"an output is no row a sample: for {self._batch} samples its "
                    f"shape is {values.shape}"
                )
        return outputs

    def set_input(self, batch: np.ndarray) -> None:
        self._interpreter.set_tensor(self._input, batch)

    def invoke(self) -> None:
        self._interpreter.invoke()


class _Guest:
    def __init__(self, job: dict[str, Any], lines: Any) -> None:
        self._job = job
        self._lines = lines
        self._loaded: dict[int, _File] = {}

    def _tell(self, **line: Any) -> None:
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()

    def _at(self, i: int, stage: str) -> None:
        self._tell(at=i, stage=stage)

    def work(self) -> None:
        for i, told in enumerate(self._job["files"]):
            self._at(i, "load")
            try:
                file = self._loaded[i] = _File(told, self._job["threads"])
                self._write_outputs(i, file, told["outputs"])
            except (ValueError, RuntimeError, MemoryError) as error:
                self._loaded.pop(i, None)
                self._tell(file=i, error=str(error))
        if self._job["repeats"]:
            self._time()
        if self._job["profile_runs"]:
            self._profile()
        if self._job["count_runs"]:
            self._count()
        self._tell(done=True)

    def _write_outputs(self, i: int, file: _File, names: list[Any]) -> None:
        batches = []
        for batch in file.batches:
            self._at(i, "run")
            batches.append(file.run(batch))
        told = []
        for position, (name, _) in enumerate(names):
            values = np.concatenate([batch[position] for batch in batches])[
                : file.count
            ]
            path = os.path.join(self._job["folder"], f"outputs-{i}-{position}")
            np.ascontiguousarray(values).tofile(path)
            told.append(
                {
                    "name": name,
                    "shape": values.shape,
                    "dtype": values.dtype.name,
                    "path": path,
                }
            )
        self._tell(file=i, outputs=told)

    def _time(self) -> None:
        """One run of each file in turn, so that a busy machine slows all alike."""
        seconds: dict[int, list[float]] = {i: [] for i in self._loaded}
        for turn in range(-self._job["warmup"], self._job["repeats"]):
            for i, file in self._loaded.items():
                self._at(i, "time")
                file.set_input(file.batches[0])
                start = time.perf_counter()
                file.invoke()
                if turn >= 0:
                    seconds[i].append(time.perf_counter() - start)
        for i, spent in seconds.items():
            self._tell(file=i, seconds=spent)

    def _profile(self) -> None:
        for i, file in self._loaded.items():
            self._at(i, "profile")
            try:
                operators = litert_profiler.profile(
                    file.path,
                    file.batches[0],
                    runs=self._job["profile_runs"],
                    threads=self._job["threads"],
                )
                self._tell(file=i, operators=operators)
            except litert_profiler.ProfilerError as error:
                self._tell(file=i, note=f"no profile: {error}")

    def _count(self) -> None:
        """Marks between runs, for the emulator's plugin that counts instructions."""
        for i, file in self._loaded.items():
            self._at(i, "count")
            file.run(file.batches[0])
            _mark(i)
            for _ in range(self._job["count_runs"]):
                file.invoke()
                _mark(i)


def _mark(i: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.getpgid(_MARK + i)


def main(path: str) -> None:
    """Does the job."""
    # Whatever the library prints goes to standard error, the lines alone to this one.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    _Guest(job, lines).work()


if __name__ == "__main__":
    main(*sys.argv[1:])
