"""Where images come from; each source gives examples, the pipeline does the rest."""

import abc
import hashlib
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from str_keras.data.order import Share, permutation
from str_keras.processors import usable_cores

Dataset: TypeAlias = Any  # tf.data.Dataset, which has no usable types
Tensor: TypeAlias = Any

SPLITS = ("train", "test")


class Source(abc.ABC):
    """A labeled set of images with the splits "train" and "test".

    Attributes:
        name: Name of the data set, without a version.
        class_names: One name per class.
        sizes: Images in each split.
        shape: `(height, width, channels)`; height and width are None where they vary.
        license: License of the images, as far as known.
    """

    name: str
    class_names: tuple[str, ...]
    sizes: dict[str, int]
    shape: tuple[int | None, int | None, int]
    license: str

    @abc.abstractmethod
    def examples(self, split: str, share: Share, key: int | None) -> Dataset:
        """Returns single examples of one pass over a split.

        Args:
            split: "train" or "test".
            share: The part of each global batch to read.
            key: Shuffles, and leaves out what does not fill a batch; None: the fixed
                order of the source, complete.

        Returns:
            Data set of `(image, label, index)`: the image encoded (string) or uint8
            `[h, w, C]`, the label int32, the index int64 and unique in the split.
        """

    @abc.abstractmethod
    def fingerprint(self) -> dict[str, str]:
        """Returns what tells these data from others, part by part."""

    def find_corrupt(self) -> str:
        """Returns the first image that cannot be decoded, and why.

        "" if all can be, or where images have no names.
        """
        return ""

    def with_channels(self, channels: int) -> "Source":
        """Returns the source with as many channels.

        Raises:
            ValueError: if its images cannot be converted.
        """
        raise ValueError(
            f"The images of {self.name} have {self.shape[-1]} channels. "
            f"Received: channels={channels}"
        )


class IndexedSource(Source):
    """A source that can read any example at once, and so shuffles without a buffer."""

    @abc.abstractmethod
    def fetch(self, split: str, index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns image and label of an int64 index."""

    def indices(self, split: str, share: Share, key: int | None) -> Dataset:
        """Returns the indices that `examples` visits, int64 scalars."""
        count = self.sizes[split]
        if key is None:
            order = np.arange(count)
        else:
            order = permutation(count, key)
            order = order[: count // share.batch_size * share.batch_size]
        return tf.data.Dataset.from_tensor_slices(share.select(order))

    def examples(self, split: str, share: Share, key: int | None) -> Dataset:
        """See `Source.examples`."""
        return self.indices(split, share, key).map(
            lambda index: (*self.fetch(split, index), index),
            num_parallel_calls=usable_cores(),
        )


class ArraySource(IndexedSource):
    """Images of one shape, kept in memory.

    Args:
        name: Name of the data set.
        arrays: For each split uint8 images `[n, h, w, C]` and integer labels `[n]`.
        class_names: One name per class.
        license: License of the images.

    Raises:
        ValueError: if shapes or dtypes differ from these, a split is empty, or a
            label is out of range.
    """

    def __init__(
        self,
        name: str,
        arrays: dict[str, tuple[np.ndarray, np.ndarray]],
        class_names: tuple[str, ...],
        license: str,
    ):
        for split, (images, labels) in arrays.items():
            _check_arrays(f"{name} ({split})", images, labels, len(class_names))
        self.name, self.class_names, self.license = name, class_names, license
        self.sizes = {split: len(labels) for split, (_, labels) in arrays.items()}
        self.shape = arrays["train"][0].shape[1:]
        # On the CPU also under a strategy whose default device is an accelerator.
        with tf.device("CPU:0"):
            self._tensors = {
                split: (tf.constant(images), tf.constant(labels.astype(np.int32)))
                for split, (images, labels) in arrays.items()
            }

    def fetch(self, split: str, index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns images and labels; `index` may be a batch of them."""
        images, labels = self._tensors[split]
        return tf.gather(images, index), tf.gather(labels, index)

    def fingerprint(self) -> dict[str, str]:
        """Images and labels of each split, by checksum; see `Source`."""
        found = {}
        for split, (images, labels) in self._tensors.items():
            digest = hashlib.sha256(str(images.shape).encode())
            for tensor in (images, labels):
                digest.update(np.ascontiguousarray(tensor.numpy()).data)
            found[split] = f"{len(labels)} images, sha256:{digest.hexdigest()}"
        return found

    def with_channels(self, channels: int) -> Source:
        """Returns the source with its gray images repeated; see `Source`."""
        if self.shape[-1] != 1:
            return super().with_channels(channels)
        arrays = {
            split: (np.repeat(images.numpy(), channels, axis=-1), labels.numpy())
            for split, (images, labels) in self._tensors.items()
        }
        return ArraySource(self.name, arrays, self.class_names, self.license)


def _check_arrays(
    where: str, images: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(
            f"{where}: images must be uint8 [n, height, width, channels], n > 0. "
            f"Received: dtype={images.dtype}, shape={images.shape}"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"{where}: every image needs one label. "
            f"Received: {len(images)} images, labels of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{where}: labels must be in 0 to {num_classes - 1}. "
            f"Received: {labels.min()} to {labels.max()}"
        )
