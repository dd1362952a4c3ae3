"""Evaluation of every kind of model file on real images, and its command line."""

import json
import re

import keras
import numpy as np
import programs
import pytest
from keras import layers

import str_keras as stk

if keras.backend.backend() != "tensorflow":
    pytest.skip("exported files need TensorFlow", allow_module_level=True)

from str_keras import evaluate, evaluation

IMAGES = 200


@pytest.fixture(scope="module")
def dataset():
    return stk.data.load("fashion_mnist_5k")


@pytest.fixture(scope="module")
def files(dataset, tmp_path_factory):
    """One sparse net, untrained but not random in its answers, in every form."""
    keras.utils.set_random_seed(1)
    root = tmp_path_factory.mktemp("files")
    model = keras.Sequential(
        [
            keras.Input((32, 32, 1)),
            layers.Conv2D(8, 3, strides=4, activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(10, use_bias=False, name="fc"),
        ]
    )
    sparse = stk.sparsify(model, s_init=-3.0)
    sparse.compile(
        stk.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    sparse.fit(dataset.train(0, 100), verbose=0, shuffle=False)
    sparse.save(root / "sparse.keras")
    plain = stk.strip(sparse)
    plain.save(root / "plain.keras")
    images, labels = dataset.raw("test", IMAGES)
    arguments = {
        "images": images,
        "labels": labels,
        "preprocessing": dataset.preprocessing,
    }
    stk.export.tflite(plain, root / "float.tflite", batch_size=None, **arguments)
    stk.export.tflite(plain, root / "pixels.tflite", uint8_input=True, **arguments)
    stk.export.saved_model(
        plain, root / "saved", images=images, preprocessing=dataset.preprocessing
    )
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sparse.keras", "plain.keras", "float.tflite", "pixels.tflite", "saved"]
)
def test_all_forms_have_the_figures_of_the_plain_model(name, files, dataset):
    plain = keras.models.load_model(files / "plain.keras")
    images, labels = dataset.raw("test", IMAGES)
    normalized = dataset.preprocessing.normalize(images)
    logits = plain.predict(normalized, verbose=0).astype(np.float64)
    zeros = [np.array(v) == 0 for v in plain.weights if len(v.shape) > 1]
    found = evaluation.evaluate(evaluation.load(files / name), dataset, 64, IMAGES)
    assert found.images == IMAGES
    assert found.top1 == (logits.argmax(-1) == labels).mean()
    assert 0.3 < found.top1 < found.top5 < 1
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    own = shifted[np.arange(IMAGES), labels] / shifted.sum(-1)
    np.testing.assert_allclose(found.loss, -np.log(own).mean(), rtol=1e-4)
    expected = sum(z.sum() for z in zeros) / sum(z.size for z in zeros)
    assert 0 < expected < 1
    assert found.sparsity == pytest.approx(expected, abs=1e-12)
    assert found.images_per_second > 0


def test_score_by_hand():
    logits = np.array([[2.0, 1, 0, -1, -2, -3], [0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]])
    top1, top5, loss = evaluation.score(logits, np.array([0, 5, 4]))
    # Equal logits rank by number: class 5 is sixth.
    assert (top1, top5) == (1 / 3, 2 / 3)
    sums = [np.exp(row).sum() for row in logits]
    own = [np.exp(2), 1, np.exp(5)]
    assert loss == pytest.approx(-np.mean(np.log(np.divide(own, sums))))
    assert evaluation.score(logits[:, :3], np.array([0, 1, 2]))[1] is None
    assert np.isfinite(evaluation.score(logits * 1e4, np.array([0, 1, 2]))[2])


@pytest.fixture
def command(capsys):
    def call(*arguments):
        return programs.run(evaluate, arguments, capsys)

    return call


@pytest.mark.slow
def test_the_command_prints_and_writes_the_figures(files, command, tmp_path):
    out = tmp_path / "figures.json"
    status, text, _ = command(
        f"--model={files / 'plain.keras'}",
        "--dataset=fashion_mnist_5k",
        f"--num_images={IMAGES}",
        f"--json={out}",
    )
    assert not status
    told = json.loads(out.read_text())
    assert f"top-1     {told['top1']:.4f}" in text and "sparsity" in text
    # Beside a run's config.json the data set needs no naming.
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"config": {"dataset": "fashion_mnist_5k"}}')
    (run / "last.keras").write_bytes((files / "plain.keras").read_bytes())
    status, again, _ = command(
        f"--model={run / 'last.keras'}", f"--num_images={IMAGES}"
    )
    assert not status
    assert again.splitlines()[:5] == text.splitlines()[:5]
    # Other flags add to the run's; a file of another program is none of a run.
    status, _, err = command(f"--model={run / 'last.keras'}", "--image_size=40")
    assert status == 1 and "does not take the images" in err
    (run / "config.json").write_text('{"model_type": "other"}')
    status, _, err = command(f"--model={run / 'last.keras'}")
    assert status == 1 and "--dataset is missing" in err


@pytest.mark.slow
def test_bad_input_gets_one_line(files, command, tmp_path):
    whole = (files / "plain.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.tflite").write_text("this is no model")
    flat = (files / "float.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(flat[: len(flat) // 2])
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.h5").write_text("x")
    data = "--dataset=fashion_mnist_5k"
    for arguments, message in [
        ([], "--model is missing"),
        ([f"--model={tmp_path / 'none.keras'}", data], "no such model"),
        ([f"--model={tmp_path / 'none.tflite'}", data], "none.tflite"),
        ([f"--model={tmp_path / 'cut.keras'}", data], "truncated"),
        ([f"--model={tmp_path / 'no.tflite'}", data], "TFL3"),
        ([f"--model={tmp_path / 'cut.tflite'}", data], "LiteRT|damaged"),
        ([f"--model={tmp_path / 'empty'}", data], "Not a SavedModel"),
        ([f"--model={tmp_path / 'model.h5'}", data], "A model is a .keras"),
        ([f"--model={files / 'plain.keras'}"], "--dataset is missing"),
        ([f"--model={files / 'plain.keras'}", "--dataset=nothing"], "nothing"),
        (
            [f"--model={files / 'plain.keras'}", data, "--image_size=40"],
            "does not take the images of fashion_mnist_5k",
        ),
        ([f"--model={files / 'plain.keras'}", data, "--batch_size=0"], "batch_size"),
    ]:
        status, _, err = command(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 1 and len(lines) == 1, (arguments, err)
        assert re.search(message, lines[0]), (message, lines)


def test_another_number_of_classes_is_refused(dataset):
    model = evaluation.Loaded(
        lambda images: np.zeros((len(images), 3)), np.dtype("float32"), 0.0
    )
    with pytest.raises(ValueError, match="10 classes"):
        evaluation.evaluate(model, dataset, 50, 50)
