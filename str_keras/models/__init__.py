"""Plain Keras models, dense and without thresholds, as the STR paper trains them."""

from collections.abc import Callable
from typing import Any

import keras

from str_keras.models.mobilenet_v1 import MobileNetV1
from str_keras.models.resnet import ResNet18, ResNet34, ResNet50, ResNet101

ARCHITECTURES: dict[str, Callable[..., keras.Model]] = {
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "resnet101": ResNet101,
    "mobilenetv1": MobileNetV1,
}
"""Networks by the names that `--architecture` and `create` take."""

__all__ = [
    "ARCHITECTURES",
    "MobileNetV1",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "create",
]


def create(architecture: str, **kwargs: Any) -> keras.Model:
    """Builds a model by its name.

    Args:
        architecture: A key of `ARCHITECTURES`, in capital or small letters.
        **kwargs: Arguments of that architecture.

    Returns:
        The functional model.

    Raises:
        ValueError: if there is no such architecture.
    """
    build = ARCHITECTURES.get(str(architecture).lower())
    if build is None:
        raise ValueError(
            f"`architecture` must be one of {', '.join(ARCHITECTURES)}. "
            f"Received: architecture={architecture!r}"
        )
    return build(**kwargs)
