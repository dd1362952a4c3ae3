"""A folder of images: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg."""

import concurrent.futures
import hashlib
import itertools
import os
import pathlib
import sys

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from str_keras.data.info import DatasetNotFoundError, corrupt
from str_keras.data.order import permutation
from str_keras.data.sources import IndexedSource, Tensor

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif"}
_TEST_FOLDERS = ("test", "validation", "val")


class FolderSource(IndexedSource):
    """Images in one folder per class, read when they are needed.

    Hidden files and files without the suffix of an image (.jpg, .jpeg, .png, .bmp,
    .gif) are left out. Every image is looked at once, here, so that one that is cut
    short is named before the training starts and not an hour later.

    Args:
        path: Folder with "train" and one of "test", "validation", "val".
        channels: 1 or 3; all images are decoded to it.
        skip: Decode every image here, and leave out those that cannot be.

    Raises:
        DatasetNotFoundError: if a folder is missing.
        ValueError: if a class is empty, the splits have different classes, or an image
            cannot be read.
    """

    def __init__(self, path: str | os.PathLike, channels: int = 3, skip: bool = False):
        root = pathlib.Path(path).expanduser()
        folders = {"train": root / "train", "test": _test_folder(root)}
        classes = {split: _class_names(folder) for split, folder in folders.items()}
        if classes["train"] != classes["test"]:
            differing = sorted(set(classes["train"]) ^ set(classes["test"]))
            raise ValueError(
                f"The classes of {folders['train']} and {folders['test']} differ. "
                f"Received: only in one of them {', '.join(differing)}"
            )
        self.name, self.license = root.name, "unknown"
        self.class_names = classes["train"]
        self.shape = (None, None, channels)
        self.sizes, self._tensors, self._fingerprint = {}, {}, {}
        for split, folder in folders.items():
            paths, labels = _list_images(folder, self.class_names)
            if skip:
                paths, labels = self._skip(split, folder, paths, labels)
            else:
                _check_images(paths)
            self._fingerprint |= _fingerprint(split, paths)
            # One fixed shuffle, so that the first images are not all of one class.
            order = permutation(len(paths), key=0)
            self.sizes[split] = len(paths)
            with tf.device("CPU:0"):
                self._tensors[split] = (
                    tf.constant(np.array([str(path) for path in paths])[order]),
                    tf.constant(labels[order]),
                )

    def _skip(
        self,
        split: str,
        folder: pathlib.Path,
        paths: list[pathlib.Path],
        labels: np.ndarray,
    ) -> tuple[list[pathlib.Path], np.ndarray]:
        """Leaves out what cannot be decoded, and says how much that is."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            reasons = list(pool.map(_why_corrupt, paths))
        good = np.array([not reason for reason in reasons])
        bad = [path for path, reason in zip(paths, reasons, strict=True) if reason]
        if not bad:
            return paths, labels
        for label, name in enumerate(self.class_names):
            if not good[labels == label].any():
                raise ValueError(
                    "No image of a class can be read: replace them, or remove the "
                    f"class. Received: {folder / name}"
                )
        tqdm.write(
            f"warning: {len(bad)} of {len(paths)} images cannot be read and are left "
            f"out, the first of them {bad[0]}",
            file=sys.stderr,
        )
        self._fingerprint[f"{split}, left out"] = f"{len(bad)} images"
        return [p for p, ok in zip(paths, good, strict=True) if ok], labels[good]

    def fingerprint(self) -> dict[str, str]:
        """Names and sizes of the files of each class; see `Source`."""
        return self._fingerprint

    def find_corrupt(self) -> str:
        """Decodes every image; see `Source`."""
        tensors = (paths.numpy() for paths, _ in self._tensors.values())
        files = [pathlib.Path(os.fsdecode(name)) for names in tensors for name in names]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            reasons = pool.map(_why_corrupt, files)
            pairs = zip(files, reasons, strict=True)
            return next((f"{path} ({why})" for path, why in pairs if why), "")

    def fetch(self, split: str, index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the bytes of one file and its label."""
        paths, labels = self._tensors[split]
        return tf.io.read_file(tf.gather(paths, index)), tf.gather(labels, index)


def _test_folder(root: pathlib.Path) -> pathlib.Path:
    found = [root / name for name in _TEST_FOLDERS if (root / name).is_dir()]
    if found and (root / "train").is_dir():
        return found[0]
    raise DatasetNotFoundError(
        "A folder of images needs PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg "
        f"(or validation, or val, for test). Received: folder:{root}"
    )


def _class_names(folder: pathlib.Path) -> tuple[str, ...]:
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise ValueError(
            f"There must be one folder for each class. Received: none in {folder}"
        )
    return tuple(names)


def _list_images(
    folder: pathlib.Path, class_names: tuple[str, ...]
) -> tuple[list[pathlib.Path], np.ndarray]:
    paths, labels = [], []
    for label, name in enumerate(class_names):
        images = sorted(
            path
            for path in (folder / name).iterdir()
            if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
        )
        if not images:
            raise ValueError(
                f"Every class needs images ({', '.join(sorted(_SUFFIXES))}). "
                f"Received: none in {folder / name}"
            )
        paths += images
        labels += [label] * len(images)
    return paths, np.array(labels, np.int32)


def _check_images(paths: list[pathlib.Path]) -> None:
    """Raises ValueError naming the first image that cannot be read."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        whole = pool.map(_looks_whole, paths)
        for path, looks_whole in zip(paths, whole, strict=True):
            if not looks_whole and (reason := _why_corrupt(path)):
                raise ValueError(corrupt(f"{path} ({reason})"))


def _looks_whole(path: pathlib.Path) -> bool:
    """Whether first and last bytes are those of a complete JPEG or PNG file.

    Two short reads instead of decoding: a large set is checked in seconds.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(-min(8, file.seek(0, os.SEEK_END)), os.SEEK_END)
            tail = file.read()
    except OSError:
        return False
    jpeg = head.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9")
    png = head == b"\x89PNG\r\n\x1a\n" and tail == b"IEND\xaeB`\x82"
    return jpeg or png


def _why_corrupt(path: pathlib.Path) -> str:
    """Why an image cannot be decoded; "" if it can."""
    try:
        tf.io.decode_image(path.read_bytes(), channels=3, expand_animations=False)
    except (OSError, tf.errors.InvalidArgumentError) as error:
        return str(error).split("\n")[0].split("} ")[-1] or type(error).__name__
    return ""


def _fingerprint(split: str, paths: list[pathlib.Path]) -> dict[str, str]:
    """Of each class how many files there are, and a checksum of names and sizes."""
    found = {}
    for name, members in itertools.groupby(paths, lambda path: path.parent.name):
        files = [f"{path.name} {path.stat().st_size}\n" for path in members]
        digest = hashlib.sha256("".join(files).encode("utf-8", "surrogateescape"))
        found[f"{split}/{name}"] = f"{len(files)} files, sha256:{digest.hexdigest()}"
    return found
