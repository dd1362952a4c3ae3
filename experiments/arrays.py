"""Small sets of images as NumPy arrays: the same pictures on every Keras backend.

`str_keras.data` makes the same batches with tf.data and so wants TensorFlow; this
module does not (but to unpack CIFAR-10 from TFDS, once). The tests hold both equal.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib.resources
import os
import pathlib
import struct
from collections.abc import Callable

import keras
import numpy as np

from experiments.order import epoch_order, random_words

Arrays = dict[str, np.ndarray]
Path = str | os.PathLike[str]

CACHE = pathlib.Path("runs") / "data"
NUM_CLASSES = 10
SIDE = 32
_CROP = 4  # pixels of padding on every side
_DEBIAN_DIR = "/usr/share/datasets/fashion-mnist"
_IDX = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
}


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Labeled images in memory, of 32 x 32 pixels.

    Args:
        name: Name of the data set.
        arrays: train_images and test_images, uint8 `[n, 32, 32, C]`; train_labels and
            test_labels, integers `[n]` from 0 to 9.
        mean, std: Of each channel, in units of pixel / 255.
        crop_flip: Whether training images are cropped and flipped at random.
    """

    name: str
    arrays: Arrays = dataclasses.field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_flip: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.arrays["train_images"].shape[1:]
        return height, width, channels

    def limit(self, number: int) -> ImageArrays:
        """The same with the first `number` training and test images."""
        few = {name: values[:number] for name, values in self.arrays.items()}
        return dataclasses.replace(self, arrays=few)

    def train(self, seed: int, epoch: int, batch_size: int) -> Batches:
        """The whole batches of an epoch: order and crops follow from seed and epoch.

        Args:
            seed, epoch: Non-negative integers.
            batch_size: Images a step.

        Raises:
            ValueError: if there are fewer images than `batch_size`.
        """
        count = len(self.arrays["train_labels"])
        if not 0 < batch_size <= count:
            raise ValueError(
                f"{self.name} has {count} training images: take smaller batches. "
                f"Received: batch_size={batch_size}"
            )
        draws = None
        if self.crop_flip:
            words = random_words(seed, epoch, 1, 3 * count)
            draws = (words >> 11).reshape(count, 3) * 2.0**-53
        order = epoch_order(seed, epoch, count, batch_size)
        return Batches(self, "train", order, batch_size, draws)

    def test(self, batch_size: int) -> Batches:
        """All test images in their order; the last batch may be smaller."""
        order = np.arange(len(self.arrays["test_labels"]))
        return Batches(self, "test", order, batch_size)

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """`(images / 255 - mean) / std` as float32."""
        mean, std = np.array(self.mean), np.array(self.std)
        scale, offset = (1 / (255 * std)).astype("float32"), -mean / std
        return images.astype("float32") * scale + offset.astype("float32")


class Batches(keras.utils.PyDataset):
    """Batches of normalized images, float32, and one-hot labels, float32.

    Args:
        images: Where they come from.
        split: "train" or "test".
        order: Indices of the images.
        batch_size: Images a batch.
        draws: For crops and flips, in [0, 1), `[images, 3]`; None for neither.
    """

    def __init__(
        self,
        images: ImageArrays,
        split: str,
        order: np.ndarray,
        batch_size: int,
        draws: np.ndarray | None = None,
    ):
        super().__init__()
        self.images, self.order, self.draws = images, order, draws
        self.pixels = images.arrays[f"{split}_images"]
        self.labels = images.arrays[f"{split}_labels"]
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        pixels = self.pixels[chosen]
        if self.draws is not None:
            pixels = crop_flip(pixels, self.draws[chosen])
        labels = np.eye(NUM_CLASSES, dtype="float32")[self.labels[chosen]]
        return self.images.normalize(pixels), labels


