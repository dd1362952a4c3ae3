"""A trained model as a .tflite file that was loaded, run and compared."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np

from str_keras.export.kinds import Kind
from str_keras.export.plain import PreprocessingLike
from str_keras.export.report import TFLiteReport
from str_keras.export.writing import TFLiteWriter, check_target


def tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    weights: str = "float32",
    sparse: bool = False,
    smallest: str = "file",
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
    5e-3, int8_weights within 0.1. int8 fails only where it is broken: outputs not
    finite, the same for all images, off by as much as the largest output, or another
    top-1 than Keras' on more than half of the images. No format may lose a zero of a
    kernel.

    `path` with the suffix .json tells input, labels, preprocessing, versions, the
    SHA-256 of the file and how it was verified.

    Args:
        model: Built Keras model of one input and one output; thresholds are stripped
            and 16-bit policies turned to float32, in a copy.
        path: Ends in .tflite.
        weights: "float32"; "float16"; "int8": weights per channel and activations,
            calibrated after training, the input float32 or uint8, the output float32;
            "int8_weights": kernels alone, with a scale per channel (in float16 where
            that is smaller), computed with in float32.
        sparse: Stores a kernel without its zeros where that is smaller, and rewrites
            the graph, exactly, to what sparse kernels ask for (`rewrite.make_ready`);
            not of int8.
        smallest: With `sparse`, what is to be small: the "file", or the "download",
            its size when compressed.
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
        tolerance: Largest max|difference| / max|y|, but of int8; None: as above.
            Rounding to float16 alone can reach 1e-2 in a deep network.
        overwrite: Whether a file at `path` may be replaced.

    Returns:
        Sizes, counts and differences.

    Raises:
        ExportError: for a combination that fails on some runtime, a model that the
            converter refuses, or a file that does not load or differs.
        ValueError: for a bad argument.
        OSError: if the path exists or cannot be written.
    """
    kind = Kind(weights, sparse, smallest)
    check_target(path, kind, tolerance)
    writer = TFLiteWriter(
        model,
        batch_size=batch_size,
        calibration=calibration,
        images=images,
        labels=labels,
        class_names=class_names,
        preprocessing=preprocessing,
        uint8_input=uint8_input,
    )
    return writer.write(path, kind, tolerance=tolerance, overwrite=overwrite)
