"""`load`: from the name of a data set to its pipeline, with defaults that fit it."""

import os
import pathlib

from str_keras.data import fashion_mnist
from str_keras.data.dataset import ImageDataset
from str_keras.data.folder import FolderSource
from str_keras.data.info import DatasetInfo
from str_keras.data.preprocessing import Preprocessing, check_positive_int
from str_keras.data.sources import Source
from str_keras.data.tfds_source import is_small, open_tfds

# Mean and standard deviation of pixel / 255 over the training images.
_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
_FASHION_MNIST = ((0.2860,), (0.3530,))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_STATISTICS = {
    "cifar10": _CIFAR10,
    "cifar100": _CIFAR100,
    "fashion_mnist": _FASHION_MNIST,
    "fashion_mnist_5k": _FASHION_MNIST,
    "mnist": ((0.1307,), (0.3081,)),
}
# Digits: their mirror images mean something else or nothing.
_NOT_TO_BE_FLIPPED = {"svhn_cropped"}
CORRUPT_IMAGES = ("error", "skip")
_LARGE_SIZE, _LARGE_CROP_FRACTION = 224, 0.875  # short side 256, as in the paper


def load(
    name: str,
    *,
    image_size: int | None = None,
    data_dir: str | os.PathLike | None = None,
    seed: int = 0,
    augment: str = "auto",
    channels: int | None = None,
    corrupt_images: str = "error",
) -> ImageDataset:
    """Opens a data set of labeled images.

    Args:
        name: "fashion_mnist_5k" (5,000 / 2,000 images, comes with the package);
            "fashion_mnist" (all 60,000 / 10,000, from the original idx files);
            "folder:PATH" with PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg
            (or validation, val); "tfds:NAME", or just NAME, for any set of labeled
            images that TFDS has prepared.
        image_size: Height and width of the model's input, pixels. None: 32 for images
            of 28 or 32 pixels, the stored side up to 64 pixels, else 224.
        data_dir: Folder of the TFDS data sets or of the idx files; a relative
            "folder:PATH" starts there. The embedded set needs none.
        seed: Decides order and augmentation, with the epoch.
        augment: "none"; "crop_flip": 4 pixels of padding, random crop, flip;
            "imagenet": random resized crop (area 8 to 100 %, aspect 3/4 to 4/3), flip;
            "auto": crop_flip for small color images (digits excepted), none for
            small gray ones, imagenet for all others.
        channels: 3 repeats a gray image; folders and streamed TFDS images are
            decoded to 1 or 3. None: as stored (3 for folders).
        corrupt_images: Of folders: "error" names one that is cut short; "skip" decodes
            every image once, here, and leaves out what cannot be read, with a count on
            stderr.

    Returns:
        The data set. Pixels are normalized with the constants of the data set
        where they are known (fashion_mnist, mnist, cifar10, cifar100), else with
        ImageNet's for 3 channels and 0.5 / 0.5 for others. Images of 28 x 28 are
        first padded with black to the input size, then normalized, so that one uint8
        image of the input size is all that a deployed model needs.

    Raises:
        DatasetNotFoundError: if there is no such data set here; says what to run.
        ValueError: if an argument is out of range, or the data are damaged.
    """
    if image_size is not None:
        check_positive_int("image_size", image_size)
    if channels not in (None, 1, 3):
        raise ValueError(f"`channels` must be 1 or 3. Received: channels={channels!r}")
    if corrupt_images not in CORRUPT_IMAGES:
        raise ValueError(
            f"`corrupt_images` must be {' or '.join(CORRUPT_IMAGES)}. "
            f"Received: corrupt_images={corrupt_images!r}"
        )
    source = _open(name, data_dir, channels, corrupt_images)
    if augment == "auto":
        augment = _choose_augmentation(source)
    if channels not in (None, source.shape[-1]):
        source = source.with_channels(channels)
    preprocessing = _choose_preprocessing(source, image_size)
    size = preprocessing.image_size
    info = DatasetInfo(
        name=name,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        num_train=source.sizes["train"],
        num_test=source.sizes["test"],
        image_shape=(size, size, preprocessing.channels),
        license=source.license,
    )
    return ImageDataset(info, preprocessing, source, augment, seed)


def _open(
    name: str,
    data_dir: str | os.PathLike | None,
    channels: int | None,
    corrupt_images: str,
) -> Source:
    kind, _, rest = name.partition(":")
    if kind == "folder":
        path = pathlib.Path(data_dir or "") / rest
        return FolderSource(path, channels or 3, corrupt_images == "skip")
    if corrupt_images == "skip":
        raise ValueError(
            "Images are skipped in folders only, folder:PATH: leave corrupt_images "
            f"out. Received: name={name!r}, corrupt_images='skip'"
        )
    if name == "fashion_mnist_5k":
        return fashion_mnist.open_embedded()
    if name == "fashion_mnist":
        return fashion_mnist.open_full(data_dir)
    return open_tfds(rest if kind == "tfds" else name, data_dir, channels)


def _choose_augmentation(source: Source) -> str:
    if not is_small(source.shape):
        return "imagenet"
    gray = source.shape[-1] == 1
    return "none" if gray or source.name in _NOT_TO_BE_FLIPPED else "crop_flip"


def _choose_preprocessing(source: Source, image_size: int | None) -> Preprocessing:
    height, width, channels = source.shape
    small = is_small(source.shape)
    padded = (height, width) == (28, 28)
    if image_size is None:
        natural = 32 if padded else min(height or 0, width or 0)
        image_size = natural if small else _LARGE_SIZE
    mean, std = _STATISTICS.get(source.name, _IMAGENET)
    if len(mean) != channels:
        # A gray set shown as color keeps its constants; an unknown one gets 0.5.
        one = (mean[0], std[0]) if len(mean) == 1 else (0.5, 0.5)
        mean, std = ((value,) * channels for value in one)
    return Preprocessing(
        image_size=image_size,
        # Borders up to the size of the image; beyond that it is better enlarged.
        resize_rule="pad" if padded and 28 <= image_size < 56 else "center_crop",
        crop_fraction=1.0 if small else _LARGE_CROP_FRACTION,
        mean=mean,
        std=std,
    )
