"""TFLite: what fails somewhere, or proves wrong, is not written."""

import importlib
import json

import keras
import numpy as np
import pytest
from export_models import sparse_cnn

from str_keras import data, export
from str_keras.export import flatbuffer
from str_keras.export import verify as verification

layers = keras.layers
writing = importlib.import_module("str_keras.export.writing")


@pytest.fixture(scope="module")
def dataset():
    return data.load("fashion_mnist_5k")


@pytest.fixture(scope="module")
def images(dataset):
    return dataset.raw("test", 48)


@pytest.fixture(scope="module")
def calibration(dataset):
    return dataset.raw("train", 64)[0]


REFUSED = {
    "dynamic": ({"weights": "dynamic"}, ValueError, "does not load"),
    "unknown weights": ({"weights": "int4"}, ValueError, "one of"),
    "int8 sparse": (
        {"weights": "int8", "sparse": True},
        export.ExportError,
        "int8_weights",
    ),
    "download, dense": ({"smallest": "download"}, ValueError, "sparse=True"),
    "smallest of all": ({"smallest": "zip"}, ValueError, "one of"),
    "int8 uncalibrated": ({"weights": "int8"}, ValueError, "calibration"),
    "batch 0": ({"batch_size": 0}, ValueError, "batch_size"),
    "batch 1.5": ({"batch_size": 1.5}, ValueError, "batch_size"),
    "uint8 alone": ({"uint8_input": True}, ValueError, "preprocessing"),
    "other size": ({"images": np.zeros((2, 28, 28, 1))}, ValueError, "32, 32, 1"),
    "no image": ({"images": np.zeros((0, 32, 32, 1))}, ValueError, "n > 0"),
    "names": ({"class_names": ["a", "b"]}, ValueError, "10 outputs"),
    "labels": ({"labels": np.zeros(3)}, ValueError, "labels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_arguments_are_refused_before_writing(tmp_path, case):
    arguments, kind, said = REFUSED[case]
    with pytest.raises(kind, match=said) as caught:
        export.tflite(sparse_cnn(), tmp_path / "model.tflite", **arguments)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(1,), (3, 4), (1, 1, 4)])
def test_labels_of_a_model_that_gives_no_vector_of_classes(tmp_path, shape):
    """They were compared with what argmax gives: an accuracy that means nothing."""
    inputs = keras.Input((8,))
    x = layers.Dense(int(np.prod(shape)))(inputs)
    model = keras.Model(inputs, layers.Reshape(shape)(x))
    given = {"images": np.zeros((3, 8), "float32"), "labels": np.zeros(3, int)}
    for write in (export.tflite, export.saved_model):
        with pytest.raises(ValueError, match="two classes or more") as caught:
            write(model, tmp_path / "m.tflite", **given)
        assert str((None, *shape)) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_pointwise_head_is_rewritten_in_a_sparse_file_alone(tmp_path):
    model, path = sparse_cnn("conv"), tmp_path / "model.tflite"
    report = export.tflite(model, path, sparse=True)
    (line,) = report.rewritten
    assert "flattened before the head" in line
    assert "flattened before the head (1)" in export.report_table([report])
    assert json.loads(path.with_suffix(".json").read_text())["rewritten"] == [line]
    assert not export.tflite(model, path, overwrite=True).rewritten


