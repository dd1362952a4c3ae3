"""What the windows of a convolution read: zeros before, pixels, zeros after.

XNNPACK's sparse kernels want the same number of zeros on every side, half the kernel.
Two things make other windows fit, without a change of what they compute: to read the
image from its other end (what was after is before), and a larger kernel with zeros
where the old one did not reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

from str_keras.ready.graph import Array, Node, Part, Value

CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)
POOLS = (layers.MaxPooling2D, layers.AveragePooling2D)
Pair = tuple[int, int]


@dataclass(frozen=True)
class Reach:
    """What the windows along one axis read.

    Args:
        extent: Pixels of the image, without padding.
        stride: Pixels from one window to the next.
        taps: Pixels from the first to the last that a window reads, dilation counted.
        count: Number of windows.
        before: Zeros read before the first pixel; negative: pixels never read.
    """

    extent: int
    stride: int
    taps: int
    count: int
    before: int

    @property
    def after(self) -> int:
        """Zeros read after the last pixel; negative: pixels never read."""
        last = (self.count - 1) * self.stride + self.taps
        return last - self.extent - self.before

    def turned(self) -> Reach:
        """The same windows, counted from the other end of the image."""
        return Reach(self.extent, self.stride, self.taps, self.count, self.after)

    def is_symmetric(self) -> bool:
        """Whether it reads as far beyond both ends."""
        return self.before == self.after

    def place(self, size: int) -> int | None:
        """Where the taps stand in a kernel of `size`, padded by half of it.

        Args:
            size: 3 or 5; the zeros are `size // 2` on both sides.

        Returns:
            Taps of the larger kernel before the first of this one; None if no place
            gives these windows.
        """
        if self.count != (self.extent - 1) // self.stride + 1:
            return None
        offset = size // 2 - self.before
        return offset if 0 <= offset <= size - self.taps else None


def pair(value: int | Sequence[int]) -> Pair:
    """A size for height and width from one that Keras takes."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def zeros_of(part: Part) -> tuple[Pair, Pair] | None:
    """Zeros (top, bottom), (left, right) of a `ZeroPadding2D`; None of another."""
    if part.kind is not layers.ZeroPadding2D:
        return None
    rows, columns = part.config["padding"]
    return pair(rows), pair(columns)


class Windows:
    """The windows of one call of a convolution or pooling.

    Args:
        node: The call; of `CONVOLUTIONS` or `POOLS`.
        producers: Of its graph.

    Attributes:
        source: What is read, before the `ZeroPadding2D` layers that precede.
        zeros: Of these layers, along both axes.
        reach: Along both axes; None where the extent is not known and matters.
    """

    def __init__(self, node: Node, producers: dict[int, Node]):
        config = node.part.config
        self.node = node
        self.source: Value = node.inputs[0]
        is_pool = node.part.kind in POOLS  # which would pad by other than zeros
        zeros = np.zeros((2, 2), int)
        while (before := producers.get(id(self.source))) is not None:
            more = zeros_of(before.part)
            if more is None or is_pool:
                break
            zeros += more
            self.source = before.inputs[0]
        top, bottom, left, right = map(int, zeros.flat)
        self.zeros: tuple[Pair, Pair] = ((top, bottom), (left, right))
        self.size = pair(config["pool_size" if is_pool else "kernel_size"])
        self.strides = pair(config["strides"])
        self.dilation = (1, 1) if is_pool else pair(config["dilation_rate"])
        self.same = config["padding"] == "same"
        self.reach = tuple(self._reach(axis) for axis in (0, 1))

    def is_centered(self) -> bool:
        """Whether "same" pads as much before as after, whatever the extent is."""
        odd = all(n % 2 for n in self.size)
        return self.same and odd and self.strides == (1, 1) and not np.any(self.zeros)

    def _reach(self, axis: int) -> Reach | None:
        extent, stride = self.source.extent(axis), self.strides[axis]
        taps = (self.size[axis] - 1) * self.dilation[axis] + 1
        if extent is None:
            return None
        before, after = self.zeros[axis]
        padded = extent + before + after
        if not self.same:
            count = (padded - taps) // stride + 1
            return Reach(extent, stride, taps, count, before)
        count = -(-padded // stride)
        total = max((count - 1) * stride + taps - padded, 0)
        return Reach(extent, stride, taps, count, before + total // 2)


def embed(kernel: Array, dilation: Pair, offsets: Pair, size: int) -> Array:
    """A square kernel of `size` with the taps of another, zeros around and between.

    Args:
        kernel: `[height, width, ...]`.
        dilation: Pixels between its taps along each axis.
        offsets: Taps before its first along each axis.
        size: Of the result, `[size, size, ...]`.
    """
    larger = np.zeros((size, size, *kernel.shape[2:]), kernel.dtype)
    rows, columns = (
        slice(offset, offset + (n - 1) * step + 1, step)
        for offset, n, step in zip(offsets, kernel.shape, dilation, strict=False)
    )
    larger[rows, columns] = kernel
    return larger


def flip(kernel: Array, order: tuple[bool, bool]) -> Array:
    """A kernel `[height, width, ...]` read from its other end along some axes."""
    axes = tuple(axis for axis, turn in enumerate(order) if turn)
    return np.flip(kernel, axes)


def is_changed_by_keras(layer: keras.Layer | None) -> bool:
    """Whether a layer computes otherwise than its kernel says: quantized, LoRA."""
    quantized = getattr(layer, "quantization_mode", None) is not None
    return quantized or getattr(layer, "lora_enabled", False)
