"""One file and the same samples on every runtime, compared with Keras."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from str_keras.export.inputs import RANDOM_INPUTS, make_samples
from str_keras.export.plain import PreprocessingLike, plain_model, predict
from str_keras.export.runtimes.ends import read_ends
from str_keras.export.runtimes.installed import (
    EMULATED,
    NAMES,
    available,
    runtime_versions,
)
from str_keras.export.runtimes.judging import Judge
from str_keras.export.runtimes.outcome import Outcome
from str_keras.export.runtimes.report import RuntimesReport
from str_keras.export.runtimes.running import TIMEOUT, run
from str_keras.export.runtimes.twin import dense_twin
from str_keras.run_directory import versions

# Where a judgement hangs on times, so many runs are timed at the least.
_JUDGING_RUNS = 20


def verify_runtimes(
    path: str | os.PathLike[str],
    *,
    model: keras.Model | None = None,
    images: np.ndarray | None = None,
    preprocessing: PreprocessingLike | None = None,
    runtimes: Sequence[str] = NAMES,
    tolerance: float | None = None,
    repeats: int = 5,
    threads: int = 1,
    count: bool = False,
    against_dense: bool = False,
    timeout: float = TIMEOUT,
) -> RuntimesReport:
    """Runs a .tflite file on every runtime and compares its outputs.

    A file that is right on this CPU may be refused, or give wrong outputs without a
    word, where XNNPACK's sparse kernels are on: on Arm, in browsers, on x86 without
    AVX. All of them run here, on the same samples.

    Args:
        path: The .tflite file, of one input.
        model: The Keras model that it was made of, of one input and one output; None
            compares with the file's own run on this CPU.
        images: What to run, `[n, ...]`: with `preprocessing` raw uint8 pixels of the
            model's size, without it the model's own inputs. None takes eight random
            inputs, and the report says so.
        preprocessing: What normalizes pixels, such as `str_keras.data.Preprocessing`.
        runtimes: Of `NAMES`.
        tolerance: Largest max|difference| / max|y| to Keras, or between runtimes; None:
            1e-4 for float32, 5e-3 for float16 against Keras, and for int8 only what is
            broken; between runtimes 1e-4, and 0.02 for int8.
        repeats: Timed runs of a batch.
        threads: Of XNNPACK.
        count: Count instructions too, where a runtime is emulated.
        against_dense: Run the file's dense twin beside it everywhere, for the ratio of
            work; in the browser it is run in any case, as nothing else tells there
            whether sparse kernels are on.
        timeout: Seconds without progress after which a runtime is ended.

    Returns:
        A row for each runtime; printed it is a table.

    Raises:
        ValueError: for a bad argument, or a file that cannot be read.
        FileNotFoundError: if the file or a runtime is missing, with what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no such file. Received: file={path}")
    names = _check_runtimes(runtimes, model)
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"`tolerance` must be in [0, 1). Received: {tolerance=}")
    content = path.read_bytes()
    samples = _make_samples(content, model, images, preprocessing)
    pairs: dict[str, tuple[Outcome, Outcome | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        twin = _write_twin(content, Path(folder) / f"{path.stem}-dense.tflite")
        for name in names:
            beside = [twin] if twin and (against_dense or name == "wasm") else []
            outcomes = run(
                name,
                [path, *beside],
                samples.values,
                repeats=max(repeats, _JUDGING_RUNS) if name == "wasm" else repeats,
                threads=threads,
                profile=name != "wasm",
                count=count and name in EMULATED,
                timeout=timeout,
            )
            pairs[name] = outcomes[0], outcomes[1] if beside else None
    native = pairs["native"][0].heads if "native" in pairs else {}
    judge = Judge(content, samples.reference, native, tolerance)
    return RuntimesReport(
        file=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        weights=judge.weights,
        reference=judge.reference_name,
        samples=len(samples.values),
        source=samples.source,
        tolerance=judge.tolerance,
        rows=tuple(judge.row(outcome, twin) for outcome, twin in pairs.values()),
        versions=versions() | runtime_versions(names),
    )


def _check_runtimes(
    runtimes: Sequence[str], model: keras.Model | None
) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(runtimes))
    if not names or (model is None and "native" not in names):
        raise ValueError(
            "without a Keras model the file's own run on this CPU is what all are "
            f"compared with: add native, or give a model. Received: runtimes={names}"
        )
    for name in names:
        missing = available(name)
        if missing:
            raise FileNotFoundError(f"{missing}, or leave it out of the runtimes")
    return names


@dataclasses.dataclass(frozen=True)
class _Samples:
    """What the file is fed, its source, and Keras' outputs, empty without a model."""

    values: np.ndarray
    reference: dict[str, np.ndarray]
    source: str


def _make_samples(
    content: bytes,
    model: keras.Model | None,
    images: np.ndarray | None,
    preprocessing: PreprocessingLike | None,
) -> _Samples:
    taken = read_ends(content).only_input
    takes_pixels = taken.dtype == "uint8"
    if model is not None:
        plain = plain_model(model)
        if takes_pixels and preprocessing is None:
            raise ValueError(
                "the file takes raw pixels and the Keras model does not: give "
                "`preprocessing` (on the command line the data set, --dataset)"
            )
        made = make_samples(plain, images, preprocessing)
        values = made.raw if takes_pixels else made.tensors
        return _Samples(values, {"Keras": predict(plain, made.tensors)}, made.source)
    if images is None:
        return _Samples(taken.random(RANDOM_INPUTS), {}, "random inputs")
    values = np.asarray(images)
    if preprocessing is not None and not takes_pixels:
        values = np.asarray(preprocessing.normalize(values))
    return _Samples(values, {}, "images")


def _write_twin(content: bytes, path: Path) -> Path | None:
    twin = dense_twin(content)
    if twin is None:
        return None
    path.write_bytes(twin)
    return path
