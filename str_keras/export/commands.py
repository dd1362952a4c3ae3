"""What `tools/convert_tflite.py` and `tools/convert_saved_model.py` do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from str_keras.checkpoint import load_model
from str_keras.export.inputs import input_shape
from str_keras.export.kinds import WEIGHTS
from str_keras.export.plain import plain_model
from str_keras.export.report import report_table
from str_keras.export.to_saved_model import saved_model
from str_keras.export.to_tflite import tflite
from str_keras.export.to_variants import variants
from str_keras.run_directory import dataset_of_run
from str_keras.startup import stderr_aside

ALL = "all"
MAX_CALIBRATION = 500


def load_images(
    path: str, dataset: str, data_dir: str | None, num_images: int, model: keras.Model
) -> dict[str, Any]:
    """Arguments of `tflite` from a data set; none without one.

    Args:
        path: The model's file: in a run directory the data set is the run's.
        dataset: Name for `str_keras.data.load`; empty: the run's, or none.
        data_dir: Where it lies; None is the default.
        num_images: How many test images to verify on, and training images to
            calibrate with; 0 takes all test images.
        model: Sets the size of the images.

    Returns:
        `images`, `labels`, `calibration`, `class_names` and `preprocessing`.

    Raises:
        ValueError: for an unknown data set or a bad number.
    """
    if num_images < 0:
        raise ValueError(
            "the number of images must be positive, or 0 for all. "
            f"Received: --num_images={num_images}"
        )
    named = {"name": dataset, "data_dir": data_dir} if dataset else dataset_of_run(path)
    if not named:
        return {}
    from str_keras import data

    shape = input_shape(model)
    if len(shape) != 3:
        raise ValueError(
            "a data set is for models that take images (height, width, channels): "
            f"leave --dataset out. Received: a model of input shape {shape}"
        )
    named |= {"image_size": shape[0], "channels": shape[-1]}
    source = data.load(named.pop("name"), **named)
    num_images = num_images or source.info.num_test
    images, labels = source.raw("test", num_images)
    calibration, _ = source.raw("train", min(num_images, MAX_CALIBRATION))
    return {
        "images": images,
        "labels": labels,
        "calibration": calibration,
        "class_names": source.info.class_names,
        "preprocessing": source.preprocessing,
    }


def convert_tflite(
    model: str,
    output: str,
    *,
    weights: str,
    sparse: bool,
    smallest: str,
    batch_size: int | None,
    dataset: str,
    data_dir: str | None,
    num_images: int,
    uint8_input: bool,
    tolerance: float | None,
    overwrite: bool,
) -> int:
    """Writes one .tflite file, or with weights "all" every kind; prints the table.

    Args:
        model: Path of a .keras file.
        output: Path of the .tflite; "all" adds "-float32-sparse" and so on to its name.
        weights: As of `tflite`, or "all".
        sparse: As of `tflite`; "all" writes both.
        smallest: As of `tflite`; "all" writes both.
        batch_size: As of `tflite`; 0 is free.
        dataset: As of `load_images`.
        data_dir: As of `load_images`.
        num_images: As of `load_images`.
        uint8_input: As of `tflite`.
        tolerance: As of `tflite`.
        overwrite: As of `tflite`.

    Returns:
        The exit status: 1 if "all" could not write one of the kinds.

    Raises:
        ValueError: for a bad argument or a file that was not written.
        OSError: if a file cannot be read or written.
    """
    if weights not in (*WEIGHTS, ALL, "dynamic"):
        raise ValueError(
            f"the weights are one of {(*WEIGHTS, ALL)}. Received: --weights={weights}"
        )
    loaded = plain_model(load_model(model))
    arguments = load_images(model, dataset, data_dir, num_images, loaded)
    arguments |= {"uint8_input": uint8_input, "overwrite": overwrite}
    arguments |= {"batch_size": batch_size or None, "tolerance": tolerance}
    if weights != ALL:
        with stderr_aside():
            report = tflite(
                loaded,
                output,
                weights=weights,
                sparse=sparse,
                smallest=smallest,
                **arguments,
            )
        print(report_table([report]))
        return 0
    target = Path(output)
    if target.suffix != ".tflite":
        raise ValueError(f"the output must end in .tflite. Received: --output={output}")
    with stderr_aside():
        made = variants(loaded, target.parent, name=target.stem, **arguments)
    print(made)
    return 1 if made.refused else 0


def convert_saved_model(
    model: str,
    output: str,
    *,
    dataset: str,
    data_dir: str | None,
    num_images: int,
    overwrite: bool,
) -> int:
    """Writes a SavedModel; prints its table.

    Args:
        model: Path of a .keras file.
        output: The directory to write.
        dataset: As of `load_images`; without one there is no signature for images.
        data_dir: As of `load_images`.
        num_images: As of `load_images`.
        overwrite: As of `saved_model`.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: for a bad argument or a directory that was not written.
        OSError: if it cannot be read or written.
    """
    loaded = plain_model(load_model(model))
    arguments = load_images(model, dataset, data_dir, num_images, loaded)
    arguments.pop("calibration", None)
    with stderr_aside():
        report = saved_model(loaded, output, overwrite=overwrite, **arguments)
    print(report_table([report]))
    print(f"signatures: {', '.join(report.signatures)}")
    return 0
