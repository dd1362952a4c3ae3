"""Fashion-MNIST: the subset that comes with the package, and the full set.

Source: Xiao, Rasul, Vollgraf, "Fashion-MNIST", 2017, https://arxiv.org/abs/1708.07747;
MIT license, copyright 2017 Zalando SE.
"""

import gzip
import hashlib
import importlib.resources
import math
import os
import pathlib
import struct
import zlib

import numpy as np

from str_keras.data.info import DatasetNotFoundError
from str_keras.data.sources import ArraySource

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
LICENSE = "MIT, copyright 2017 Zalando SE"
DEBIAN_DIR = "/usr/share/datasets/fashion-mnist"
EMBEDDED_FILE = "fashion_mnist_5k.npz"
_FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def open_embedded() -> ArraySource:
    """Returns the 5,000 / 2,000 images (500 / 200 per class) inside the package."""
    folder = importlib.resources.files("str_keras.data") / "embedded"
    with (folder / EMBEDDED_FILE).open("rb") as file, np.load(file) as archive:
        arrays = {
            split: (archive[f"{split}_images"][..., None], archive[f"{split}_labels"])
            for split in _FILES
        }
    return ArraySource("fashion_mnist_5k", arrays, CLASS_NAMES, LICENSE)


def open_full(data_dir: str | os.PathLike | None = None) -> ArraySource:
    """Returns the full set, 60,000 / 10,000 images, from the original idx files.

    Args:
        data_dir: Folder of the four .gz files; where None or without them, the folder
            of the Debian package dataset-fashion-mnist is looked at.

    Raises:
        DatasetNotFoundError: if neither folder has the files.
        ValueError: if a file is damaged.
    """
    folders = [pathlib.Path(d) for d in (data_dir, DEBIAN_DIR) if d is not None]
    names = [name for pair in _FILES.values() for name in pair]
    for folder in folders:
        if all((folder / name).is_file() for name in names):
            arrays = read_folder(folder)
            return ArraySource("fashion_mnist", arrays, CLASS_NAMES, LICENSE)
    raise DatasetNotFoundError(
        "The full Fashion-MNIST is not on this machine: run `apt-get install "
        f"dataset-fashion-mnist`, or put {', '.join(names)} into `data_dir`, or use "
        "tfds:fashion_mnist, or the built-in fashion_mnist_5k. "
        f"Received: data_dir={data_dir!r}, looked in "
        f"{', '.join(str(folder) for folder in folders)}"
    )


def read_folder(folder: str | os.PathLike) -> Arrays:
    """Reads the four original files: images uint8 `[n, 28, 28, 1]`, labels uint8."""
    folder = pathlib.Path(folder)
    return {
        split: (read_idx(folder / images)[..., None], read_idx(folder / labels))
        for split, (images, labels) in _FILES.items()
    }


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Reads a gzipped idx file of unsigned bytes.

    Raises:
        ValueError: if the file cannot be read, is no idx file or has another length
            than its header says.

    Source: http://yann.lecun.com/exdb/mnist/ ("the IDX file format").
    """
    try:
        with gzip.open(path, "rb") as file:
            data = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"Cannot read the idx file {path}: {error}") from None
    # Two zeros, the type (8: unsigned byte), the number of dimensions, their sizes.
    rank = data[3] if len(data) > 3 else 0
    header = 4 + 4 * rank
    if data[:3] != b"\0\0\x08" or len(data) < header:
        raise ValueError(
            f"Not an idx file of unsigned bytes. Received: {path}, "
            f"which starts with {data[:4].hex()}"
        )
    shape = struct.unpack(f">{rank}I", data[4:header])
    if len(data) - header != math.prod(shape):
        raise ValueError(
            f"The idx file is damaged: its header announces {math.prod(shape)} bytes. "
            f"Received: {path}, with {len(data) - header}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def stratified_indices(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Chooses the same number of examples of every class, in a shuffled order.

    Args:
        labels: Integers `[n]`.
        per_class: How many of each class.
        seed: Decides which, and in which order.

    Returns:
        int64 `[classes * per_class]`, indices into `labels`.

    Raises:
        ValueError: if a class has fewer examples.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < per_class:
        raise ValueError(
            f"A class has {counts.min()} examples only. Received: per_class={per_class}"
        )
    random = np.random.default_rng(seed)
    chosen = [
        random.choice(np.flatnonzero(labels == label), per_class, replace=False)
        for label in classes
    ]
    return random.permutation(np.concatenate(chosen))


def write_subset(arrays: Arrays, path: str | os.PathLike, seed: int) -> str:
    """Writes 500 training and 200 test images of every class as one .npz file.

    Args:
        arrays: As `read_folder` gives them.
        path: The file to write; it appears complete or not at all.
        seed: Decides which images.

    Returns:
        SHA-256 of the file, hexadecimal.
    """
    subset = {}
    for split, per_class in (("train", 500), ("test", 200)):
        images, labels = arrays[split]
        chosen = stratified_indices(labels, per_class, seed)
        subset[f"{split}_images"] = images[chosen, ..., 0]
        subset[f"{split}_labels"] = labels[chosen]
    path = pathlib.Path(path)
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("wb") as file:
            np.savez_compressed(file, **subset)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return hashlib.sha256(path.read_bytes()).hexdigest()
