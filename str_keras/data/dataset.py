"""The pipeline: shuffle, decode, augment, normalize, batch, prefetch."""

import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import tensorflow as tf

from str_keras.data import augment as augmentations
from str_keras.data.info import DatasetInfo, corrupt
from str_keras.data.order import Share, epoch_keys
from str_keras.data.preprocessing import Preprocessing, check_positive_int
from str_keras.data.sources import SPLITS, ArraySource, Dataset, Source, Tensor
from str_keras.processors import usable_cores

_OUT_OF_RANGE = re.compile(r"assertion failed: \[(.*? label out of .*?):\] \[(-?\d+)")


class ImageDataset:
    """Labeled images as batches for training, evaluation and calibration.

    Made by `str_keras.data.load`. The order of the images and their augmentation
    are functions of seed, epoch and index alone: the same epoch gives the same batches
    in every process, bit for bit, so an interrupted run can go on where it stopped.

    Every batch method takes the `batch_size` over all replicas. Without
    `input_context` it yields global batches, which `fit` under a MirroredStrategy
    splits by itself. With one (from `Strategy.distribute_datasets_from_function`)
    it yields, as that method expects, batches of one replica: the pipelines together
    read every global batch once, pipeline i its i-th part. (Sets streamed from TFDS
    are sliced instead: each pipeline shuffles its own slice of the split.)

    Args:
        info: Facts about the data set.
        preprocessing: The evaluation rule and the normalization.
        source: Where the images come from.
        augment: "none", "crop_flip" or "imagenet".
        seed: Non-negative integer.
    """

    def __init__(
        self,
        info: DatasetInfo,
        preprocessing: Preprocessing,
        source: Source,
        augment: str = "none",
        seed: int = 0,
    ):
        if augment not in augmentations.AUGMENTATIONS:
            raise ValueError(
                "`augment` must be auto, "
                f"{', '.join(augmentations.AUGMENTATIONS)}. Received: "
                f"augment={augment!r}"
            )
        epoch_keys(seed, 0)
        self.info = info
        self.preprocessing = preprocessing
        self.augment = augment
        self.seed = seed
        self._source = source

    def fingerprint(self) -> dict[str, str]:
        """Returns what tells these data from others, part by part.

        Of data in memory a checksum, of folders names and sizes of the files of each
        class, of sets streamed from TFDS the version and its files with sizes.
        """
        return {"name": self.info.name, **self._source.fingerprint()}

    def explain(self, error: Exception) -> str:
        """Tells what in the data led to an error of TensorFlow; "" if nothing did.

        A label is named by its value. For a name of an image all of a folder's images
        are decoded, which takes as long as it takes.

        Args:
            error: As a pass over the batches raised it.
        """
        if label := _OUT_OF_RANGE.search(str(error)):
            return f"{label[1]}: mend the data set. Received: label={label[2]}"
        found = self._source.find_corrupt()
        return corrupt(found) if found else ""

    def steps_per_epoch(self, batch_size: int) -> int:
        """Returns the whole batches of one epoch; the remainder is left out.

        Raises:
            ValueError: if `batch_size` is larger than the training set.
        """
        check_positive_int("batch_size", batch_size)
        if batch_size > self.info.num_train:
            raise ValueError(
                f"`batch_size` is larger than the {self.info.num_train} training "
                f"images of {self.info.name}. Received: batch_size={batch_size}"
            )
        return self.info.num_train // batch_size

    def train(self, epoch: int, batch_size: int, input_context: Any = None) -> Dataset:
        """Returns one epoch of training batches.

        Args:
            epoch: Number of the epoch, from 0.
            batch_size: Images in one step over all replicas.
            input_context: `tf.distribute.InputContext` or None, see the class.

        Returns:
            Finite `tf.data.Dataset` of (float32 `[B, H, W, C]` normalized, int32
            `[B]`), every batch full.

        Raises:
            ValueError: if an argument is out of range, or `batch_size` does not divide
                by the replicas.
        """
        steps = self.steps_per_epoch(batch_size)
        share = Share.of(batch_size, input_context)
        order_key, draw_key = epoch_keys(self.seed, epoch)
        if isinstance(self._source, ArraySource) and self.augment != "imagenet":
            batches = self._by_batch("train", share, order_key, draw_key)
        else:
            batches = self._train_by_image(share, order_key, draw_key)
        batches = batches.take(steps * share.elements_per_step)
        return _finish(batches, sharded=input_context is not None)

    def evaluation(self, batch_size: int, input_context: Any = None) -> Dataset:
        """Returns all test images once, in a fixed order, not augmented.

        Args:
            batch_size: Images in one step over all replicas.
            input_context: `tf.distribute.InputContext` or None, see the class.

        Returns:
            Finite `tf.data.Dataset` of (float32 `[B, H, W, C]` normalized, int32
            `[B]`); the last batch may be smaller.
        """
        share = Share.of(batch_size, input_context)
        if isinstance(self._source, ArraySource):
            batches = self._by_batch("test", share)
        else:
            images = self._source.examples("test", share, key=None)
            batches = self._normalized(images, self._resize_one, share)
        return _finish(batches, sharded=input_context is not None)

    def raw(
        self, split: str, count: int, offset: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns images as the model's user has them: sized, not normalized.

        Args:
            split: "train" or "test".
            count: How many images; fewer come back where the split ends.
            offset: How many images of the fixed order to pass over.

        Returns:
            uint8 `[n, H, W, C]`, by the evaluation rule and rounded, and int32 `[n]`.

        Raises:
            ValueError: if the split is unknown, or the range lies outside of it.
        """
        if split not in SPLITS:
            raise ValueError(
                f"`split` must be one of {', '.join(SPLITS)}. Received: split={split!r}"
            )
        check_positive_int("count", count)
        if not 0 <= offset < self._source.sizes[split]:
            raise ValueError(
                f"`offset` must be in 0 to {self._source.sizes[split] - 1} for the "
                f"{split} images of {self.info.name}. Received: offset={offset}"
            )
        examples = self._source.examples(split, Share.of(1), key=None)
        examples = examples.skip(offset).take(count).map(self._resize_one)
        pairs = list(examples.prefetch(2).as_numpy_iterator())
        images, labels = (np.stack(parts) for parts in zip(*pairs, strict=True))
        return np.rint(images).astype(np.uint8), labels

    def _by_batch(
        self,
        split: str,
        share: Share,
        order_key: int | None = None,
        draw_key: int | None = None,
    ) -> Dataset:
        """Whole batches at once: several times as fast as image by image.

        With `draw_key` images are augmented: the draws of example i are row i of a
        table made for the epoch.
        """
        source = cast(ArraySource, self._source)
        draws = None
        if draw_key is not None and self.augment == "crop_flip":
            with tf.device("CPU:0"):
                shape = [source.sizes[split], augmentations.CROP_FLIP_DRAWS]
                draws = _draws(shape, [draw_key, 0])

        def gather(index: Tensor):
            images, labels = source.fetch(split, index)
            images = self.preprocessing.resize(images)
            if draws is not None:
                images = augmentations.crop_flip(images, tf.gather(draws, index))
            return self.preprocessing.normalize(images), labels

        indices = source.indices(split, share, order_key)
        indices = indices.batch(share.element_size, drop_remainder=split == "train")
        return indices.map(gather, num_parallel_calls=usable_cores())

    def _train_by_image(self, share: Share, order_key: int, draw_key: int) -> Dataset:
        size, channels = self.preprocessing.image_size, self.preprocessing.channels

        def augment(image: Tensor, label: Tensor, index: Tensor):
            seed = tf.stack([tf.constant(draw_key, tf.int64), index])
            if self.augment == "imagenet":
                draws = _draws([augmentations.RESIZED_CROP_DRAWS], seed)
                image = augmentations.random_resized_crop(image, draws, size, channels)
                return image, label
            image, label = self._resize_one(image, label)
            if self.augment == "crop_flip":
                draws = _draws([1, augmentations.CROP_FLIP_DRAWS], seed)
                image = augmentations.crop_flip(image[None], draws)[0]
            return image, label

        images = self._source.examples("train", share, order_key)
        return self._normalized(images, augment, share, drop_remainder=True)

    def _normalized(
        self,
        images: Dataset,
        prepare: Callable[..., tuple[Tensor, Tensor]],
        share: Share,
        drop_remainder: bool = False,
    ) -> Dataset:
        def prepare_one(*example: Tensor):
            image, label = prepare(*example)
            # Here, where images are worked on in parallel and are still in the cache.
            return self.preprocessing.normalize(image), label

        images = images.map(prepare_one, num_parallel_calls=usable_cores())
        return images.batch(share.element_size, drop_remainder=drop_remainder)

    def _resize_one(self, image: Tensor, label: Tensor, index: Tensor = None):
        del index
        pixels = augmentations.decode(image, self.preprocessing.channels)
        return self.preprocessing.resize(pixels[None])[0], label


def _draws(shape: list[int], seed: Tensor) -> Tensor:
    # The algorithm is named because "auto" differs between kinds of devices.
    return tf.random.stateless_uniform(shape, seed, alg="philox")


def _finish(batches: Dataset, sharded: bool) -> Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # What TensorFlow tunes settles, at random, at one core of two: see benchmarks/.
    options.autotune.enabled = False
    policies = tf.data.experimental.AutoShardPolicy
    # A pipeline that reads its own share must not be sharded once more.
    options.experimental_distribute.auto_shard_policy = (
        policies.OFF if sharded else policies.DATA
    )
    return batches.prefetch(2).with_options(options)
