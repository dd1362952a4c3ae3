"""TensorFlow Datasets by name; the package is imported only when one is asked for."""

import difflib
import hashlib
import os
from typing import Any

import numpy as np
import tensorflow as tf

from str_keras.data.info import DatasetNotFoundError
from str_keras.data.order import Share
from str_keras.data.sources import ArraySource, Dataset, Source

SMALL_SIDE = 64  # pixels; larger images are streamed and cropped
_MAX_ARRAY_BYTES = 1 << 30
_READ_BATCH = 1024
# Encoded images; TFDS has shuffled them in its files, and those are shuffled too.
_SHUFFLE_BUFFER = 4096


def open_tfds(
    name: str, data_dir: str | os.PathLike | None = None, channels: int | None = None
) -> Source:
    """Opens a prepared TFDS image classification set.

    Nothing is downloaded here. Small images of one shape (up to 64 pixels, 1 GiB) are
    read into memory once; all others are streamed from the files and decoded on the
    way.

    Args:
        name: TFDS name: "cifar10", "imagenet2012:5.1.0", "NAME/CONFIG".
        data_dir: TFDS' folder; None: TFDS' own default, `~/tensorflow_datasets`.
        channels: 1 or 3, for streamed images; None: as stored.

    Raises:
        DatasetNotFoundError: if the name is unknown, or the set not prepared in
            `data_dir`; the message says what to run.
        ValueError: if it is no set of labeled images with a training and a test or
            validation split.
    """
    import tensorflow_datasets as tfds

    builder = _prepared_builder(tfds, name, data_dir)
    keys = _image_and_label(tfds, name, builder.info)
    splits = _choose_splits(name, builder)
    feature = builder.info.features[keys[0]]
    sizes = [builder.info.splits[split].num_examples for split in splits.values()]
    if is_small(feature.shape) and (
        sum(sizes) * np.prod(feature.shape) <= _MAX_ARRAY_BYTES
    ):
        return _read_arrays(tfds, builder, keys, splits)
    return TfdsSource(tfds, builder, keys, splits, channels)


def is_small(shape: tuple[int | None, ...]) -> bool:
    """Whether images have one known shape of at most 64 x 64 pixels."""
    return all(side is not None and side <= SMALL_SIDE for side in shape[:2])


