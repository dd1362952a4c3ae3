"""A residual net small enough to be trained many times on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from str_keras import models
from str_keras.models import common
from str_keras.models.common import Path, Tensor

WIDTHS = (16, 32, 64, 128)


def ResNet10(
    input_shape: Sequence[int] = (32, 32, 3),
    classes: int = 10,
    stem: str = "small",
    synchronized: bool = False,
    weights: Path | None = None,
    name: str = "resnet10",
) -> keras.Model:
    """Builds a dense ResNet of ten layers, one basic block a stage, a quarter wide.

    ResNet18 of the package with the second block of each stage left out and 16 to 128
    filters instead of 64 to 512: 307,088 weights of kernels for gray images.

    Args:
        input_shape: Height, width and channels of an image, 8 to 64 pixels a side.
        classes: Number of logits.
        stem: "small", the only one.
        synchronized, weights, name: As of `models.ResNet18`.

    Raises:
        ValueError: if an argument is out of its range, or the file of weights is of
            another architecture.
    """
    common.check_arguments(input_shape, classes, stem)
    if stem != "small":
        raise ValueError(f"This net has a small stem only. Received: {stem=}")
    image = keras.Input(tuple(input_shape), name="image")
    x = _conv_bn(image, WIDTHS[0], 3, 1, "conv1", "bn1", synchronized)
    x = common.relu(x, "relu")
    for stage, width in enumerate(WIDTHS, 1):
        x = _block(x, width, 2 if stage > 1 else 1, f"layer{stage}_0", synchronized)
    model = keras.Model(image, common.classifier(x, classes), name=name)
    common.load_weights(model, weights)
    return model


def _block(x: Tensor, width: int, stride: int, name: str, synchronized: bool) -> Tensor:
    shortcut = x
    x = _conv_bn(x, width, 3, stride, f"{name}_conv1", f"{name}_bn1", synchronized)
    x = common.relu(x, f"{name}_relu1")
    x = _conv_bn(x, width, 3, 1, f"{name}_conv2", f"{name}_bn2", synchronized)
    if shortcut.shape != x.shape:
        names = f"{name}_downsample", f"{name}_downsample_bn"
        shortcut = _conv_bn(shortcut, width, 1, stride, *names, synchronized)
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return common.relu(x, f"{name}_relu2")


def _conv_bn(
    x: Tensor,
    width: int,
    size: int,
    stride: int,
    name: str,
    norm: str,
    synchronized: bool,
) -> Tensor:
    x = common.conv(x, width, size, stride, name, common.kaiming_normal())
    return common.batch_norm(x, norm, synchronized)


def register() -> None:
    """Makes the net known to `--architecture` under the name resnet10."""
    models.ARCHITECTURES["resnet10"] = ResNet10
