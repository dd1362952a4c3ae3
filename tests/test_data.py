"""Data: what each source gives, and that an epoch is a function of seed and epoch."""

import gzip
import hashlib
import importlib.resources
import io
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
Image = pytest.importorskip("PIL.Image")

from idx_files import write_fashion_mnist, write_idx  # noqa: E402

from str_keras import data  # noqa: E402
from str_keras.data import augment, fashion_mnist, order  # noqa: E402
from str_keras.data.sources import ArraySource  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
# What tools/embed_fashion_mnist.py wrote: pixels and labels, not the compressed file.
EMBEDDED_SHA256 = "ea98060ebb9c018656b966d3ca03e0ad342e2dc2292c48eb7502d24ab5793013"
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
IMAGENET_STD = np.array([0.229, 0.224, 0.225])


def batches(dataset):
    return [(x.numpy(), y.numpy()) for x, y in dataset]


def concatenated(dataset):
    images, labels = zip(*batches(dataset), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def photo(height, width, seed=0):
    """A picture with smooth parts and edges, uint8 [height, width, 3]."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (5, 6, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    picture = smooth.copy()
    picture[height // 4 : height // 2, width // 3 : width // 2] = random.integers(
        0, 256, 3, np.uint8
    )
    return picture


def jpeg(pixels, **kwargs):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **kwargs)
    return file.getvalue()


@pytest.fixture
def numbered(tmp_path):
    write_fashion_mnist(tmp_path)
    return data.load("fashion_mnist", data_dir=tmp_path, seed=3)


def numbers(images):
    """The numbers that `write_fashion_mnist` hid, through padding and normalizing."""
    return np.rint((images[:, 2, 2, 0] * 0.3530 + 0.2860) * 255).astype(int).tolist()


# --- the embedded set ---------------------------------------------------------------


def test_embedded_set_is_the_golden_stratified_subset():
    dataset = data.load("fashion_mnist_5k")
    assert dataset.info == data.DatasetInfo(
        name="fashion_mnist_5k",
        num_classes=10,
        class_names=fashion_mnist.CLASS_NAMES,
        num_train=5000,
        num_test=2000,
        image_shape=(32, 32, 1),
        license="MIT, copyright 2017 Zalando SE",
    )
    digest = hashlib.sha256()
    for split, per_class in (("train", 500), ("test", 200)):
        images, labels = dataset.raw(split, 10_000)
        assert images.dtype == np.uint8 and labels.dtype == np.int32
        assert np.bincount(labels).tolist() == [per_class] * 10
        inner = images[:, 2:30, 2:30]
        assert images.sum() == inner.sum()  # the border is black
        digest.update(inner.tobytes() + labels.astype(np.uint8).tobytes())
        if split == "train":
            assert inner.mean() / 255 == pytest.approx(0.2860, abs=0.003)
            assert inner.std() / 255 == pytest.approx(0.3530, abs=0.003)
    assert digest.hexdigest() == EMBEDDED_SHA256


def test_embedded_file_is_small_and_has_its_license():
    folder = importlib.resources.files("str_keras.data") / "embedded"
    assert len((folder / fashion_mnist.EMBEDDED_FILE).read_bytes()) < 5_000_000
    text = (folder / "LICENSE.fashion_mnist").read_text()
    assert "MIT License" in text and "Copyright (c) 2017 Zalando SE" in text


@pytest.mark.slow
def test_tool_writes_a_stratified_subset(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 5200), ("t10k", 2100)):
        images = np.zeros((count, 28, 28), np.uint8)
        images[:, 0, :2] = np.arange(count)[:, None] // [1, 256] % 256
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images)
        labels = random.permutation(np.arange(count) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", labels)
    command = [sys.executable, str(ROOT / "tools" / "embed_fashion_mnist.py")]
    command += [f"--source_dir={tmp_path}", f"--output={tmp_path / 'subset.npz'}"]
    result = run_python(command)
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "subset.npz") as archive:
        subset = dict(archive)
    numbered = subset["train_images"][:, 0, :2].astype(int) @ [1, 256]
    assert len(set(numbered)) == 5000
    assert np.bincount(subset["train_labels"]).tolist() == [500] * 10
    assert np.bincount(subset["test_labels"]).tolist() == [200] * 10
    sources = fashion_mnist.read_folder(tmp_path)
    np.testing.assert_array_equal(sources["train"][1][numbered], subset["train_labels"])

    missing = run_python([*command[:2], f"--source_dir={tmp_path / 'nowhere'}"])
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr and "Cannot read" in missing.stderr


def run_python(command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment
    )


# --- order and determinism ----------------------------------------------------------


def digest_of_epoch(augment):
    dataset = data.load("fashion_mnist_5k", augment=augment, seed=11)
    digest = hashlib.sha256()
    for images, labels in dataset.train(3, 500).take(2):
        digest.update(images.numpy().tobytes() + labels.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("augment", ["none", "crop_flip", "imagenet"])
def test_an_epoch_is_a_function_of_seed_and_epoch(augment):
    dataset = data.load("fashion_mnist_5k", augment=augment, seed=11)

    def first(dataset, epoch):
        return next(iter(dataset.train(epoch, 64)))

    images, labels = first(dataset, 3)
    again = first(data.load("fashion_mnist_5k", augment=augment, seed=11), 3)
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert images.shape == (64, 32, 32, 1) and images.dtype == tf.float32
    assert labels.shape == (64,) and labels.dtype == tf.int32
    other_seed = data.load("fashion_mnist_5k", augment=augment, seed=12)
    for other in (first(dataset, 4), first(other_seed, 3)):
        assert not np.array_equal(labels, other[1])


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_epoch_and_no_tfds():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import test_data as t;"
        "print(*[t.digest_of_epoch(a) for a in ('none', 'crop_flip', 'imagenet')]);"
        "print('tensorflow_datasets' in sys.modules)"
    )
    result = run_python([sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    *digests, has_tfds = result.stdout.split()
    assert digests == [digest_of_epoch(a) for a in ("none", "crop_flip", "imagenet")]
    assert has_tfds == "False"


@pytest.mark.parametrize("augment", ["none", "crop_flip", "imagenet"])
def test_augmentation_follows_the_image_not_its_place(tmp_path, augment):
    """The same seed and epoch in batches of another size: the same pictures."""
    write_fashion_mnist(tmp_path, num_train=40)
    dataset = data.load("fashion_mnist", data_dir=tmp_path, augment=augment)
    one, two = (concatenated(dataset.train(1, size)) for size in (4, 20))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert (len(np.unique(one[0], axis=0)) == 40) or augment != "none"


def test_an_epoch_visits_every_image_once(numbered):
    assert numbered.steps_per_epoch(11) == 4
    images, labels = concatenated(numbered.train(0, 11))
    order = numbers(images)
    assert sorted(order) == list(range(44))
    assert order != sorted(order)
    assert [n % 10 for n in order] == labels.tolist()

    # What does not fill a batch is left out, and is not the same in every epoch.
    assert numbered.steps_per_epoch(20) == 2
    left_out = set()
    for epoch in range(4):
        visited = numbers(concatenated(numbered.train(epoch, 20))[0])
        assert len(set(visited)) == 40
        left_out |= set(range(44)) - set(visited)
    assert len(left_out) > 4


def test_permutation_is_even():
    """Over many keys each of 5 places gets each number about equally often."""
    places = np.stack([order.permutation(5, key) for key in range(5000)])
    counts = np.stack([np.bincount(column, minlength=5) for column in places.T])
    assert np.abs(counts - 1000).max() < 150  # 5 standard deviations
    assert (np.sort(places) == np.arange(5)).all()


def test_evaluation_is_complete_and_in_order(numbered):
    parts = batches(numbered.evaluation(10))
    assert [len(labels) for _, labels in parts] == [10, 10, 3]
    images, labels = concatenated(numbered.evaluation(10))
    assert numbers(images) == list(range(23))
    assert labels.tolist() == [n % 10 for n in range(23)]
    raw, raw_labels = numbered.raw("test", 6, offset=20)
    assert raw.shape == (3, 32, 32, 1) and raw_labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(numbered.preprocessing.normalize(raw), images[20:])


# --- sharding -----------------------------------------------------------------------


def contexts(pipelines, replicas):
    return [
        tf.distribute.InputContext(pipelines, i, replicas) for i in range(pipelines)
    ]


@pytest.mark.parametrize("augment", ["none", "crop_flip", "imagenet"])
@pytest.mark.parametrize("replicas", [2, 4])
def test_two_pipelines_together_are_one(tmp_path, augment, replicas):
    write_fashion_mnist(tmp_path)
    dataset = data.load("fashion_mnist", data_dir=tmp_path, augment=augment)
    whole = batches(dataset.train(5, 8))
    parts = [batches(dataset.train(5, 8, c)) for c in contexts(2, replicas)]
    per_step = replicas // 2
    assert [len(p) for p in parts] == [len(whole) * per_step] * 2
    for step, (images, labels) in enumerate(whole):
        elements = [
            element
            for part in parts
            for element in part[step * per_step : (step + 1) * per_step]
        ]
        assert {len(e[1]) for e in elements} == {8 // replicas}
        np.testing.assert_array_equal(np.concatenate([e[0] for e in elements]), images)
        np.testing.assert_array_equal(np.concatenate([e[1] for e in elements]), labels)


def test_sharded_evaluation_is_disjoint_and_complete(numbered):
    shards = [concatenated(numbered.evaluation(8, c))[0] for c in contexts(2, 2)]
    assert sorted(numbers(np.concatenate(shards))) == list(range(23))
    assert [len(shard) for shard in shards] == [12, 11]


def test_sharding_and_threads_are_left_to_us(numbered):
    policies = tf.data.experimental.AutoShardPolicy
    for context, policy in ((contexts(2, 2)[0], policies.OFF), (None, policies.DATA)):
        for dataset in (numbered.train(0, 4, context), numbered.evaluation(4, context)):
            distribute = dataset.options().experimental_distribute
            assert distribute.auto_shard_policy == policy
            assert dataset.options().deterministic
            assert dataset.options().autotune.enabled is False


def test_mirrored_strategy_reads_both_ways_alike(numbered, mirrored):
    whole = batches(numbered.train(0, 8))
    split = mirrored.experimental_distribute_dataset(numbered.train(0, 8))
    own = mirrored.distribute_datasets_from_function(
        lambda context: numbered.train(0, 8, context)
    )
    for distributed in (split, own):
        steps = 0
        for (images, labels), expected in zip(distributed, whole, strict=True):
            local = mirrored.experimental_local_results(images)
            assert [len(part) for part in local] == [4, 4]
            np.testing.assert_array_equal(np.concatenate(local), expected[0])
            local = mirrored.experimental_local_results(labels)
            np.testing.assert_array_equal(np.concatenate(local), expected[1])
            steps += 1
        assert steps == 5


# --- augmentation -------------------------------------------------------------------


def test_crop_flip_equals_numpy():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 12, 10, 3), np.uint8)
    draws = random.random((64, 3), np.float32)
    draws[0], draws[1] = 0.0, np.nextafter(np.float32(1), np.float32(0))
    result = augment.crop_flip(tf.constant(images), tf.constant(draws)).numpy()
    corners = set()
    for image, (u, v, w), found in zip(images, draws, result, strict=True):
        top, left = math.floor(u * 9), math.floor(v * 9)
        corners |= {top, left}
        padded = np.pad(image, [(4, 4), (4, 4), (0, 0)])
        expected = padded[top : top + 12, left : left + 10]
        np.testing.assert_array_equal(found, expected[:, ::-1] if w < 0.5 else expected)
    assert corners == set(range(9))


def reference_crop_box(height, width, draws):
    """torchvision's RandomResizedCrop.get_params, with its random numbers given."""
    f = np.float32
    areas, aspects = draws[:10], draws[10:20]
    for u, v in zip(areas, aspects, strict=True):
        area = f(height) * f(width) * (f(0.08) + u * f(1.0 - 0.08))
        low, high = math.log(3 / 4), math.log(4 / 3)
        aspect = np.exp(f(low) + v * f(high - low))
        w, h = (
            round(float(np.sqrt(area * aspect))),
            round(float(np.sqrt(area / aspect))),
        )
        if 0 < w <= width and 0 < h <= height:
            top, left = (
                int(draws[20] * (height - h + 1)),
                int(draws[21] * (width - w + 1)),
            )
            return top, left, h, w
    ratio = width / height
    w, h = width, height
    if ratio < 3 / 4:
        h = round(w / (3 / 4))
    elif ratio > 4 / 3:
        w = round(h * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def crop_boxes(height, width, draws):
    @tf.function
    def boxes(draws):
        return tf.map_fn(
            lambda d: augment.sample_crop_box(height, width, d),
            draws,
            fn_output_signature=tf.int32,
        )

    return boxes(tf.constant(draws)).numpy()


BOX_SIZES = [(375, 500), (500, 333), (224, 224), (32, 32), (40, 900), (900, 40), (1, 1)]


@pytest.mark.parametrize("size", BOX_SIZES)
def test_crop_box_equals_torchvisions_rule(size):
    height, width = size
    draws = np.random.default_rng(1).random((300, 23), np.float32)
    boxes = crop_boxes(height, width, draws)
    expected = np.array([reference_crop_box(height, width, d) for d in draws])
    # Where float32 rounding meets a tie, one pixel may differ.
    assert np.abs(boxes - expected).max() <= 1
    assert (boxes == expected).all(axis=1).mean() > 0.99
    top, left, h, w = boxes.T
    assert (h >= 1).all() and (w >= 1).all() and (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()


def test_crop_box_statistics():
    """Area uniform over 8 to 100 %, aspect log-uniform over 3/4 to 4/3 ."""
    draws = np.random.default_rng(2).random((4000, 23), np.float32)
    boxes = crop_boxes(1000, 1000, draws)
    _, _, h, w = boxes.T.astype(float)
    area, aspect = h * w / 1e6, w / h
    assert 0.079 < area.min() < 0.085 and 0.95 < area.max() <= 1
    assert 0.748 < aspect.min() < 0.76 and 1.32 < aspect.max() < 1.336
    expected = np.array([reference_crop_box(1000, 1000, d) for d in draws])
    assert area.mean() == pytest.approx((expected[:, 2] * expected[:, 3]).mean() / 1e6)
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("gray", [False, True])
def test_resized_crop_decodes_only_the_window(gray):
    pixels = photo(151, 203)
    encoded = jpeg(pixels[..., 0] if gray else pixels)
    draws = np.random.default_rng(3).random(23, np.float32)
    for flip in (0.1, 0.9):
        draws[-1] = flip
        result = augment.random_resized_crop(tf.constant(encoded), draws, 64, 3).numpy()
        top, left, h, w = augment.sample_crop_box(151, 203, draws).numpy()
        box = (left, top, left + w, top + h)
        window = Image.open(io.BytesIO(encoded)).convert("RGB").crop(box)
        expected = np.asarray(window.resize((64, 64), Image.Resampling.BILINEAR), float)
        expected = expected[:, ::-1] if flip < 0.5 else expected
        assert (
            np.abs(result - expected).max() <= 3
            and np.abs(result - expected).mean() < 1
        )
        # The same picture as PNG takes the other way through the code.
        file = io.BytesIO()
        Image.open(io.BytesIO(encoded)).save(file, "PNG")
        other = augment.random_resized_crop(tf.constant(file.getvalue()), draws, 64, 3)
        assert np.abs(result - other.numpy()).max() <= 3


# --- preprocessing ------------------------------------------------------------------


def preprocessing(size=224, rule="center_crop", fraction=0.875, channels=3):
    return data.Preprocessing(
        size, rule, fraction, (0.5,) * channels, (0.5,) * channels
    )


@pytest.mark.parametrize("height,width", [(375, 500), (500, 333), (256, 257), (90, 61)])
@pytest.mark.parametrize("size", [224, 64])
def test_center_crop_equals_pil(height, width, size):
    pixels = photo(height, width)
    short = round(size / 0.875)
    scaled = [int(short * side / min(height, width)) for side in (width, height)]
    image = Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2) for side in scaled)
    expected = np.asarray(image.crop((left, top, left + size, top + size)), float)
    rule = preprocessing(size)
    result = rule.resize(pixels[None]).numpy()[0]
    assert result.shape == (size, size, 3)
    assert np.abs(result - expected).max() <= 1.01  # PIL rounds after each axis
    traced = tf.function(rule.resize).get_concrete_function(
        tf.TensorSpec([None, None, None, 3], tf.uint8)
    )
    np.testing.assert_allclose(traced(tf.constant(pixels[None]))[0], result, atol=1e-3)


@pytest.mark.parametrize(
    "height,width", [(28, 28), (32, 32), (20, 31), (64, 48), (1, 90)]
)
def test_pad_centers_small_and_shrinks_large(height, width):
    pixels = photo(height, width)
    rule = preprocessing(32, "pad")
    result = rule.resize(pixels[None]).numpy()[0]
    long = max(height, width, 32)
    h, w = max(height * 32 // long, 1), max(width * 32 // long, 1)
    inner = Image.fromarray(pixels).resize((w, h), Image.Resampling.BILINEAR)
    expected = np.zeros((32, 32, 3))
    top, left = (32 - h) // 2, (32 - w) // 2
    expected[top : top + h, left : left + w] = np.asarray(inner)
    assert np.abs(result - expected).max() <= (1.01 if long > 32 else 0)
    traced = tf.function(rule.resize).get_concrete_function(
        tf.TensorSpec([None, None, None, 3], tf.uint8)
    )
    np.testing.assert_allclose(traced(tf.constant(pixels[None]))[0], result, atol=1e-3)


def test_images_of_the_right_size_are_left_alone():
    pixels = photo(32, 32)[None]
    for rule in (preprocessing(32, fraction=1.0), preprocessing(32, "pad")):
        np.testing.assert_array_equal(rule.resize(pixels), pixels.astype(np.float32))
    with pytest.raises(ValueError, match=r"shape \[batch, height, width, 3\]"):
        preprocessing(32).resize(pixels[..., :1])


def test_normalize_equals_numpy_and_json_round_trip():
    rule = data.Preprocessing(
        8, "pad", 1.0, tuple(IMAGENET_MEAN.tolist()), tuple(IMAGENET_STD.tolist())
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    expected = (pixels / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(rule.normalize(pixels), expected, atol=1e-6)
    np.testing.assert_array_equal(
        rule.normalize(pixels), rule.normalize(pixels.astype(np.float32))
    )
    fields = json.loads(json.dumps(rule.to_json()))
    assert data.Preprocessing.from_json(fields) == rule
    with pytest.raises(ValueError, match="exactly the fields"):
        data.Preprocessing.from_json({**fields, "zoom": 2})


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"resize_rule": "zoom"},
        {"crop_fraction": 1.5},
        {"std": (0.0,)},
        {"std": (float("inf"),)},
        {"std": (float("nan"),)},
        {"mean": (float("nan"),)},
    ],
)
def test_preprocessing_refuses(change):
    fields = preprocessing(channels=1).to_json()
    with pytest.raises(ValueError, match="Received: "):
        data.Preprocessing.from_json({**fields, **change})


# --- TFDS ---------------------------------------------------------------------------


def class_color(label):
    return [(230, 20, 20), (20, 230, 20), (20, 20, 230)][label]


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    """Three sets in TFDS' own format: large JPEG, small PNG, and with a bad label."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    random = np.random.default_rng(0)

    def store(name, image, splits):
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=3)}
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets=splits,
            data_dir=folder,
        )

    def colored(count, shape):
        """The color tells the label; brightness of a corner tells the number."""
        for number in range(count):
            height, width = shape or random.integers(40, 90, 2)
            pixels = np.empty((height, width, 3), np.uint8)
            pixels[:] = class_color(number % 3)
            yield number, {"image": pixels, "label": number % 3}

    large = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    store(
        "large_photos",
        large,
        {"train": list(colored(30, None)), "validation": list(colored(11, None))},
    )
    small = tfds.features.Image(shape=(32, 32, 3), encoding_format="png")
    store(
        "small_photos",
        small,
        {"train": list(colored(30, (32, 32))), "test": list(colored(11, (32, 32)))},
    )
    sentences = [(0, {"image": "a cat", "label": 0})]
    store("sentences", tfds.features.Text(), {"train": sentences, "test": sentences})
    store("only_train", small, {"train": list(colored(3, (32, 32)))})
    unlabeled = [(0, {"image": photo(40, 40), "label": -1})]
    store("unlabeled", large, {"train": unlabeled, "test": unlabeled})
    return folder


def color_labels(images):
    """The label that `class_color` painted, read off normalized images."""
    pixels = images * IMAGENET_STD + IMAGENET_MEAN
    return pixels.mean(axis=(1, 2)).argmax(-1)


@pytest.mark.parametrize(
    "name,size,augmented",
    [("tfds:large_photos", 224, "imagenet"), ("small_photos", 32, "crop_flip")],
)
def test_prepared_tfds_set_by_name(tfds_dir, name, size, augmented):
    dataset = data.load(name, data_dir=tfds_dir)
    assert dataset.info.image_shape == (size, size, 3)
    assert (dataset.info.num_train, dataset.info.num_test) == (30, 11)
    assert dataset.info.class_names == ("0", "1", "2")
    assert dataset.augment == augmented
    images, labels = concatenated(dataset.train(0, 6))
    assert images.shape == (30, size, size, 3) and labels.dtype == np.int32
    np.testing.assert_array_equal(color_labels(images), labels)
    assert np.bincount(labels).tolist() == [10, 10, 10]
    again = concatenated(data.load(name, data_dir=tfds_dir).train(0, 6))
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    other = concatenated(dataset.train(1, 6))
    assert not np.array_equal(labels, other[1])

    images, labels = concatenated(dataset.evaluation(4))
    np.testing.assert_array_equal(color_labels(images), labels)
    assert np.bincount(labels).tolist() == [4, 4, 3]
    raw, raw_labels = dataset.raw("test", 5, offset=2)
    np.testing.assert_array_equal(raw_labels, labels[2:7])
    normalized = dataset.preprocessing.normalize(raw)
    assert np.abs(normalized - images[2:7]).max() < 0.51 / 255 / 0.224


def test_tfds_stream_iterates_alike_and_is_sharded(tfds_dir):
    dataset = data.load("large_photos", data_dir=tfds_dir, image_size=16)
    epoch = dataset.train(2, 6)
    for one, two in zip(batches(epoch), batches(epoch), strict=True):
        np.testing.assert_array_equal(one[0], two[0])
    # Augmentation goes with the image: another batch size changes order at most.
    rows = [
        np.unique(concatenated(dataset.train(2, size))[0].reshape(30, -1), axis=0)
        for size in (6, 10)
    ]
    np.testing.assert_array_equal(*rows)
    whole, _ = concatenated(dataset.evaluation(6))
    shards = [concatenated(dataset.evaluation(6, c)) for c in contexts(2, 2)]
    assert [len(labels) for _, labels in shards] == [6, 5]
    together = np.concatenate([images for images, _ in shards])
    np.testing.assert_array_equal(
        np.unique(together.reshape(11, -1), axis=0),
        np.unique(whole.reshape(11, -1), axis=0),
    )
    trained = [concatenated(dataset.train(0, 6, c))[1] for c in contexts(2, 2)]
    assert [len(labels) for labels in trained] == [15, 15]
    assert np.bincount(np.concatenate(trained)).tolist() == [10, 10, 10]


def test_label_out_of_range_is_an_error(tfds_dir):
    dataset = data.load("unlabeled", data_dir=tfds_dir)
    with pytest.raises(tf.errors.InvalidArgumentError, match="label out of 0 to 2"):
        batches(dataset.evaluation(1))
    images = np.zeros((2, 4, 4, 1), np.uint8)
    arrays = {split: (images, np.array([0, 3])) for split in ("train", "test")}
    with pytest.raises(ValueError, match="labels must be in 0 to 2"):
        ArraySource("own", arrays, ("a", "b", "c"), "none")


def test_imagenet2012_mocked(tmp_path):
    """The real builder's features, with random JPEGs in place of its files."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("imagenet2012", data_dir=tmp_path)
    builder.info.set_splits(
        tfds.core.SplitDict(
            [
                tfds.core.SplitInfo(
                    name=name,
                    shard_lengths=[8],
                    num_bytes=1,
                    filename_template=tfds.core.ShardedFileTemplate(
                        data_dir=builder.data_path,
                        dataset_name="imagenet2012",
                        split=name,
                        filetype_suffix="tfrecord",
                    ),
                )
                for name in ("train", "validation", "test")
            ]
        )
    )
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)
    with tfds.testing.mock_data(num_examples=8, data_dir=str(tmp_path)):
        dataset = data.load("imagenet2012", data_dir=tmp_path)
        assert dataset.info.num_classes == 1000
        assert dataset.info.image_shape == (224, 224, 3)
        assert dataset.augment == "imagenet"
        assert dataset._source._splits["test"] == "validation"
        rule = dataset.preprocessing
        assert (rule.resize_rule, rule.crop_fraction) == ("center_crop", 0.875)
        np.testing.assert_allclose((rule.mean, rule.std), (IMAGENET_MEAN, IMAGENET_STD))
        one, two = (concatenated(dataset.train(0, 4)) for _ in range(2))
        assert one[0].shape == (8, 224, 224, 3)
        np.testing.assert_array_equal(one[0], two[0])
        images, labels = concatenated(dataset.evaluation(8))
        assert images.shape == (8, 224, 224, 3)
        assert ((labels >= 0) & (labels < 1000)).all()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.slow
