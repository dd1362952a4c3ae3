"""Random crops and flips as pure functions of an image and of uniform draws.

No function here draws by itself: the pipeline hands in numbers in [0, 1) that are a
function of seed, epoch and index, so every run sees the same picture.
"""

import math
from typing import Any, TypeAlias

import tensorflow as tf

Tensor: TypeAlias = Any

AUGMENTATIONS = ("none", "crop_flip", "imagenet")

CROP_FLIP_DRAWS = 3
_PADDING = 4  # pixels on every side, the usual choice for CIFAR

# Each attempt of a random resized crop takes two draws; then corner (2) and flip (1).
_ATTEMPTS = 10
RESIZED_CROP_DRAWS = 2 * _ATTEMPTS + 3
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)


def crop_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Pads by 4 black pixels, cuts a random window of the old size, flips one in two.

    Args:
        images: `[B, H, W, C]`, any dtype, not normalized (the border is black).
        draws: float32 `[B, 3]` in [0, 1): row, column, flip.

    Returns:
        Tensor of the shape and dtype of `images`.
    """
    _, height, width, channels = images.shape
    border = [_PADDING, _PADDING]
    padded = tf.pad(images, [[0, 0], border, border, [0, 0]])
    corner = tf.cast(draws[:, :2] * (2 * _PADDING + 1), tf.int32)
    rows = corner[:, :1] + tf.range(height)
    columns = corner[:, 1:] + tf.where(
        draws[:, 2:] < 0.5, tf.range(width - 1, -1, -1), tf.range(width)
    )
    # One gather of whole pixels: several times faster than one along each axis.
    rows += tf.range(tf.shape(images)[0])[:, None] * (height + 2 * _PADDING)
    places = rows[:, :, None] * (width + 2 * _PADDING) + columns[:, None, :]
    return tf.gather(tf.reshape(padded, [-1, channels]), places)


def sample_crop_box(height: Tensor, width: Tensor, draws: Tensor) -> Tensor:
    """Chooses the window of a RandomResizedCrop.

    Area 8 to 100 % of the image and aspect ratio 3/4 to 4/3 (log-uniform); the first
    of ten attempts that fits, else the largest centered window of an allowed aspect,
    as in torchvision.

    Args:
        height: int32 scalar, pixels.
        width: int32 scalar, pixels.
        draws: float32 `[23]` in [0, 1): 10 areas, 10 aspects, row, column, flip.

    Returns:
        int32 `[4]`: top, left, height, width.
    """
    rows, columns = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = rows * columns * (_AREA[0] + draws[:_ATTEMPTS] * (_AREA[1] - _AREA[0]))
    low, high = math.log(_ASPECT[0]), math.log(_ASPECT[1])
    aspect = tf.exp(low + draws[_ATTEMPTS : 2 * _ATTEMPTS] * (high - low))
    heights = tf.round(tf.sqrt(area / aspect))
    widths = tf.round(tf.sqrt(area * aspect))
    fits = (heights >= 1) & (heights <= rows) & (widths >= 1) & (widths <= columns)
    first = tf.argmax(fits)
    any_fits = tf.reduce_any(fits)
    crop_height = tf.where(
        any_fits, heights[first], tf.minimum(rows, tf.round(columns / _ASPECT[0]))
    )
    crop_width = tf.where(
        any_fits, widths[first], tf.minimum(columns, tf.round(rows * _ASPECT[1]))
    )
    free = tf.stack([rows - crop_height, columns - crop_width])
    corner = tf.where(any_fits, draws[-3:-1] * (free + 1), free / 2)
    top, left = tf.unstack(tf.floor(corner))
    return tf.cast(tf.stack([top, left, crop_height, crop_width]), tf.int32)


def random_resized_crop(
    image: Tensor, draws: Tensor, size: int, channels: int
) -> Tensor:
    """Cuts a random window, resizes it, flips one in two.

    Of a JPEG only the window is decoded.

    Args:
        image: A scalar string (an encoded image) or `[h, w, C]` uint8.
        draws: float32 `[23]` in [0, 1), see `sample_crop_box`.
        size: Height and width of the result, pixels.
        channels: Channels of the result.

    Returns:
        float32 `[size, size, channels]`, values 0 to 255.

    Source: the training input of Kusupati et al. 2020 (torchvision's
        `RandomResizedCrop` and `RandomHorizontalFlip`).
    """

    def from_jpeg():
        shape = tf.io.extract_jpeg_shape(image)
        box = sample_crop_box(shape[0], shape[1], draws)
        return tf.io.decode_and_crop_jpeg(
            image, box, channels=channels, dct_method="INTEGER_ACCURATE"
        )

    def from_pixels():
        pixels = decode(image, channels)
        shape = tf.shape(pixels)
        top, left, height, width = tf.unstack(
            sample_crop_box(shape[0], shape[1], draws)
        )
        return pixels[top : top + height, left : left + width]

    if image.dtype == tf.string:
        window = tf.cond(tf.io.is_jpeg(image), from_jpeg, from_pixels)
    else:
        window = from_pixels()
    window = tf.image.resize(window, [size, size], antialias=True)
    # `tf.reverse` and not a slice backwards: a tenth of the time.
    window = tf.cond(draws[-1] < 0.5, lambda: tf.reverse(window, [1]), lambda: window)
    return tf.ensure_shape(window, [size, size, channels])


def decode(image: Tensor, channels: int) -> Tensor:
    """Returns uint8 `[h, w, channels]` from an encoded image; pixels pass through.

    Args:
        image: A scalar string (JPEG, PNG, BMP or GIF) or `[h, w, C]` uint8.
        channels: 1 or 3, to which encoded images are converted.
    """
    if image.dtype != tf.string:
        return image

    def from_jpeg():
        # The accurate transform is the default of libjpeg's other users (PIL).
        return tf.io.decode_jpeg(
            image, channels=channels, dct_method="INTEGER_ACCURATE"
        )

    def from_other():
        # By way of color: BMP and GIF cannot be decoded to one channel.
        pixels = tf.io.decode_image(image, channels=3, expand_animations=False)
        return tf.image.rgb_to_grayscale(pixels) if channels == 1 else pixels

    return tf.cond(tf.io.is_jpeg(image), from_jpeg, from_other)
