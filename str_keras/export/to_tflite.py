"""A trained model as a .tflite file that was loaded, run and compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from str_keras.export import targets, verify
from str_keras.export.convert import convert, input_spec, refuse_loops
from str_keras.export.errors import ExportError
from str_keras.export.flatbuffer import (
    count_operators,
    pointwise_head,
    read_kernels,
)
from str_keras.export.inputs import (
    Samples,
    check_class_names,
    check_labels,
    make_samples,
)
from str_keras.export.plain import (
    PreprocessingLike,
    kernel_counts,
    plain_model,
    predict,
)
from str_keras.export.report import TFLiteReport
from str_keras.files import claim_file, written_aside

WEIGHTS = ("float32", "float16", "int8")


def tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    weights: str = "float32",
    sparse: bool = False,
    batch_size: int | None = 1,
    calibration: np.ndarray | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    preprocessing: PreprocessingLike | None = None,
    uint8_input: bool = False,
    tolerance: float | None = None,
    overwrite: bool = False,
) -> TFLiteReport:
    """Writes a .tflite file, or nothing: it is loaded, run and compared first.

    The file runs in LiteRT under the default delegate on `images` and its outputs are
    compared with Keras', max|difference| / max|y|: float32 within 1e-4, float16 within
    5e-3. int8 fails only where it is broken: outputs not finite, the same for all
    images, off by as much as the largest output, or another top-1 than Keras' on more
    than half of the images. No format may lose a zero of a kernel.

    `path` with the suffix .json tells input, labels, preprocessing, versions, the
    SHA-256 of the file and how it was verified.

    Args:
        model: Built Keras model of one input and one output; thresholds are stripped
            and 16-bit policies turned to float32, in a copy.
        path: Ends in .tflite.
        weights: "float32"; "float16"; "int8": weights per channel and activations,
            calibrated after training, the input float32 or uint8, the output float32.
        sparse: Stores only the non-zeros of kernels (float32 and float16).
        batch_size: Fixed size of a batch; None leaves it free (not for recurrent
            layers, unless they are built with `unroll=True`; nor is int8 for them).
        calibration: For int8, real images that set the ranges; shape and dtype as
            `images`. A hundred and more are usual.
        images: What the file is verified on, `[n, H, W, C]`: with `preprocessing` raw
            uint8 pixels of the model's size, without it the model's own inputs. None
            takes eight random inputs, and the report says so.
        labels: Class numbers `[n]` of the images, for the accuracy.
        class_names: One name an output, for the JSON.
        preprocessing: Such as `str_keras.data.Preprocessing`.
        uint8_input: The file takes raw uint8 pixels of the model's size and normalizes
            them inside by `preprocessing`.
        tolerance: Largest max|difference| / max|y| of a float32 or float16 file; None:
            1e-4 and 5e-3. Rounding to float16 alone can reach 1e-2 in a deep network.
        overwrite: Whether a file at `path` may be replaced.

    Returns:
        Sizes, counts and differences.

    Raises:
        ExportError: for a combination that fails on some runtime, a model that the
            converter refuses, or a file that does not load or differs.
        ValueError: for a bad argument.
        OSError: if the path exists or cannot be written.
    """
    _check_options(
        path, weights, sparse, batch_size, uint8_input, preprocessing, tolerance
    )
    plain = plain_model(model)
    refuse_loops(plain, weights, batch_size)
    labels = check_labels(labels, images)
    class_names = check_class_names(class_names, plain)
    samples = make_samples(plain, images, preprocessing)
    if weights == "int8":
        calibration = _calibration(plain, calibration, preprocessing, uint8_input)
    target = claim_file(path, overwrite)
    claim_file(target.with_suffix(".json"), overwrite)

    content, *twin = convert(
        plain,
        weights=weights,
        encodings=(True, False) if sparse else (False,),
        batch_size=batch_size,
        calibration=calibration,
        normalize=preprocessing if uint8_input else None,
    )
    dense_bytes = len(twin[0]) if sparse else None
    if sparse:
        _refuse_pointwise_head(content)
    with written_aside(target) as temporary:
        temporary.write_bytes(content)
        checked = _verify(
            temporary, plain, samples, labels, weights, uint8_input, tolerance
        )
        report = TFLiteReport(
            path=str(target),
            weights=weights,
            sparse=sparse,
            batch_size=batch_size,
            uint8_input=uint8_input,
            bytes=len(content),
            gzip_bytes=targets.gzip_bytes(content),
            dense_bytes=dense_bytes,
            note=_note(content, dense_bytes),
            **checked,
        )
        spec = input_spec(plain, batch_size, "uint8" if uint8_input else None)
        described = _describe(report, content, spec, class_names, preprocessing)
    targets.write_json(target.with_suffix(".json"), described)
    return report


def _check_options(
    path: str | os.PathLike[str],
    weights: str,
    sparse: bool,
    batch_size: int | None,
    uint8_input: bool,
    preprocessing: PreprocessingLike | None,
    tolerance: float | None,
) -> None:
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"`tolerance` must be in [0, 1). Received: {tolerance=}")
    if Path(path).suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: path={str(path)!r}")
    if weights == "dynamic":
        raise ValueError(
            "`weights` cannot be dynamic: sparse-encoded, such a file does not load "
            "under LiteRT's default delegate; take int8 with calibration images, or "
            f"float16. Received: {weights=}"
        )
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` is one of {WEIGHTS}. Received: {weights=}")
    if weights == "int8" and sparse:
        raise ExportError(
            "int8 is not written sparse-encoded: where such a file has a Dense layer "
            "it fails to load (failed to delegate FULLY_CONNECTED), and no runtime has "
            "int8 sparse kernels; take float16 with sparse=True, or int8 with "
            "sparse=False and gzip it"
        )
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and batch_size > 0):
        raise ValueError(
            f"`batch_size` is a positive integer, or None. Received: {batch_size=}"
        )
    if uint8_input and preprocessing is None:
        raise ValueError("`uint8_input` needs `preprocessing`: what is to be inside?")


def _calibration(
    model: keras.Model,
    images: np.ndarray | None,
    preprocessing: PreprocessingLike | None,
    uint8_input: bool,
) -> np.ndarray:
    if images is None:
        raise ValueError(
            "int8 needs `calibration`: real images, in the form of `images`; a hundred "
            "training images will do (--dataset on the command line)"
        )
    samples = make_samples(model, images, preprocessing, "calibration")
    return samples.raw if uint8_input else samples.tensors


def _refuse_pointwise_head(content: bytes) -> None:
    head = pointwise_head(content)
    if head is not None:
        raise ExportError(
            "a 1x1 convolution after global average pooling is not written "
            "sparse-encoded: where sparse kernels are on it does not load (XNNPack "
            "delegate failed to reshape runtime); replace it by "
            "GlobalAveragePooling2D() and Dense, the same function, or take "
            f"sparse=False. Received: {head}"
        )


def _verify(
    path: Path,
    model: keras.Model,
    samples: Samples,
    labels: np.ndarray | None,
    weights: str,
    uint8_input: bool,
    tolerance: float | None,
) -> dict[str, Any]:
    reference = predict(model, samples.tensors)
    outputs = verify.run_tflite(path, samples.raw if uint8_input else samples.tensors)
    comparison = verify.compare(outputs, reference)
    verify.check(comparison, weights, tolerance)
    content, kernels = path.read_bytes(), kernel_counts(model)
    stored = read_kernels(content)
    verify.check_zeros(stored, kernels)
    return {
        "params": sum(kernel.size for kernel in stored),
        "nonzeros": sum(kernel.nonzeros for kernel in stored),
        "model_nonzeros": sum(nonzeros for _, nonzeros in kernels),
        "densify_ops": count_operators(content, "DENSIFY"),
        "difference": comparison.difference,
        "agreement": comparison.agreement,
        "top1": _accuracy(outputs, labels),
        "model_top1": _accuracy(reference, labels),
        "verified_on": len(reference),
        "verified_with": samples.source,
    }


def _accuracy(outputs: np.ndarray, labels: np.ndarray | None) -> float | None:
    return None if labels is None else float(np.mean(outputs.argmax(-1) == labels))


def _note(content: bytes, dense_bytes: int | None) -> str:
    if dense_bytes is None:
        return ""
    if not count_operators(content, "DENSIFY"):
        return (
            "the converter stored no kernel sparse (too few zeros, or Conv3D kernels "
            "only): the file is dense"
        )
    if len(content) >= dense_bytes:
        return (
            f"not smaller than its dense twin of {dense_bytes:,} bytes: take "
            "sparse=False (sparse encoding pays from about half of zeros, in kernels "
            "that are not tiny)"
        )
    return ""


def _describe(
    report: TFLiteReport,
    content: bytes,
    spec: tf.TensorSpec,
    class_names: list[str] | None,
    preprocessing: PreprocessingLike | None,
) -> dict[str, Any]:
    verified = ("difference", "agreement", "top1", "model_top1")
    return {
        "file": Path(report.path).name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": report.bytes,
        "weights": report.weights,
        "sparse": report.sparse,
        "params": report.params,
        "nonzeros": report.nonzeros,
        "input": {
            "name": spec.name,
            "shape": list(spec.shape),
            "dtype": spec.dtype.name,
            "normalized": not report.uint8_input,
        },
        "output": {"name": "logits"},
        "labels": class_names,
        "preprocessing": None if preprocessing is None else preprocessing.to_json(),
        "verified": {
            "on": f"{report.verified_on} {report.verified_with}",
            **{name: getattr(report, name) for name in verified},
        },
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
    }