def test_squeeze_and_excitation_is_no_head(tmp_path):
    model = sparse_cnn("squeeze and excitation")
    assert export.tflite(model, tmp_path / "m.tflite", sparse=True).densify_ops > 0


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: "model.keras", "keras.Model"),
        (lambda: keras.Sequential([layers.Dense(2)]), "inputs"),
        (
            lambda: keras.Sequential(
                [keras.Input((None, None, 3)), layers.Conv2D(2, 1)]
            ),
            "fixed size",
        ),
        (
            lambda: keras.Model(
                inputs := [keras.Input((2,)), keras.Input((2,))], layers.Add()(inputs)
            ),
            "2 inputs",
        ),
    ],
    ids=["path", "unbuilt", "free size", "two inputs"],
)
def test_unfit_models(tmp_path, model, said):
    with pytest.raises((TypeError, ValueError), match=said):
        export.tflite(model(), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def corrupt(change):
    """`convert` with its model or its bytes changed on the way."""
    original = writing.convert

    def convert(model, **options):
        if change == "garbage":
            return [b"not a model"] * len(options["encodings"])
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        for weight in copy.weights:
            value = weight.numpy()
            if change == "perturbed" and value.ndim > 1:
                value *= 1.02
            if change == "lost zeros" and value.ndim > 1:
                value[value == 0] = 1e-9  # far below what the outputs show
            if change == "zeros" and value.ndim > 1:
                value *= 0
            if change == "faded" and value.ndim == 2:
                value[:, ::2] *= 0.3
            if change == "not finite" and value.ndim == 2:
                value[0] = np.nan
            weight.assign(value)
        contents = original(copy, **options)
        if change == "truncated":
            return [content[: len(content) // 2] for content in contents]
        return contents

    return convert


@pytest.mark.parametrize(
    ("change", "weights", "said"),
    [
        ("garbage", "float32", "does not run"),
        ("truncated", "float32", "does not run"),
        ("perturbed", "float32", "differs"),
        ("perturbed", "float16", "differs"),
        ("lost zeros", "float32", "zeros were lost"),
        ("not finite", "float32", "not finite"),
        ("zeros", "int8", "times the largest"),
    ],
)
def test_a_file_that_is_wrong_is_deleted(
    tmp_path, monkeypatch, dataset, images, calibration, change, weights, said
):
    path = tmp_path / "model.tflite"
    before = {"model.tflite": b"what was there"} if weights == "float32" else {}
    for name, content in before.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(writing, "convert", corrupt(change))
    with pytest.raises(export.ExportError, match=said) as caught:
        export.tflite(
            sparse_cnn(),
            path,
            weights=weights,
            images=images[0][:16],
            calibration=calibration[:8],
            preprocessing=dataset.preprocessing,
            overwrite=True,
        )
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_accuracy_is_that_of_the_file(tmp_path, monkeypatch):
    """Shown by one that is wrong, and let through: else it is that of Keras."""
    model = sparse_cnn()
    images = np.random.default_rng(0).normal(size=(24, 32, 32, 1)).astype("float32")
    labels = model.predict(images, verbose=0).argmax(1)
    monkeypatch.setattr(writing, "convert", corrupt("faded"))
    report = export.tflite(
        model, tmp_path / "m.tflite", images=images, labels=labels, tolerance=0.99
    )
    assert report.model_top1 == 1.0
    assert report.top1 == report.agreement < 1.0


def test_int8_fails_only_where_it_is_broken():
    reference = 5 + np.random.default_rng(0).normal(size=(40, 10))
    noisy = reference + 0.05 * np.random.default_rng(1).normal(size=(40, 10))
    comparison = verification.compare(noisy, reference)
    exact = np.abs(noisy - reference).max() / np.abs(reference).max()
    assert comparison.difference == pytest.approx(exact)
    verification.check(comparison, "int8")
    for broken, said in [
        (reference * 0, "same outputs"),
        (-reference, "times the largest"),
        (np.roll(reference, 1, axis=1), "of the images only"),
    ]:
        with pytest.raises(export.ExportError, match=said):
            verification.check(verification.compare(broken, reference), "int8")


def test_a_wider_tolerance_is_the_callers_word(tmp_path):
    """Rounding can exceed 5e-3; the message says how often the top-1 is the same."""
    reference = np.random.default_rng(0).normal(size=(40, 10))
    off = reference.copy()
    off[0] += 0.01 * np.abs(reference).max()
    comparison = verification.compare(off, reference)
    with pytest.raises(export.ExportError, match=r"0\.01, above 0\.005 .*100\.00%"):
        verification.check(comparison, "float16")
    verification.check(comparison, "float16", tolerance=0.02)
    with pytest.raises(export.ExportError, match=r"above 0\.0001"):
        verification.check(comparison, "float32")
    with pytest.raises(ValueError, match="tolerance=2"):
        export.tflite(None, tmp_path / "model.tflite", tolerance=2)


def test_existing_files_stay(tmp_path):
    path = tmp_path / "model.tflite"
    for existing in (path, path.with_suffix(".json")):
        existing.write_bytes(b"mine")
        with pytest.raises(FileExistsError, match="overwrite"):
            export.tflite(sparse_cnn(), path)
        assert existing.read_bytes() == b"mine"
        existing.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError, match="directory"):
        export.tflite(sparse_cnn(), path, overwrite=True)


def test_a_file_comes_with_its_json_or_not_at_all(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(writing.targets, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        export.tflite(sparse_cnn(), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        export.tflite(sparse_cnn(), tmp_path / "file" / "model.tflite")


@pytest.mark.parametrize("content", [b"", b"0123TFL3", b"zip" * 100])
def test_reading_what_is_no_tflite(content):
    with pytest.raises(ValueError, match=r"\.tflite"):
        flatbuffer.read_kernels(content)
