"""The authors' PyTorch names and layouts beside ours; needs no PyTorch.

Every conversion between both sides, of checkpoints and in tests, goes through here.

| authors' module                          | our layer                          |
|------------------------------------------|------------------------------------|
| `conv1`, `bn1`, `fc`                     | the same                           |
| `layer2.0.conv1`, `layer2.0.bn1`         | `layer2_0_conv1`, `layer2_0_bn1`   |
| `layer2.0.downsample.0`, `...1`          | `layer2_0_downsample`, `..._bn`    |
| `model.0.0`, `model.0.1` (MobileNetV1)   | `conv1`, `conv1_bn`                |
| `model.5.0`, `model.5.1` (depthwise)     | `block5_depthwise`, `..._bn`       |
| `model.5.3`, `model.5.4` (1x1)           | `block5_pointwise`, `..._bn`       |

Source: models/resnet.py, models/mobilenetv1.py and utils/conv_type.py of
https://github.com/RAIVNLab/STR.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

THRESHOLD = "sparseThreshold"  # the logit s, shape (1, 1)
SPARSE_WEIGHT = "sparseWeight"  # sign(w) relu(|w| - g(s)), kept by some of their files
NUM_BATCHES = "num_batches_tracked"  # of batch norm; decides nothing

MOBILENET = "mobilenetv1"
# Whether the blocks have three convolutions, and the number of blocks of each stage.
_RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
}
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_RESNET_MODULE = re.compile(
    r"conv1|bn1|fc|layer[1-4]\.\d+\.(conv[1-3]|bn[1-3]|downsample\.[01])"
)
_MOBILENET_MODULE = re.compile(r"model\.(0\.[01]|[1-9]\d*\.[0134])")
_RESNET_LAYER = re.compile(
    r"conv1|bn1|fc|(layer[1-4])_(\d+)_(conv[1-3]|bn[1-3]|downsample(?:_bn)?)"
)
_MOBILENET_LAYER = re.compile(
    r"fc|conv1(?:_bn)?|block(\d+)_(depthwise|pointwise)(_bn)?"
)


def layer_name(module: str) -> str:
    """Returns our name of one of the authors' modules.

    Args:
        module: Such as "layer1.0.downsample.1" or "model.3.4", without "module.".

    Raises:
        ValueError: if it is none of theirs.
    """
    if _MOBILENET_MODULE.fullmatch(module):
        _, block, index = module.split(".")
        part = "depthwise" if int(index) < 3 else "pointwise"
        name = "conv1" if block == "0" else f"block{block}_{part}"
        return name + ("_bn" if int(index) % 3 else "")
    if not _RESNET_MODULE.fullmatch(module):
        raise ValueError(
            "No module of the authors' ResNets or MobileNetV1 has this name. "
            f"Received: {module=}"
        )
    module = module.replace("downsample.0", "downsample")
    return module.replace("downsample.1", "downsample_bn").replace(".", "_")


def module_name(layer: str, architecture: str) -> str:
    """Returns the authors' name of one of our layers: the inverse of `layer_name`.

    Args:
        layer: Name of a layer of `stk.models`.
        architecture: A key of `stk.models.ARCHITECTURES`; "conv1" is `conv1` in a
            ResNet and `model.0.0` in MobileNetV1.

    Raises:
        ValueError: if the architecture has no such layer with weights.
    """
    is_mobilenet = architecture == MOBILENET
    found = (_MOBILENET_LAYER if is_mobilenet else _RESNET_LAYER).fullmatch(layer)
    if not found:
        raise ValueError(
            f"The authors' {architecture} has no such module. Received: {layer=}"
        )
    if layer == "fc":
        return "fc"
    if not is_mobilenet:
        stage, block, part = found.groups()
        if stage is None:
            return layer
        part = {"downsample": "downsample.0", "downsample_bn": "downsample.1"}.get(
            part, part
        )
        return f"{stage}.{block}.{part}"
    block, part, _ = found.groups()
    index = (3 if part == "pointwise" else 0) + layer.endswith("_bn")
    return f"model.{block or 0}.{index}"


@dataclass(frozen=True)
class TorchWeight:
    """A weight of one of our models with its key and layout on the authors' side.

    Args:
        key: Key in their state_dict, such as "layer1.0.conv1.weight".
        variable: Our variable.
        axes: Of our kernel, seen as (height, width, input, output), in their order; a
            Dense kernel is one of 1x1 pixels. None: a vector, the same on both sides.
    """

    key: str
    variable: keras.Variable
    axes: tuple[int, int, int, int] | None = None

    @property
    def module(self) -> str:
        """Name of the authors' module."""
        return self.key.rsplit(".", 1)[0]

    @property
    def is_kernel(self) -> bool:
        """Whether it is a convolution's or the classifier's, and may have a logit."""
        return self.axes is not None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape on the authors' side: (output, input / groups, height, width)."""
        if self.axes is None:
            return tuple(self.variable.shape)
        return tuple(self._shape_4d[axis] for axis in self.axes)

    @property
    def _shape_4d(self) -> tuple[int, ...]:
        shape = tuple(self.variable.shape)
        return (1,) * (4 - len(shape)) + shape

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Turns an array of the variable's shape into one of `shape`."""
        if self.axes is None:
            return array
        return array.reshape(self._shape_4d).transpose(self.axes)

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        """Turns an array of `shape` into one of the variable's shape."""
        if self.axes is None:
            return array
        back = tuple(self.axes.index(axis) for axis in range(4))
        return array.transpose(back).reshape(tuple(self.variable.shape))


