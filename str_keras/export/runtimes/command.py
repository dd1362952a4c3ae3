"""What `tools/verify_runtimes.py` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from str_keras.checkpoint import load_model
from str_keras.export.runtimes.ends import read_ends
from str_keras.export.runtimes.installed import NAMES, check_name
from str_keras.export.runtimes.verifying import verify_runtimes
from str_keras.files import write_text
from str_keras.run_directory import dataset_of_run, git_revision
from str_keras.startup import stderr_aside


def load_images(
    path: str, run_file: str, dataset: str, data_dir: str | None, num_images: int
) -> dict[str, Any]:
    """Test images of a data set in the size that a file takes; none without one.

    Args:
        path: The .tflite file.
        run_file: A file of the run directory whose data set is taken if none is named.
        dataset: Name for `str_keras.data.load`; empty: the run's, or none.
        data_dir: Where it lies; None is the default.
        num_images: How many images; 0 takes all.

    Returns:
        `images` and `preprocessing`, arguments of `verify_runtimes`.

    Raises:
        ValueError: for an unknown data set, a bad number, or a file of no images.
    """
    if num_images < 0:
        raise ValueError(
            "the number of images must be positive, or 0 for all. "
            f"Received: --num_images={num_images}"
        )
    named = {"name": dataset, "data_dir": data_dir}
    if not dataset:
        named = dataset_of_run(run_file)
    if not named:
        return {}
    from str_keras import data

    shape = read_ends(Path(path).read_bytes()).only_input.shape[1:]
    if len(shape) != 3:
        raise ValueError(
            "a data set is for files that take images (height, width, channels): "
            f"leave --dataset out. Received: a file that takes {shape}"
        )
    named |= {"image_size": shape[0], "channels": shape[-1]}
    source = data.load(named.pop("name"), **named)
    images, _ = source.raw("test", num_images or source.info.num_test)
    return {"images": images, "preprocessing": source.preprocessing}


def verify_file(
    path: str,
    *,
    keras_model: str,
    dataset: str,
    data_dir: str | None,
    num_images: int,
    runtimes: Sequence[str],
    json_path: str,
    command: str,
    **options: Any,
) -> int:
    """Runs a file on the runtimes and prints the table.

    Args:
        path: The .tflite file.
        keras_model: The .keras file that it was made of; empty compares with native.
        dataset: As of `load_images`.
        data_dir: As of `load_images`.
        num_images: As of `load_images`.
        runtimes: As of `verify_runtimes`; empty: all.
        json_path: Where the report goes as JSON; empty: nowhere.
        command: The command line, for the JSON.
        **options: Further ones of `verify_runtimes`.

    Returns:
        The exit status: 1 if a runtime does not run the file, or runs it wrong.

    Raises:
        ValueError: for a bad argument or file.
        OSError: if a file or a runtime is missing, or the JSON cannot be written.
    """
    for name in runtimes:
        check_name(name)
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no such file. Received: --model={path}")
    model = load_model(keras_model) if keras_model else None
    images = load_images(path, keras_model or path, dataset, data_dir, num_images)
    with stderr_aside():
        report = verify_runtimes(
            path, model=model, runtimes=runtimes or NAMES, **images, **options
        )
    print(report)
    if json_path:
        told = {"command": command, "git_revision": git_revision()}
        write_text(json_path, json.dumps(told | report.to_json(), indent=1) + "\n")
    return 0 if report.is_right else 1
