"""The arrays that a written model is run on, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from str_keras.export.plain import PreprocessingLike

RANDOM_INPUTS = 8


@dataclasses.dataclass(frozen=True)
class Samples:
    """What the written model and Keras are both given.

    Attributes:
        raw: As the caller gave them, `[n, ...]`.
        tensors: The Keras model's inputs made from `raw`.
        source: "images", or "random inputs" where none were given.
    """

    raw: np.ndarray
    tensors: np.ndarray
    source: str


def input_shape(model: keras.Model) -> tuple[int, ...]:
    """Shape of one input of the model, without the batch."""
    return tuple(keras.tree.flatten(model.inputs)[0].shape[1:])


def make_samples(
    model: keras.Model,
    images: np.ndarray | None,
    preprocessing: PreprocessingLike | None,
    name: str = "images",
) -> Samples:
    """Checks images and makes the model's inputs of them; random ones if None.

    Args:
        model: Plain and built.
        images: `[n, ...]`: raw uint8 pixels of the model's size with `preprocessing`,
            without it the model's own inputs.
        preprocessing: What normalizes pixels.
        name: What the messages call `images`.

    Raises:
        ValueError: for another shape or dtype, or no image.
    """
    shape = input_shape(model)
    dtype = keras.tree.flatten(model.inputs)[0].dtype
    source = "random inputs" if images is None else "images"
    if images is None:
        images = _random_inputs(shape, "uint8" if preprocessing else dtype)
    images = np.asarray(images)
    if images.shape[1:] != shape or len(images) == 0:
        raise ValueError(
            f"`{name}` must be an array (n, {', '.join(map(str, shape))}) with n > 0. "
            f"Received: {name} of shape {images.shape}"
        )
    if preprocessing is None:
        return Samples(images, images.astype(dtype), source)
    if images.dtype != np.uint8:
        raise ValueError(
            f"with `preprocessing`, `{name}` are raw uint8 pixels. "
            f"Received: {name} of dtype {images.dtype}"
        )
    return Samples(images, np.asarray(preprocessing.normalize(images)), source)


def _random_inputs(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype == "uint8":
        return random.integers(0, 256, (RANDOM_INPUTS, *shape), dtype="uint8")
    if "float" not in dtype:
        raise ValueError(
            f"random inputs cannot stand for {dtype} ones: give `images`, an array of "
            "the model's inputs"
        )
    return random.standard_normal((RANDOM_INPUTS, *shape), dtype="float32")


def check_labels(
    labels: np.ndarray | None, images: np.ndarray | None, model: keras.Model
) -> np.ndarray | None:
    """Labels as an array `[n]`.

    Raises:
        ValueError: if there is not one label an image, or the model gives no vector of
            classes.
    """
    if labels is None:
        return None
    labels = np.asarray(labels)
    if images is None or labels.shape != (len(images),):
        raise ValueError(
            "`labels` must have one class number an image. "
            f"Received: labels of shape {labels.shape} for "
            f"{0 if images is None else len(images)} images"
        )
    outputs = tuple(keras.tree.flatten(model.outputs)[0].shape)
    if len(outputs) != 2 or outputs[-1] == 1:
        raise ValueError(
            "`labels` are for models of outputs (batch, classes), two classes or more: "
            f"leave them out. Received: outputs of shape {outputs}"
        )
    return labels


def check_class_names(
    class_names: Sequence[str] | None, model: keras.Model
) -> list[str] | None:
    """Class names as a list.

    Raises:
        ValueError: if there is not one name an output.
    """
    if class_names is None:
        return None
    classes = keras.tree.flatten(model.outputs)[0].shape[-1]
    if len(class_names) != classes:
        raise ValueError(
            f"`class_names` must have one name for each of the {classes} outputs. "
            f"Received: {len(class_names)} names"
        )
    return [str(name) for name in class_names]