def torch_weights(model: keras.Model, architecture: str) -> Iterator[TorchWeight]:
    """Yields each weight of a model with its key and layout on the authors' side.

    Args:
        model: One of `stk.models`: dense, sparsified (the raw kernels; the logits are
            left out), with `SoftThreshold` layers, or stripped.
        architecture: A key of `stk.models.ARCHITECTURES`.

    Raises:
        ValueError: if a layer has weights that the authors' network has not.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.Wrapper):
            layer = layer.layer
        if not layer.weights:
            continue
        module = module_name(layer.name, architecture)
        weights = list(_weights_of(layer, module))
        known = {id(weight.variable) for weight in weights}
        unknown = [v.path for v in layer.weights if id(v) not in known]
        if unknown:
            raise ValueError(
                "The authors' network has no weight in place of these. "
                f"Received: {', '.join(unknown)}"
            )
        yield from weights


def _weights_of(layer: Any, module: str) -> Iterator[TorchWeight]:
    if isinstance(layer, keras.layers.BatchNormalization):
        for theirs, ours in _BATCH_NORM.items():
            yield TorchWeight(f"{module}.{theirs}", getattr(layer, ours))
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        yield TorchWeight(f"{module}.weight", layer.kernel, (2, 3, 0, 1))
    elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
        yield TorchWeight(f"{module}.weight", layer.kernel, (3, 2, 0, 1))


def architecture_of(keys: Collection[str]) -> str | None:
    """Tells the architecture by the keys of a state_dict; None if it is none of ours.

    A few keys may be missing or left over: each stage is counted by its last block.

    Args:
        keys: The authors' keys, without "module.".
    """
    if any(key.startswith("model.") for key in keys):
        return MOBILENET
    blocks = [re.match(r"layer([1-4])\.(\d+)\.", key) for key in keys]
    last = {stage: -1 for stage in "1234"}
    for block in filter(None, blocks):
        last[block[1]] = max(last[block[1]], int(block[2]))
    three = any(re.match(r"layer[1-4]\.\d+\.conv3\.", key) for key in keys)
    return _RESNETS.get((three, tuple(number + 1 for number in last.values())))


def sizes_of(
    shapes: Mapping[str, tuple[int, ...]], architecture: str
) -> dict[str, Any]:
    """Reads classes, image channels and width from the shapes of a state_dict.

    Args:
        shapes: Shape of each of the authors' keys, without "module.".
        architecture: A key of `stk.models.ARCHITECTURES`.

    Returns:
        `classes`, `channels` and, for MobileNetV1, `alpha`; the paper's where the key
        that tells it is missing or of a shape that cannot be.
    """

    def size(key: str, axis: int) -> int:
        shape = shapes.get(key, ())
        return shape[axis] if len(shape) == 4 else 0

    first = "model.0.0.weight" if architecture == MOBILENET else "conv1.weight"
    sizes: dict[str, Any] = {
        "classes": size("fc.weight", 0) or 1000,
        "channels": size(first, 1) or 3,
    }
    if architecture == MOBILENET:
        # Four kernels are 1024 alpha wide; most of them are right if one is damaged.
        widths = [size(f"model.{i}.weight", 0) for i in ("12.3", "13.0", "13.3")]
        widths = [width for width in (*widths, size("fc.weight", 1)) if width]
        width = Counter(widths).most_common(1)[0][0] if widths else 1024
        # Exact for every layer: int(int(1024 alpha) / 1024 * n) is int(alpha n).
        sizes["alpha"] = width / 1024 if width <= 1024 else 1.0
    return sizes