def test_imagenet2012_prepared_from_the_archives(tmp_path):
    """TFDS' own builder, from archives in the layout of ImageNet's."""
    import tensorflow_datasets as tfds

    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    builder = tfds.builder("imagenet2012", data_dir=tmp_path)
    synsets = builder.info.features["label"].names[:3]
    classes = {}
    for label, synset in enumerate(synsets):
        pixels = np.empty((60, 80, 3), np.uint8)
        pixels[:] = class_color(label)
        names = [f"{synset}_{number}.JPEG" for number in range(4)]
        write_tar(tmp_path / "class.tar", dict.fromkeys(names, jpeg(pixels)))
        classes[f"{synset}.tar"] = (tmp_path / "class.tar").read_bytes()
    write_tar(manual / "ILSVRC2012_img_train.tar", classes)
    validation = {f"ILSVRC2012_val_{n:08}.JPEG": jpeg(photo(70, 50, n)) for n in (1, 2)}
    write_tar(manual / "ILSVRC2012_img_val.tar", validation)
    write_tar(manual / "ILSVRC2012_img_test.tar", validation)
    builder.download_and_prepare(download_dir=str(tmp_path / "downloads"))

    dataset = data.load("imagenet2012", data_dir=tmp_path)
    assert (dataset.info.num_train, dataset.info.num_test) == (12, 2)
    assert dataset.info.class_names[:3] == tuple(synsets)
    images, labels = concatenated(dataset.train(0, 4))
    np.testing.assert_array_equal(color_labels(images), labels)
    assert np.bincount(labels).tolist() == [4, 4, 4]
    pixels, labels = dataset.raw("test", 2)
    assert pixels.shape == (2, 224, 224, 3) and (labels >= 0).all()
    # The rule of evaluation on a picture of the archive, by way of PIL.
    file = io.BytesIO(validation["ILSVRC2012_val_00000001.JPEG"])
    image = Image.open(file).resize((256, 358), Image.Resampling.BILINEAR)
    expected = np.asarray(image.crop((16, 67, 240, 291)), int)
    assert min(np.abs(picture - expected).max() for picture in pixels) <= 2


