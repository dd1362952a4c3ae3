"""A trained model as an ONNX file that was loaded, run and compared."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from str_keras.export import onnx_graph, targets
from str_keras.export.convert import input_spec
from str_keras.export.errors import ExportError
from str_keras.export.extras import require
from str_keras.export.other_formats import INPUT, KEY, OUTPUT, Job, prepare, refused
from str_keras.export.plain import PreprocessingLike
from str_keras.export.report import FormatReport
from str_keras.files import claim_file, written_aside


def onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: PreprocessingLike | None = None,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> FormatReport:
    """Writes an ONNX file, or nothing: ONNX Runtime loads, runs and compares it first.

    The file takes the model's inputs, float32 "tensors" `[batch, ...]`, and gives
    "logits"; the batch is free. Its metadata "str_keras" is JSON of labels,
    preprocessing and versions. Zeros are stored as any number: a sparse model makes
    the file no smaller, but it compresses (`gzip_bytes`).

    Needs `pip install 'str_keras[onnx]'`.

    Args:
        model: Built Keras model of one input and one output; thresholds are stripped
            and 16-bit policies turned to float32, in a copy.
        path: Ends in .onnx.
        images: What is run, `[n, H, W, C]`: with `preprocessing` raw uint8 pixels of
            the model's size, without it the model's own inputs. None takes eight
            random inputs, and the report says so.
        labels: Class numbers `[n]` of the images, for the accuracy.
        class_names: One name an output, for the metadata.
        preprocessing: Such as `str_keras.data.Preprocessing`.
        tolerance: Largest max|difference| / max|y|; None: 1e-4.
        overwrite: Whether a file at `path` may be replaced.

    Returns:
        Sizes, counts and differences.

    Raises:
        ExportError: for a model that tf2onnx refuses, or a file that does not load,
            differs or lost zeros.
        ModuleNotFoundError: if the extra is not installed.
        ValueError: for a bad argument.
        OSError: if the path exists or cannot be written.
    """
    if Path(path).suffix != ".onnx":
        raise ValueError(f"`path` must end in .onnx. Received: path={str(path)!r}")
    require("onnx", "tf2onnx", "onnx", "onnxruntime")
    job = prepare(model, images, labels, class_names, preprocessing, tolerance)
    target = claim_file(path, overwrite)
    converted = _convert(job)
    content = converted.SerializeToString()
    with written_aside(target) as temporary:
        temporary.write_bytes(content)
        checked = job.compare(
            _runner(temporary), onnx_graph.read_kernels(converted), tolerance
        )
    return FormatReport(
        path=str(target),
        format="ONNX",
        bytes=len(content),
        gzip_bytes=targets.gzip_bytes(content),
        **checked,
    )


def _convert(job: Job) -> Any:
    (package,) = require("onnx", "onnx")
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        # Keras gives NumPy 2 the name np.object that tf2onnx asks for.
        warnings.filterwarnings("ignore", message=".*np.object", category=FutureWarning)
        file = str(Path(directory, "model.onnx"))
        specification: Any = [input_spec(job.model)]
        try:
            job.model.export(
                file, format="onnx", verbose=False, input_signature=specification
            )
            converted = package.load(file)
            onnx_graph.name_ends(converted, INPUT, OUTPUT)
            # Some operations, as of grouped convolutions, it leaves as they were.
            package.checker.check_model(converted, full_check=True)
        except Exception as error:  # tf2onnx raises whatever comes first
            raise refused("tf2onnx", error) from error
    entry = converted.metadata_props.add()
    entry.key, entry.value = KEY, job.description
    return converted


def _runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    (runtime,) = require("onnx", "onnxruntime")
    try:
        session = runtime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of onnxruntime's own types, which share no base
        raise _not_running(error) from error

    def run(inputs: np.ndarray) -> np.ndarray:
        try:
            return session.run([OUTPUT], {INPUT: inputs})[0]
        except Exception as error:
            raise _not_running(error) from error

    return run


def _not_running(error: Exception) -> ExportError:
    reason = " ".join(str(error).split())[:300]
    return ExportError(f"the file does not run in ONNX Runtime: {reason}")
