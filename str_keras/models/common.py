"""What the architectures share: padding, batch norm, the classifier, checks, loading.

Every convolution is bias-free and pads the same number of zeros on each side, as
PyTorch does. Keras' `padding="same"` pads one side more where the stride is 2, so there
an explicit `ZeroPadding2D` stands before a "valid" convolution.
"""

import os
import re
import warnings
import zipfile
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras

Tensor: TypeAlias = Any
Initializer: TypeAlias = Any  # Keras annotates nothing; its defaults are strings.
Path: TypeAlias = str | os.PathLike[str]

BN_MOMENTUM = 0.9  # the weight of the old average: PyTorch's momentum 0.1
BN_EPSILON = 1e-5
# stem: smallest and largest height and width in pixels.
_SIDES = {"imagenet": (32, None), "small": (8, 64)}


def kaiming_normal() -> Initializer:
    """Normal with variance 2 / fan_in, untruncated (`HeNormal` is truncated).

    A new object on each call: one shared by layers would draw them equal kernels.
    """
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def uniform(fan_in: int) -> Initializer:
    """Uniform within 1 / sqrt(fan_in), PyTorch's default for a convolution.

    Args:
        fan_in: Number of inputs that one output sums up. Told, because Keras would
            count every channel of a depthwise kernel, where a filter sees one.
    """
    limit = fan_in**-0.5
    return keras.initializers.RandomUniform(-limit, limit)


def conv(
    x: Tensor,
    filters: int,
    kernel_size: int,
    stride: int,
    name: str,
    initializer: Initializer,
) -> Tensor:
    """A bias-free convolution, padded by `kernel_size // 2` zeros on each side."""
    x, padding = pad(x, kernel_size, stride, name)
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding=padding,
        use_bias=False,
        kernel_initializer=initializer,
        name=name,
    )(x)


def pad(x: Tensor, kernel_size: int, stride: int, name: str) -> tuple[Tensor, str]:
    """Pads for the layer `name`; returns the tensor and that layer's `padding`.

    At stride 1 "same" is symmetric for an odd kernel and needs no layer of its own.
    """
    if kernel_size == 1:
        return x, "valid"
    if stride == 1:
        return x, "same"
    zeros = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")
    return zeros(x), "valid"


def batch_norm(x: Tensor, name: str, synchronized: bool) -> Tensor:
    """Batch normalization with the paper's constants, over the channels."""
    return keras.layers.BatchNormalization(
        momentum=BN_MOMENTUM,
        epsilon=BN_EPSILON,
        synchronized=synchronized,
        name=name,
    )(x)


def relu(x: Tensor, name: str) -> Tensor:
    """ReLU without an upper bound."""
    return keras.layers.ReLU(name=name)(x)


def classifier(x: Tensor, classes: int) -> Tensor:
    """Average over the pixels, then bias-free logits of shape (batch, classes).

    The same function as the authors' 1x1 convolution, but runs wherever TFLite's sparse
    kernels do. Under a 16-bit policy it computes in float32: the loss needs its logits
    so, and a cast after it would lose what float16 has already rounded away.
    """
    x = keras.layers.GlobalAveragePooling2D(name="avgpool")(x)
    is_double = keras.config.dtype_policy().compute_dtype == "float64"
    return keras.layers.Dense(
        classes,
        use_bias=False,
        kernel_initializer=kaiming_normal(),
        dtype="float64" if is_double else "float32",
        name="fc",
    )(x)


def check_arguments(input_shape: Sequence[int], classes: int, stem: str) -> None:
    """Raises ValueError where no network can be built from these arguments."""
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "The models take images as (height, width, channels); call "
            "keras.config.set_image_data_format('channels_last'). Received: "
            f"image_data_format={keras.config.image_data_format()!r}"
        )
    if stem not in _SIDES:
        raise ValueError(
            f"`stem` must be one of {', '.join(map(repr, _SIDES))}. "
            f"Received: stem={stem!r}"
        )
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(
            f"`classes` must be a positive integer. Received: classes={classes!r}"
        )
    if not _is_image_shape(input_shape):
        raise ValueError(
            "`input_shape` must be three positive integers, (height, width, channels). "
            f"Received: input_shape={input_shape!r}"
        )
    smallest, largest = _SIDES[stem]
    sides = input_shape[:2]
    if min(sides) < smallest:
        raise ValueError(
            f"The {stem!r} stem needs a height and width of at least {smallest}. "
            f"Received: input_shape={tuple(input_shape)}"
        )
    if largest is not None and max(sides) > largest:
        raise ValueError(
            f"The {stem!r} stem is for a height and width of at most {largest}; use "
            f"stem='imagenet'. Received: input_shape={tuple(input_shape)}"
        )


def _is_image_shape(shape: Any) -> bool:
    return (
        isinstance(shape, (tuple, list))
        and len(shape) == 3
        and all(isinstance(size, int) and size > 0 for size in shape)
    )


def load_weights(model: keras.Model, weights: Path | None) -> None:
    """Loads a `.keras` or `.weights.h5` file of the same architecture, if one is given.

    Args:
        model: The model that gets the weights.
        weights: Path of the file, or None to keep the initial weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is of another type, damaged, or of another architecture.
    """
    if weights is None:
        return
    path = os.fspath(weights)
    if not path.endswith((".keras", ".weights.h5")):
        raise ValueError(
            "`weights` must be None or the path of a .keras or .weights.h5 file. "
            f"Received: weights={path!r}"
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no such file of weights. Received: weights={path!r}"
        )
    try:
        with warnings.catch_warnings():
            # Keras 3.15 warns of layers that it missed, and then raises for the same.
            warnings.filterwarnings("ignore", "Skipping nested container")
            model.load_weights(path)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        # Keras goes on with the values of a kernel and every layer that failed.
        cause = re.split(r"Target variable|List of objects", str(error))[0]
        raise ValueError(
            f"Cannot load these weights into {model.name!r}: the file is damaged or of "
            "another architecture, width, stem or number of classes, or of a "
            f"sparsified model (strip it first). {' '.join(cause.split())} "
            f"Received: weights={path!r}"
        ) from error
    ops: Any = keras.ops  # untyped there
    for variable in model.weights:
        if not bool(ops.all(ops.isfinite(ops.cast(variable, "float32")))):
            raise ValueError(
                "Weights must be finite, these have NaN or infinity: take an earlier "
                f"checkpoint. Received: weights={path!r}, variable={variable.path}"
            )