# --- folders ------------------------------------------------------------------------


def write_folder(root, classes=("cat", "dog", "owl"), test="test", count=6):
    for split in ("train", test):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.empty((50 + number, 64, 3), np.uint8)
                pixels[:] = class_color(label)
                suffix = ("jpg", "png", "bmp", "gif")[number % 4]
                Image.fromarray(pixels).save(folder / f"{number}.{suffix}")
            (folder / "notes.txt").write_text("not an image")
            (folder / ".hidden.jpg").write_text("not an image")


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_folder_of_images(tmp_path, test):
    write_folder(tmp_path / "pets", test=test)
    dataset = data.load("folder:pets", data_dir=tmp_path, image_size=32)
    assert dataset.info.class_names == ("cat", "dog", "owl")
    assert (dataset.info.num_train, dataset.info.num_test) == (18, 18)
    for augmented in ("imagenet", "crop_flip", "none"):
        dataset = data.load(
            f"folder:{tmp_path / 'pets'}", image_size=32, augment=augmented
        )
        images, labels = concatenated(dataset.train(0, 9))
        np.testing.assert_array_equal(color_labels(images), labels)
        assert np.bincount(labels).tolist() == [6, 6, 6]
    images, labels = concatenated(dataset.evaluation(7))
    np.testing.assert_array_equal(color_labels(images), labels)
    assert len(set(dataset.raw("test", 8)[1])) == 3  # not all of the first class
    gray = data.load("folder:pets", data_dir=tmp_path, image_size=16, channels=1)
    assert concatenated(gray.train(0, 6))[0].shape == (18, 16, 16, 1)


