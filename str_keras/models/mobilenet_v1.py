"""MobileNetV1 as in the STR paper: plain ReLU, no dropout, padding 1 on every side.

Block i of the authors' `model` is a 3x3 depthwise and a 1x1 convolution:
`model.{i}.0` is `block{i}_depthwise`, `model.{i}.3` is `block{i}_pointwise`, and the
batch norm after each has `_bn` added; `model.0` is `conv1`.

Source: Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1, with the
constants and initializers of Kusupati et al. 2020, https://arxiv.org/abs/2002.03231.
"""

from collections.abc import Sequence

import keras

from str_keras.models import common
from str_keras.models.common import Path, Tensor

# Filters of the 1x1 convolution and stride of the 3x3 depthwise before it.
_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)
_MIN_FILTERS = 8


def MobileNetV1(
    alpha: float = 1.0,
    input_shape: Sequence[int] = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    synchronized: bool = False,
    weights: Path | None = None,
    name: str = "mobilenetv1",
) -> keras.Model:
    """Builds a dense MobileNetV1.

    At 224 x 224 x 3 its first convolution, its padding and its head are those that let
    XNNPACK use sparse kernels for the 1x1 convolutions.

    Args:
        alpha: Width: every number of filters is `max(8, int(alpha * filters))`, with
            alpha in (0, 1].
        input_shape: Height, width and channels of an image.
        classes: Number of logits.
        stem: "imagenet" (first convolution of stride 2, images of at least 32 pixels a
            side) or "small" (first convolution of stride 1, 8 to 64 pixels a side; the
            depthwise strides stay, so that 32 pixels become 16, 8, 4 and 2).
        synchronized: Whether batch norm averages over all replicas (TensorFlow only).
        weights: Path of a `.keras` or `.weights.h5` file of the same architecture, or
            None for the initial weights.
        name: Name of the model.

    Returns:
        A functional model from images (batch, height, width, channels) to logits
        (batch, classes). They are float32 under a 16-bit dtype policy too, and not
        normalized: train with `from_logits=True`.

    Raises:
        ValueError: if an argument is out of its range, or the file of weights is
            damaged or of another architecture.
        FileNotFoundError: if there is no file of weights.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"`alpha` must be in (0, 1]. Received: alpha={alpha!r}")
    common.check_arguments(input_shape, classes, stem)
    image = keras.Input(tuple(input_shape), name="image")
    stride = 2 if stem == "imagenet" else 1
    x = _conv(image, _scale(32, alpha), 3, stride, "conv1", synchronized)
    for i, (filters, stride) in enumerate(_BLOCKS, 1):
        x = _depthwise(x, stride, f"block{i}_depthwise", synchronized)
        name_1x1 = f"block{i}_pointwise"
        x = _conv(x, _scale(filters, alpha), 1, 1, name_1x1, synchronized)
    model = keras.Model(image, common.classifier(x, classes), name=name)
    common.load_weights(model, weights)
    return model


def _scale(filters: int, alpha: float) -> int:
    return max(_MIN_FILTERS, int(filters * alpha))


def _conv(
    x: Tensor, filters: int, kernel_size: int, stride: int, name: str, sync: bool
) -> Tensor:
    initializer = common.uniform(fan_in=kernel_size**2 * x.shape[-1])
    x = common.conv(x, filters, kernel_size, stride, name, initializer)
    return common.relu(common.batch_norm(x, f"{name}_bn", sync), f"{name}_relu")


def _depthwise(x: Tensor, stride: int, name: str, sync: bool) -> Tensor:
    x, padding = common.pad(x, 3, stride, name)
    x = keras.layers.DepthwiseConv2D(
        3,
        strides=stride,
        padding=padding,
        use_bias=False,
        depthwise_initializer=common.uniform(fan_in=3 * 3),
        name=name,
    )(x)
    return common.relu(common.batch_norm(x, f"{name}_bn", sync), f"{name}_relu")
