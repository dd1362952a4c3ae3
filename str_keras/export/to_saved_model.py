"""A trained model as a SavedModel that was loaded in a fresh process and compared."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from str_keras.export import _reload, targets, verify
from str_keras.export.convert import (
    Endpoint,
    as_given,
    input_spec,
    write_saved_model,
)
from str_keras.export.errors import ExportError
from str_keras.export.inputs import (
    check_class_names,
    check_labels,
    input_shape,
    make_samples,
)
from str_keras.export.plain import (
    PreprocessingLike,
    Tensor,
    kernel_counts,
    plain_model,
    predict,
)
from str_keras.export.report import SavedModelReport

TENSORS, IMAGES = "serving_default", "serve_images"


def saved_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    preprocessing: PreprocessingLike | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> SavedModelReport:
    """Writes a SavedModel, or nothing: it is loaded, run and compared first.

    Signature "serving_default" takes the model's inputs ("tensors"); with
    `preprocessing`, "serve_images" takes raw uint8 images `[B, h, w, C]` of any size
    ("images"), which are resized and normalized inside. Both give {"logits": outputs}
    and leave the batch free. The directory is loaded by a fresh process that has
    TensorFlow only, and each signature compared with Keras, within 1e-4 of max|y|.

    Zeros are stored as any number: a sparse model makes the directory no smaller, but
    it compresses (`gzip_bytes`). `assets.extra/export.json` has labels, preprocessing
    and versions.

    Args:
        model: Built Keras model of one input and one output; thresholds are stripped
            and 16-bit policies turned to float32, in a copy.
        path: The directory.
        preprocessing: Such as `str_keras.data.Preprocessing`.
        images: What is run, `[n, H, W, C]`: with `preprocessing` raw uint8 pixels of
            the model's size, without it the model's own inputs. None takes eight
            random inputs, and the report says so.
        labels: Class numbers `[n]` of the images, for the accuracy.
        class_names: One name an output, for the JSON.
        overwrite: Whether a SavedModel at `path` may be replaced.

    Returns:
        Sizes, counts and differences.

    Raises:
        ExportError: if it does not load or differs.
        ValueError: for a bad argument.
        OSError: if the path exists or cannot be written.
    """
    plain = plain_model(model)
    labels = check_labels(labels, images, plain)
    class_names = check_class_names(class_names, plain)
    samples = make_samples(plain, images, preprocessing)
    target = targets.claim_saved_model(path, overwrite)
    inputs = {TENSORS: samples.tensors}
    references = {TENSORS: predict(plain, samples.tensors)}
    if preprocessing is not None:
        inputs[IMAGES] = samples.raw
        prepared = np.asarray(_prepare(preprocessing)(samples.raw))
        references[IMAGES] = predict(plain, prepared)
    with targets.directory_aside(target) as temporary:
        write_saved_model(plain, _endpoints(plain, preprocessing), temporary)
        (temporary / "assets.extra").mkdir()
        targets.write_json(
            temporary / "assets.extra" / "export.json",
            _describe(class_names, preprocessing),
        )
        outputs = run_saved_model(temporary, inputs)
        comparisons = _compare(outputs, references)
        total, packed = targets.directory_bytes(temporary)
    counts = kernel_counts(plain)
    shares = [c.agreement for c in comparisons if c.agreement is not None]
    return SavedModelReport(
        path=str(target),
        signatures=tuple(inputs),
        bytes=total,
        gzip_bytes=packed,
        params=sum(size for size, _ in counts),
        nonzeros=sum(nonzeros for _, nonzeros in counts),
        difference=max(c.difference for c in comparisons),
        agreement=min(shares) if shares else None,
        verified_on=len(samples.raw),
        verified_with=samples.source,
        top1=None
        if labels is None
        else float(np.mean(outputs[TENSORS].argmax(-1) == labels)),
    )


def _prepare(preprocessing: PreprocessingLike) -> Any:
    def prepare(images: Tensor) -> Tensor:
        return preprocessing.normalize(preprocessing.resize(images))

    return prepare


def _endpoints(
    model: keras.Model, preprocessing: PreprocessingLike | None
) -> dict[str, Endpoint]:
    endpoints: dict[str, Endpoint] = {TENSORS: (as_given, input_spec(model))}
    if preprocessing is not None:
        channels = input_shape(model)[-1]
        spec = tf.TensorSpec((None, None, None, channels), tf.uint8, "images")
        endpoints[IMAGES] = (_prepare(preprocessing), spec)
    return endpoints


def _describe(
    class_names: list[str] | None, preprocessing: PreprocessingLike | None
) -> dict[str, Any]:
    return {
        "labels": class_names,
        "preprocessing": None if preprocessing is None else preprocessing.to_json(),
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
    }


def _compare(
    outputs: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray]
) -> list[verify.Comparison]:
    comparisons = [verify.compare(outputs[name], references[name]) for name in outputs]
    for comparison in comparisons:
        verify.check(comparison, "float32")
    return comparisons


def run_saved_model(
    directory: Path, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Runs signatures of a SavedModel in a fresh process that has TensorFlow only.

    Args:
        directory: The SavedModel.
        inputs: By signature, the array `[n, ...]` for its one argument.

    Returns:
        By signature, the "logits" `[n, ...]`.

    Raises:
        ExportError: if it does not load or run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "inputs.npz"), Path(scratch, "outputs.npz")
        np.savez(source, **inputs)  # pyright: ignore[reportArgumentType]
        # -P keeps this package's directory, the script's own, off the import path.
        command = [sys.executable, "-P", _reload.__file__, directory, source, target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            raise ExportError(
                f"the SavedModel does not run in a fresh process: {lines[-1][:300]}"
            )
        with np.load(target) as arrays:
            return {name: arrays[name] for name in arrays.files}