def crop_flip(images: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Pads by 4 black pixels, cuts a random window of the old size, flips one in two.

    Args:
        images: `[B, H, W, C]`, not normalized.
        draws: `[B, 3]` in [0, 1): row, column, flip.

    Returns:
        Array of the shape and dtype of `images`.
    """
    count, height, width, _ = images.shape
    padded = np.pad(images, [(0, 0), (_CROP, _CROP), (_CROP, _CROP), (0, 0)])
    corner = (draws[:, :2] * (2 * _CROP + 1)).astype(int)
    flip = draws[:, 2:] < 0.5
    rows = corner[:, :1] + np.arange(height)
    columns = corner[:, 1:] + np.where(flip, np.arange(width)[::-1], np.arange(width))
    return padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]]


def _pad(images: np.ndarray) -> np.ndarray:
    """28 x 28 gray pixels in the middle of 32 x 32 black ones."""
    border = (SIDE - images.shape[1]) // 2
    return np.pad(images, [(0, 0), (border, border), (border, border)])[..., None]


def _fashion_mnist_5k(data_dir: Path | None) -> Arrays:
    # By the path: `files("str_keras.data")` would import that package.
    folder = importlib.resources.files("str_keras") / "data" / "embedded"
    with (folder / "fashion_mnist_5k.npz").open("rb") as file, np.load(file) as found:
        return {name: found[name] for name in _IDX}


def _read_idx(path: pathlib.Path) -> np.ndarray:
    with gzip.open(path, "rb") as file:
        data = file.read()
    try:
        rank = data[3]
        shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
        return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (IndexError, ValueError, struct.error) as error:
        raise ValueError(
            f"The idx file is damaged: {error}. Received: {path}"
        ) from None


def _fashion_mnist(data_dir: Path | None) -> Arrays:
    folders = [pathlib.Path(d) for d in (data_dir, _DEBIAN_DIR) if d]
    for folder in folders:
        if all((folder / name).is_file() for name in _IDX.values()):
            return {key: _read_idx(folder / name) for key, name in _IDX.items()}
    raise ValueError(
        "The full Fashion-MNIST is not on this machine: run `apt-get install "
        f"dataset-fashion-mnist`, or put {', '.join(_IDX.values())} into --data_dir. "
        f"Received: data_dir={data_dir!r}"
    )


def _cifar10(data_dir: Path | None) -> Arrays:
    for folder in (pathlib.Path(d) for d in (data_dir, CACHE) if d):
        path = folder / "cifar10.npz"
        if path.is_file():
            with np.load(path) as found:
                return {name: found[name] for name in _IDX}
    return _unpack_cifar10(data_dir)


def _unpack_cifar10(data_dir: Path | None) -> Arrays:
    """Reads what TFDS has prepared, and keeps it as one file."""
    from str_keras import data, files  # brings TensorFlow

    dataset = data.load("cifar10", data_dir=data_dir or None)
    arrays: Arrays = {}
    for split, count in (
        ("train", dataset.info.num_train),
        ("test", dataset.info.num_test),
    ):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = dataset.raw(split, count)
    with files.written_aside(CACHE / "cifar10.npz") as aside:
        np.savez_compressed(aside, allow_pickle=False, **arrays)
    return arrays


@dataclasses.dataclass(frozen=True)
class _Source:
    open: Callable[[Path | None], Arrays]
    num_train: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_GRAY = ((0.2860,), (0.3530,))
_COLOR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SOURCES = {
    "fashion_mnist_5k": _Source(_fashion_mnist_5k, 5_000, *_GRAY),
    "fashion_mnist": _Source(_fashion_mnist, 60_000, *_GRAY),
    "cifar10": _Source(_cifar10, 50_000, *_COLOR),
}


def load(name: str, data_dir: Path | None = None) -> ImageArrays:
    """Opens a data set: fashion_mnist_5k, fashion_mnist or cifar10.

    Args:
        name: Key of `SOURCES`.
        data_dir: Folder of the idx files (fashion_mnist), of cifar10.npz (train_images,
            train_labels, test_images, test_labels) or of the prepared TFDS (cifar10).

    Raises:
        ValueError: if there is no such data set, it is not on this machine, or damaged.
    """
    if name not in SOURCES:
        raise ValueError(
            f"The data sets in memory are {', '.join(SOURCES)}. Received: {name!r}"
        )
    source = SOURCES[name]
    arrays = source.open(data_dir)
    for split in ("train", "test"):
        images = arrays[f"{split}_images"]
        if images.ndim == 3:
            arrays[f"{split}_images"] = _pad(images)
        if len(images) != len(arrays[f"{split}_labels"]) or images.dtype != np.uint8:
            raise ValueError(
                f"{name} ({split}) wants uint8 images and a label for each. Received: "
                f"{images.dtype}{images.shape}, {len(arrays[f'{split}_labels'])} labels"
            )
    color = arrays["train_images"].shape[-1] == 3
    return ImageArrays(name, arrays, source.mean, source.std, crop_flip=color)