class TfdsSource(Source):
    """A set that is streamed from TFDS' files.

    The order of an epoch is that of the shuffled files and of a buffer of 4,096 encoded
    images; the index of an example is a hash of its TFDS id, so that its augmentation
    does not depend on its place. Several input pipelines read disjoint slices of each
    split, the same in every epoch.

    Args:
        tfds: The module.
        builder: A prepared builder.
        keys: Names of the features image and label.
        splits: Maps "train" and "test" to TFDS' names.
        channels: Channels to decode to; None: as stored.
    """

    def __init__(
        self,
        tfds: Any,
        builder: Any,
        keys: tuple[str, str],
        splits: dict[str, str],
        channels: int | None = None,
    ):
        info = builder.info
        shape = info.features[keys[0]].shape
        self.name = builder.name
        self.class_names = tuple(info.features[keys[1]].names)
        self.sizes = {s: info.splits[name].num_examples for s, name in splits.items()}
        self.shape = (*shape[:2], channels or shape[-1] or 3)
        self.license = _license(info)
        self._tfds, self._builder = tfds, builder
        self._keys, self._splits = keys, splits

    def fingerprint(self) -> dict[str, str]:
        """Version of the set, and the files of each split with sizes; see `Source`."""
        found = {"version": str(self._builder.info.full_name)}
        for split, name in self._splits.items():
            digest = hashlib.sha256()
            for path in sorted(map(str, self._builder.info.splits[name].filepaths)):
                size = tf.io.gfile.stat(path).length
                digest.update(f"{os.path.basename(path)} {size}\n".encode())
            found[split] = f"{self.sizes[split]} images, sha256:{digest.hexdigest()}"
        return found

    def examples(self, split: str, share: Share, key: int | None) -> Dataset:
        """See `Source.examples`."""
        tfds, (image_key, label_key) = self._tfds, self._keys
        name: Any = self._splits[split]
        if share.pipelines > 1:
            name = tfds.even_splits(name, share.pipelines)[share.pipeline]
        examples = self._builder.as_dataset(
            split=name,
            shuffle_files=key is not None,
            decoders={image_key: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(
                shuffle_seed=key,
                shuffle_reshuffle_each_iteration=False,
                add_tfds_id=True,
                try_autocache=False,
                skip_prefetch=True,
                enable_ordering_guard=False,
            ),
        )
        if key is not None:
            examples = examples.shuffle(
                _SHUFFLE_BUFFER, seed=key, reshuffle_each_iteration=False
            )
        num_classes = len(self.class_names)

        def select(example):
            label = tf.cast(example[label_key], tf.int32)
            in_range = (label >= 0) & (label < num_classes)
            message = f"{self.name} ({split}): label out of 0 to {num_classes - 1}:"
            with tf.control_dependencies([tf.Assert(in_range, [message, label])]):
                label = tf.identity(label)
            index = tf.strings.to_hash_bucket_fast(example["tfds_id"], 2**63 - 1)
            return example[image_key], label, index

        return examples.map(select)


def _prepared_builder(tfds: Any, name: str, data_dir: str | os.PathLike | None) -> Any:
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    # TFDS raises AssertionError for a version, ImportError for a namespace.
    except (ValueError, AssertionError, ImportError) as error:
        raise DatasetNotFoundError(_unknown(tfds, name, error)) from None
    if builder.info.splits:
        return builder
    where = "" if data_dir is None else f" --data_dir={os.fspath(data_dir)}"
    folder = os.fspath(data_dir or "~/tensorflow_datasets")
    by_hand = ""
    if builder.name == "imagenet2012":
        by_hand = (
            "put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (from "
            f"https://image-net.org) into {folder}/downloads/manual, then "
        )
    elif builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        by_hand = (
            f"put its files ({builder.info.homepage or 'see its TFDS page'}) into "
            f"{folder}/downloads/manual, then "
        )
    raise DatasetNotFoundError(
        f"The TFDS data set is not prepared in {folder}: {by_hand}run "
        f"`tfds build {name}{where}`. Received: name={name!r}"
    )


def _unknown(tfds: Any, name: str, error: Exception) -> str:
    known = tfds.list_builders()
    base = name.split("/")[0].split(":")[0]
    if base in known:
        reason = str(error).strip().split("\n")[0]
        return f"TFDS cannot open the data set: {reason} Received: name={name!r}"
    close = difflib.get_close_matches(base, known, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return (
        f"Unknown data set.{hint} Use fashion_mnist_5k, fashion_mnist, folder:PATH or "
        "an image data set of https://www.tensorflow.org/datasets/catalog. "
        f"Received: name={name!r}"
    )


def _image_and_label(tfds: Any, name: str, info: Any) -> tuple[str, str]:
    image_key, label_key = "image", "label"
    if info.supervised_keys and len(info.supervised_keys) == 2:
        image_key, label_key = info.supervised_keys
    features = info.features
    types = {image_key: tfds.features.Image, label_key: tfds.features.ClassLabel}
    for key, kind in types.items():
        if key not in features or not isinstance(features[key], kind):
            raise ValueError(
                "A data set for image classification has an image and a class label. "
                f"Received: {name} with the features {sorted(features)}"
            )
    if features[image_key].np_dtype != np.uint8:
        raise ValueError(
            "Images must be stored as uint8. "
            f"Received: {name} with {features[image_key].np_dtype}"
        )
    return image_key, label_key


def _choose_splits(name: str, builder: Any) -> dict[str, str]:
    """Maps "train" and "test" to the splits of the data set."""
    available = builder.info.splits
    candidates = ["test", "validation"]
    if builder.name == "imagenet2012":
        candidates.reverse()  # its test images have no labels
    test = next((split for split in candidates if split in available), None)
    if "train" not in available or test is None:
        raise ValueError(
            "The data set needs the splits train and test, or train and validation. "
            f"Received: {name} with {', '.join(sorted(available))}"
        )
    return {"train": "train", "test": test}


def _license(info: Any) -> str:
    license = getattr(info.redistribution_info, "license", "")
    return license or (f"see {info.homepage}" if info.homepage else "unknown")


def _read_arrays(
    tfds: Any, builder: Any, keys: tuple[str, str], splits: dict[str, str]
) -> ArraySource:
    config = tfds.ReadConfig(try_autocache=False, enable_ordering_guard=False)
    arrays = {}
    for split, name in splits.items():
        examples = builder.as_dataset(split=name, read_config=config)
        pairs = examples.map(lambda example: tuple(example[key] for key in keys))
        batches = list(pairs.batch(_READ_BATCH).as_numpy_iterator())
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        arrays[split] = images, labels
    names = tuple(builder.info.features[keys[1]].names)
    return ArraySource(builder.name, arrays, names, _license(builder.info))
