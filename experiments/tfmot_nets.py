"""The small nets of the experiments, written anew in tf_keras: what tfmot can prune.

They share no code with `str_keras.models`: only names of layers, so that weights can
cross. `tfmot_twin` checks that both give the same logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras
from tf_keras import layers

Tensor = Any

# MobileNetV1: filters of the 1x1 convolution, stride of the depthwise one before it.
_MOBILENET = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
_MOBILENET += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]


class PrunableDepthwise(layers.DepthwiseConv2D, tfmot.sparsity.keras.PrunableLayer):
    """A depthwise convolution that tfmot prunes; of its own it leaves them dense."""

    def get_prunable_weights(self) -> list[Any]:
        """The depthwise kernel."""
        return [self.depthwise_kernel]


KERNELS = (layers.Conv2D, layers.Dense, PrunableDepthwise)
"""Layers that are pruned: as with `stk.prune`, all that have a kernel."""


def _convolve(
    x: Tensor, filters: int, size: int, stride: int, name: str, bn: str = ""
) -> Tensor:
    """Convolution (depthwise for 0 filters) and batch norm, padded on every side."""
    if size > 1:
        x = layers.ZeroPadding2D(size // 2)(x)
    arguments = {"strides": stride, "use_bias": False, "name": name}
    if filters:
        x = layers.Conv2D(filters, size, **arguments)(x)
    else:
        x = PrunableDepthwise(size, **arguments)(x)
    # Not fused: that one puts Bessel's correction on the variance that it remembers.
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, fused=False, name=bn or f"{name}_bn"
    )(x)


def _model(image: Tensor, x: Tensor, classes: int) -> Any:
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(classes, use_bias=False, name="fc")(x)
    return tf_keras.Model(image, logits)


def _mobilenet_v1(shape: Sequence[int], classes: int, alpha: float, stem: str) -> Any:
    def width(filters: int) -> int:
        return max(8, int(alpha * filters))

    image = tf_keras.Input(shape)
    stride = 1 if stem == "small" else 2
    x = layers.ReLU()(_convolve(image, width(32), 3, stride, "conv1"))
    for i, (filters, stride) in enumerate(_MOBILENET, 1):
        x = layers.ReLU()(_convolve(x, 0, 3, stride, f"block{i}_depthwise"))
        x = _convolve(x, width(filters), 1, 1, f"block{i}_pointwise")
        x = layers.ReLU()(x)
    return _model(image, x, classes)


def _resnet(
    shape: Sequence[int], classes: int, stem: str, width: int, blocks: int
) -> Any:
    """Four stages of `blocks` basic blocks; the first is `width` wide."""
    image = tf_keras.Input(shape)
    size, stride = (3, 1) if stem == "small" else (7, 2)
    x = layers.ReLU()(_convolve(image, width, size, stride, "conv1", "bn1"))
    if stem != "small":
        x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
    for stage in range(4):
        for i in range(blocks):
            name, filters = f"layer{stage + 1}_{i}", width * 2**stage
            stride = 2 if stage and not i else 1
            y = _convolve(x, filters, 3, stride, f"{name}_conv1", f"{name}_bn1")
            y = layers.ReLU()(y)
            y = _convolve(y, filters, 3, 1, f"{name}_conv2", f"{name}_bn2")
            if stride > 1:
                x = _convolve(x, filters, 1, stride, f"{name}_downsample")
            x = layers.ReLU()(layers.Add()([y, x]))
    return _model(image, x, classes)


_RESNETS = {"resnet18": (64, 2), "resnet10": (16, 1)}
NAMES = ("mobilenetv1", *_RESNETS)


def create(
    architecture: str, shape: Sequence[int], classes: int, alpha: float, stem: str
) -> Any:
    """Builds a dense tf_keras net.

    Args:
        architecture: One of `NAMES`.
        shape: Height, width and channels of an image.
        classes: Number of logits.
        alpha: Width multiplier of mobilenetv1.
        stem: "small" or "imagenet".

    Raises:
        ValueError: for another architecture.
    """
    if architecture == "mobilenetv1":
        return _mobilenet_v1(shape, classes, alpha, stem)
    if architecture in _RESNETS:
        return _resnet(shape, classes, stem, *_RESNETS[architecture])
    raise ValueError(
        f"tfmot's check is written for {', '.join(NAMES)}. Received: {architecture=}"
    )