def test_folder_with_trailing_bytes_is_read(tmp_path):
    """Cameras append data to a JPEG; that is no damage."""
    write_folder(tmp_path, count=1)
    path = tmp_path / "train" / "cat" / "0.jpg"
    path.write_bytes(path.read_bytes() + b"maker note")
    assert data.load(f"folder:{tmp_path}").info.num_train == 3


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


BAD_FOLDERS = {
    "no test folder": (lambda p: shutil.rmtree(p / "test"), "folder of images needs"),
    "no train folder": (lambda p: shutil.rmtree(p / "train"), "folder of images needs"),
    "no classes": (
        lambda p: [shutil.rmtree(f) for f in (p / "train").iterdir()],
        r"none in .*train",
    ),
    "empty class": (
        lambda p: [f.unlink() for f in (p / "test/dog").glob("*.*")],
        r"none in .*test.dog",
    ),
    "other classes": (lambda p: (p / "test/dog").rename(p / "test/fox"), "dog, fox"),
    "truncated": (lambda p: truncate(p / "train/dog/0.jpg"), r"train.dog.0\.jpg"),
    "truncated png": (lambda p: truncate(p / "train/dog/1.png"), r"train.dog.1\.png"),
    "empty file": (lambda p: (p / "test/cat/0.jpg").write_bytes(b""), r"cat.0\.jpg"),
    "text": (lambda p: (p / "test/owl/1.png").write_text("x" * 99), r"owl.1\.png"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folder_is_named(tmp_path, case):
    write_folder(tmp_path, count=2)
    spoil, message = BAD_FOLDERS[case]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        data.load(f"folder:{tmp_path}")
    assert "\n" not in str(error.value)


def spoil_inside(path):
    """The bytes of the pixels; both ends, which are looked at first, stay."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 3 : -20] = bytes(len(whole[len(whole) // 3 : -20]))
    path.write_bytes(whole)


def test_corrupt_images_are_skipped_with_a_count(tmp_path, capsys):
    write_folder(tmp_path, count=3)
    truncate(tmp_path / "train/dog/0.jpg")
    spoil_inside(tmp_path / "train/owl/1.png")
    name = f"folder:{tmp_path}"
    dataset = data.load(name, image_size=32, corrupt_images="skip")
    said = capsys.readouterr().err
    assert "warning: 2 of 9 images cannot be read" in said and "dog/0.jpg" in said
    assert (dataset.info.num_train, dataset.info.num_test) == (7, 9)
    images, labels = concatenated(dataset.train(0, 7))
    np.testing.assert_array_equal(color_labels(images), labels)
    assert np.bincount(labels).tolist() == [3, 2, 2]
    assert dataset.fingerprint()["train, left out"] == "2 images"
    for file in (tmp_path / "train" / "dog").glob("[0-9]*"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"No image of a class can be read: .*dog"):
        data.load(name, corrupt_images="skip")


def test_damage_inside_of_an_image_is_found_by_decoding_all(tmp_path):
    write_folder(tmp_path, count=3)
    dataset = data.load(f"folder:{tmp_path}", image_size=32)
    nothing = tf.errors.InvalidArgumentError(None, None, "of another kind")
    assert dataset.explain(nothing) == ""
    spoil_inside(tmp_path / "test/owl/1.png")
    said = data.load(f"folder:{tmp_path}", image_size=32).explain(nothing)
    assert "owl/1.png (" in said and "corrupt_images=skip" in said


CHANGES = {
    "another size": lambda p: (p / "train/dog/0.jpg").write_bytes(b"x" * 9),
    "another name": lambda p: (p / "train/dog/0.jpg").rename(p / "train/dog/a.jpg"),
    "one more": lambda p: shutil.copy(p / "train/dog/0.jpg", p / "train/dog/b.jpg"),
    "one less": lambda p: (p / "train/dog/0.jpg").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_of_a_folder_tells_its_files(tmp_path, change):
    write_folder(tmp_path, count=3)
    before = data.load(f"folder:{tmp_path}").fingerprint()
    assert before == data.load(f"folder:{tmp_path}", channels=1).fingerprint()
    assert before["test/owl"].startswith("3 files, sha256:") and len(before) == 7
    CHANGES[change](tmp_path)
    after = data.load(f"folder:{tmp_path}", corrupt_images="skip").fingerprint()
    assert {k for k in before if before[k] != after[k]} == {"train/dog"}


def test_the_fingerprint_of_arrays_tells_pixels_and_labels():
    images = np.zeros((2, 4, 4, 1), np.uint8)

    def fingerprint(images, labels):
        split = images, np.array(labels)
        arrays = {"train": split, "test": (images[:1] * 0, np.array([0]))}
        return ArraySource("own", arrays, ("a", "b"), "none").fingerprint()

    plain = fingerprint(images, [0, 1])
    assert plain == fingerprint(images.copy(), [0, 1])
    for other in (fingerprint(images, [1, 0]), fingerprint(images + 1, [0, 1])):
        assert plain["train"] != other["train"] and plain["test"] == other["test"]


def test_the_fingerprint_of_a_streamed_set_tells_its_files(tfds_dir, tmp_path):
    folder = tmp_path / "tfds"
    shutil.copytree(tfds_dir, folder)
    before = data.load("large_photos", data_dir=folder).fingerprint()
    assert before["version"] == "large_photos/1.0.0"
    assert before["train"].startswith("30 images, sha256:")
    (record,) = folder.glob("large_photos/1.0.0/*-train.tfrecord*")
    record.write_bytes(record.read_bytes() + b"x")
    after = data.load("large_photos", data_dir=folder).fingerprint()
    assert {k for k in before if before[k] != after[k]} == {"train"}


# --- Fashion-MNIST from idx files, defaults, bad input ------------------------------


def test_full_fashion_mnist_from_idx_files(numbered):
    assert (numbered.info.num_train, numbered.info.num_test) == (44, 23)
    assert numbered.info.image_shape == (32, 32, 1)
    assert numbered.augment == "none"
    images, labels = numbered.raw("train", 3, offset=41)
    assert images[:, 2, 2, 0].tolist() == [41, 42, 43] and labels.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "image_size,rule", [(28, "pad"), (40, "pad"), (64, "center_crop")]
)
@pytest.mark.parametrize("channels", [None, 3])
def test_image_size_and_channels(image_size, rule, channels):
    dataset = data.load("fashion_mnist_5k", image_size=image_size, channels=channels)
    shape = (image_size, image_size, channels or 1)
    assert dataset.info.image_shape == shape
    assert dataset.preprocessing.resize_rule == rule
    assert dataset.preprocessing.mean == (0.2860,) * shape[-1]
    images, _ = next(iter(dataset.train(0, 4)))
    assert images.shape == (4, *shape)
    np.testing.assert_array_equal(images[..., 0], images[..., -1])


DAMAGES = {
    "not gzip": lambda p: p.write_bytes(b"plain"),
    "cut gzip": lambda p: p.write_bytes(p.read_bytes()[:-9]),
    "not idx": lambda p: p.write_bytes(gzip.compress(b"plain text")),
    "short": lambda p: p.write_bytes(
        gzip.compress(gzip.decompress(p.read_bytes())[:-1])
    ),
    "fewer labels": lambda p: write_idx(p, np.zeros(7, np.uint8)),
    "wrong labels": lambda p: write_idx(p, np.full(44, 10, np.uint8)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_idx_files(tmp_path, damage):
    write_fashion_mnist(tmp_path)
    DAMAGES[damage](tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(ValueError, match=r"Received: |Cannot read") as error:
        data.load("fashion_mnist", data_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_missing_full_fashion_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(data.DatasetNotFoundError, match="apt-get install"):
        data.load("fashion_mnist", data_dir=tmp_path)
    with pytest.raises(data.DatasetNotFoundError, match="fashion_mnist_5k"):
        data.load("fashion_mnist")


MISSING = {
    "nonsense": "Unknown data set",
    "cifar": "Did you mean cifar10",
    "": "Unknown data set",
    "../x": "Unknown data set",
    "cifar10": "run `tfds build cifar10 --data_dir=",
    "tfds:mnist": "run `tfds build mnist --data_dir=",
    "cifar10:9.9.9": "only: 3.0.2",
    "cifar10/bad": "BuilderConfig bad not found",
    "huggingface:mnist": "Unknown data set",
    "imagenet2012": r"ILSVRC2012_img_train.tar .*downloads/manual, then run `tfds ",
    "diabetic_retinopathy_detection": "downloads/manual, then run `tfds build",
    "folder:nowhere": "PATH/train/CLASS",
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_data_set_says_what_to_run(tmp_path, name, capfd):
    with pytest.raises(data.DatasetNotFoundError, match=MISSING[name]) as error:
        data.load(name, data_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__ or error.value.__context__ is None
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "name,message",
    [("only_train", "needs the splits"), ("sentences", "image and a class label")],
)
def test_tfds_set_of_another_kind(tfds_dir, name, message):
    with pytest.raises(ValueError, match=message):
        data.load(name, data_dir=tfds_dir)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"image_size": 0},
        {"image_size": -32},
        {"image_size": 32.0},
        {"augment": "cutout"},
        {"seed": -1},
        {"channels": 2},
        {"corrupt_images": "skip"},
        {"corrupt_images": "ignore"},
    ],
)
def test_load_refuses(kwargs):
    with pytest.raises(ValueError, match="Received: "):
        data.load("fashion_mnist_5k", **kwargs)


def test_batches_refuse(numbered):
    context = contexts(2, 4)[0]
    for call in (
        lambda: numbered.steps_per_epoch(45),
        lambda: numbered.steps_per_epoch(0),
        lambda: numbered.train(0, 0),
        lambda: numbered.train(-1, 4),
        lambda: numbered.train(0, 6, context),
        lambda: numbered.evaluation(0),
        lambda: numbered.raw("valid", 3),
        lambda: numbered.raw("test", 0),
        lambda: numbered.raw("test", 3, offset=23),
    ):
        with pytest.raises(ValueError, match="Received: "):
            call()
