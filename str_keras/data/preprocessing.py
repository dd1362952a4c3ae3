"""From an image of any size to the model's input: the evaluation rule, once for all.

Training, calibration, serving and verification share these few operations, so that
a model never sees images prepared in two ways.
"""

import dataclasses
import functools
import math
from typing import Any, TypeAlias

import tensorflow as tf

Tensor: TypeAlias = Any

_RULES = ("center_crop", "pad")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images are brought to size and normalized for evaluation.

    Attributes:
        image_size: Height and width of the model's input, pixels.
        resize_rule: "center_crop": the short side becomes `image_size /
            crop_fraction` (antialiased bilinear), then the center is cut out, as
            torchvision's `Resize` and `CenterCrop` do. "pad": black borders around
            the image; only an image that is too large is first scaled down to fit.
        crop_fraction: Side of the crop over the short side, in (0, 1]; unused by "pad".
        mean: Mean of each channel, in units of pixel / 255.
        std: Standard deviation of each channel, in the same units.

    Raises:
        ValueError: if a value is out of its range.
    """

    image_size: int
    resize_rule: str
    crop_fraction: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        check_positive_int("image_size", self.image_size)
        if self.resize_rule not in _RULES:
            raise ValueError(
                f"`resize_rule` must be one of {', '.join(_RULES)}. "
                f"Received: resize_rule={self.resize_rule!r}"
            )
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(
                "`crop_fraction` must be in (0, 1]. "
                f"Received: crop_fraction={self.crop_fraction}"
            )
        finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        positive = all(s > 0 for s in self.std)
        if len(self.mean) != len(self.std) or not (finite and positive):
            raise ValueError(
                "`mean` and `std` need a finite entry per channel, each std positive. "
                f"Received: mean={self.mean}, std={self.std}"
            )

    @property
    def channels(self) -> int:
        """Number of channels of the model's input."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a dictionary that `json.dumps` takes."""
        return {
            **dataclasses.asdict(self),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Preprocessing":
        """Rebuilds the object that `to_json` described.

        Raises:
            ValueError: if a field is missing, unknown or out of its range.
        """
        expected = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != expected:
            raise ValueError(
                f"Preprocessing needs exactly the fields {sorted(expected)}. "
                f"Received: {sorted(fields)}"
            )
        lists = {key: tuple(fields[key]) for key in ("mean", "std")}
        return cls(**{**fields, **lists})

    def normalize(self, images: Tensor) -> Tensor:
        """Returns `(images / 255 - mean) / std` as float32 of the same shape.

        One multiplication and one addition, so that it costs little inside a .tflite.

        Args:
            images: `[..., C]`, uint8 or float, values 0 to 255.
        """
        scale = [1.0 / (255.0 * std) for std in self.std]
        offset = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return tf.cast(images, tf.float32) * tf.constant(scale) + tf.constant(offset)

    def resize(self, images: Tensor) -> Tensor:
        """Brings a batch of equally large images to the model's size.

        Args:
            images: `[B, h, w, C]`, uint8 or float, values 0 to 255; any h and w, also
                unknown while tracing. Images of the model's size come back unchanged,
                except where `crop_fraction` cuts their border.

        Returns:
            float32 `[B, image_size, image_size, C]`, values 0 to 255.

        Raises:
            ValueError: if the number of channels is not that of the model.
        """
        images = tf.convert_to_tensor(images)
        if images.shape.rank != 4 or images.shape[-1] not in (None, self.channels):
            raise ValueError(
                f"Images must be of shape [batch, height, width, {self.channels}]. "
                f"Received: shape={tuple(images.shape)}"
            )
        fit = self._fit_and_pad if self.resize_rule == "pad" else self._center_crop
        size = self.image_size
        images = tf.cast(fit(images), tf.float32)
        return tf.ensure_shape(images, [None, size, size, self.channels])

    def _center_crop(self, images: Tensor) -> Tensor:
        size = self.image_size
        target = round(size / self.crop_fraction)
        height, width = _height_and_width(images)
        short = height + width - _largest(height, width)
        # torchvision rounds the long side down and the corner to the nearest even.
        height, width = height * target // short, width * target // short
        images = _resize(images, height, width)
        top, left = _half_to_even(height - size), _half_to_even(width - size)
        return images[:, top : top + size, left : left + size]

    def _fit_and_pad(self, images: Tensor) -> Tensor:
        size = self.image_size
        height, width = _height_and_width(images)
        long = _largest(height, width, size)
        # At least 1: a line of pixels must not shrink away.
        height = _largest(height * size // long, 1)
        width = _largest(width * size // long, 1)
        images = _resize(images, height, width)
        top, left = (size - height) // 2, (size - width) // 2
        return tf.image.pad_to_bounding_box(images, top, left, size, size)


def _height_and_width(images: Tensor) -> tuple[Any, Any]:
    """Returns Python integers where the shape is known, else int32 scalars."""
    _, height, width, _ = images.shape
    shape = tf.shape(images)
    return (
        shape[1] if height is None else height,
        shape[2] if width is None else width,
    )


def _resize(images: Tensor, height: Any, width: Any) -> Tensor:
    """Antialiased bilinear, left out where it is known to change nothing.

    TensorFlow would compute it: ten times the cost of all the rest for small images.
    """
    if (height, width) == tuple(images.shape[1:3]):
        return images
    return tf.image.resize(images, [height, width], antialias=True)


def _largest(*sides: Any) -> Any:
    """`max` of Python integers and int32 scalars."""
    if all(isinstance(side, int) for side in sides):
        return max(sides)
    return functools.reduce(tf.maximum, sides)


def _half_to_even(pixels: Any) -> Any:
    """Half of a non-negative count; the nearest even number where it is odd."""
    half = pixels // 2
    return half + (pixels % 2) * (half % 2)


def check_positive_int(name: str, value: object) -> None:
    """Raises ValueError with one line unless `value` is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"`{name}` must be a positive integer. Received: {name}={value!r}"
        )
