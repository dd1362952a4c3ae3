"""ResNet v1.5 (stride on the 3x3 convolution), as in the STR paper.

Layers carry the names of the authors' PyTorch modules with `_` for `.`:
`layer1.0.conv1` is `layer1_0_conv1`; `downsample.0` and `downsample.1` are `downsample`
and `downsample_bn`.

Source: He et al. 2015, https://arxiv.org/abs/1512.03385, with the constants and the
initializer of Kusupati et al. 2020, https://arxiv.org/abs/2002.03231.
"""

import math
from collections.abc import Callable, Sequence

import keras

from str_keras.models import common
from str_keras.models.common import Path, Tensor

# One convolution of a block: filters, kernel size, stride.
Convs = Sequence[tuple[int, int, int]]


def ResNet18(
    input_shape: Sequence[int] = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    synchronized: bool = False,
    weights: Path | None = None,
    name: str = "resnet18",
) -> keras.Model:
    """Builds a dense ResNet18; arguments and errors as in `ResNet50`."""
    blocks = (_basic, (2, 2, 2, 2))
    return _resnet(*blocks, input_shape, classes, stem, synchronized, weights, name)


def ResNet34(
    input_shape: Sequence[int] = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    synchronized: bool = False,
    weights: Path | None = None,
    name: str = "resnet34",
) -> keras.Model:
    """Builds a dense ResNet34; arguments and errors as in `ResNet50`."""
    blocks = (_basic, (3, 4, 6, 3))
    return _resnet(*blocks, input_shape, classes, stem, synchronized, weights, name)


def ResNet50(
    input_shape: Sequence[int] = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    synchronized: bool = False,
    weights: Path | None = None,
    name: str = "resnet50",
) -> keras.Model:
    """Builds a dense ResNet50 v1.5.

    Args:
        input_shape: Height, width and channels of an image.
        classes: Number of logits.
        stem: "imagenet" (7x7 convolution of stride 2, then a max-pool; images of at
            least 32 pixels a side) or "small" (3x3 convolution of stride 1 and no
            max-pool; 8 to 64 pixels a side).
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
    blocks = (_bottleneck, (3, 4, 6, 3))
    return _resnet(*blocks, input_shape, classes, stem, synchronized, weights, name)


def ResNet101(
    input_shape: Sequence[int] = (224, 224, 3),
    classes: int = 1000,
    stem: str = "imagenet",
    synchronized: bool = False,
    weights: Path | None = None,
    name: str = "resnet101",
) -> keras.Model:
    """Builds a dense ResNet101 v1.5; arguments and errors as in `ResNet50`."""
    blocks = (_bottleneck, (3, 4, 23, 3))
    return _resnet(*blocks, input_shape, classes, stem, synchronized, weights, name)


def _basic(width: int, stride: int) -> Convs:
    return (width, 3, stride), (width, 3, 1)


def _bottleneck(width: int, stride: int) -> Convs:
    return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)


def _resnet(
    block: Callable[[int, int], Convs],
    num_blocks: Sequence[int],
    input_shape: Sequence[int],
    classes: int,
    stem: str,
    synchronized: bool,
    weights: Path | None,
    name: str,
) -> keras.Model:
    common.check_arguments(input_shape, classes, stem)
    image = keras.Input(tuple(input_shape), name="image")
    x = _stem(image, stem, synchronized)
    for stage, repeats in enumerate(num_blocks, 1):
        for i in range(repeats):
            stride = 2 if stage > 1 and i == 0 else 1
            convs = block(64 * 2 ** (stage - 1), stride)
            x = _residual(x, convs, f"layer{stage}_{i}", synchronized)
    model = keras.Model(image, common.classifier(x, classes), name=name)
    common.load_weights(model, weights)
    return model


def _stem(x: Tensor, stem: str, synchronized: bool) -> Tensor:
    kernel_size, stride = (7, 2) if stem == "imagenet" else (3, 1)
    x = _conv_bn(x, 64, kernel_size, stride, ("conv1", "bn1"), synchronized)
    x = common.relu(x, "relu")
    if stem == "small":
        return x
    # After ReLU nothing is below 0, so that a padded 0 never changes a maximum.
    x, padding = common.pad(x, 3, 2, "maxpool")
    return keras.layers.MaxPooling2D(3, 2, padding, name="maxpool")(x)


def _residual(inputs: Tensor, convs: Convs, name: str, synchronized: bool) -> Tensor:
    """The convolutions in a row, plus their input, which is projected if it must be."""
    x = inputs
    for i, (filters, kernel_size, stride) in enumerate(convs, 1):
        if i > 1:
            x = common.relu(x, f"{name}_relu{i - 1}")
        names = f"{name}_conv{i}", f"{name}_bn{i}"
        x = _conv_bn(x, filters, kernel_size, stride, names, synchronized)
    shortcut = inputs
    if inputs.shape != x.shape:
        stride = math.prod(stride for _, _, stride in convs)
        names = f"{name}_downsample", f"{name}_downsample_bn"
        shortcut = _conv_bn(inputs, x.shape[-1], 1, stride, names, synchronized)
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return common.relu(x, f"{name}_relu{len(convs)}")


def _conv_bn(
    x: Tensor,
    filters: int,
    kernel_size: int,
    stride: int,
    names: tuple[str, str],
    synchronized: bool,
) -> Tensor:
    initializer = common.kaiming_normal()
    x = common.conv(x, filters, kernel_size, stride, names[0], initializer)
    return common.batch_norm(x, names[1], synchronized)
