"""TFLite: the file that is written equals Keras."""

import hashlib
import json

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from descriptors import BY_NAME
from export_models import fill, nonzeros, sparse_cnn

from str_keras import data, export
from str_keras.export import flatbuffer

layers = keras.layers


@pytest.fixture(scope="module")
def dataset():
    return data.load("fashion_mnist_5k")


@pytest.fixture(scope="module")
def images(dataset):
    return dataset.raw("test", 48)


@pytest.fixture(scope="module")
def calibration(dataset):
    return dataset.raw("train", 64)[0]


def run(path, inputs):
    """Runs a file one input at a time, apart from the code under test."""
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    outputs = []
    for row in inputs:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        index = interpreter.get_output_details()[0]["index"]
        outputs.append(interpreter.get_tensor(index)[0])
    return np.stack(outputs)


@pytest.mark.parametrize(
    ("weights", "sparse", "batch_size", "uint8_input"),
    [
        ("float32", False, 1, False),
        ("float32", True, 1, True),
        ("float32", True, None, False),
        ("float16", False, 4, False),
        ("float16", True, 1, True),
        ("int8_weights", False, 1, False),
        ("int8_weights", True, None, True),
        ("int8", False, 1, False),
        ("int8", False, 1, True),
        ("int8", False, None, False),
    ],
)
def test_file_equals_keras(
    tmp_path, dataset, images, calibration, weights, sparse, batch_size, uint8_input
):
    model, path = sparse_cnn(), tmp_path / "new" / "model.tflite"
    report = export.tflite(
        model,
        path,
        weights=weights,
        sparse=sparse,
        batch_size=batch_size,
        uint8_input=uint8_input,
        calibration=calibration,
        images=images[0][:42],  # no multiple of a batch of four
        labels=images[1][:42],
        preprocessing=dataset.preprocessing,
    )
    assert report.bytes == path.stat().st_size
    assert report.gzip_bytes < report.bytes
    assert report.params == 72 + 72 + 2048 + 2560
    assert report.nonzeros == report.model_nonzeros == nonzeros(model) == 540
    # Of 72 weights the zeros take less than the tables of what is left.
    assert report.densify_ops == (2 if sparse else 0)
    assert sum(report.stored.values()) == 4
    assert (report.verified_on, report.verified_with) == (42, "images")
    assert ("runs on dense kernels" in report.note) == sparse  # it reads gray images
    assert ("LiteRT.js" in report.note) == (batch_size is None)
    assert set(report.runs.values()) == {"dense"}
    if sparse:
        assert report.bytes < 0.7 * report.dense_bytes
    bounds = {"float32": 1e-4, "float16": 5e-3, "int8_weights": 0.05, "int8": 0.2}
    bound = bounds[weights]
    assert report.difference <= bound

    normalized = np.asarray(dataset.preprocessing.normalize(images[0][:42]))
    reference = model.predict(normalized, verbose=0)
    details = Interpreter(model_path=str(path)).get_input_details()[0]
    assert details["dtype"] == (np.uint8 if uint8_input else np.float32)
    assert list(details["shape_signature"]) == [batch_size or -1, 32, 32, 1]
    if batch_size != 4:
        outputs = run(path, images[0][:42] if uint8_input else normalized)
        assert np.abs(outputs - reference).max() <= bound * np.abs(reference).max()
        top1 = np.mean(outputs.argmax(1) == images[1][:42])
        assert report.top1 == pytest.approx(top1)
        same = np.mean(outputs.argmax(1) == reference.argmax(1))
        assert report.agreement == pytest.approx(same)
    stored = {kernel.dtype for kernel in flatbuffer.read_kernels(path.read_bytes())}
    assert stored <= ({"int8", "float16"} if "int8" in weights else {weights})


def test_json_tells_what_the_file_is(tmp_path, dataset, images):
    path = tmp_path / "model.tflite"
    report = export.tflite(
        sparse_cnn(),
        path,
        uint8_input=True,
        images=images[0],
        class_names=dataset.info.class_names,
        preprocessing=dataset.preprocessing,
    )
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert told["labels"] == list(dataset.info.class_names)
    assert data.Preprocessing.from_json(told["preprocessing"]) == dataset.preprocessing
    assert told["input"] == {
        "name": "images",
        "shape": [1, 32, 32, 1],
        "dtype": "uint8",
        "normalized": False,
    }
    assert told["nonzeros"] == 540
    assert told["versions"]["keras"] == keras.__version__
    signature = Interpreter(model_path=str(path)).get_signature_list()["serve"]
    assert signature == {"inputs": [told["input"]["name"]], "outputs": ["logits"]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.tflite"]
    table = export.report_table([report])
    assert f"{report.bytes:,}" in table and "float32 uint8-in" in table
    assert "48 images" in table and "4,752" in table


def test_random_inputs_are_told(tmp_path):
    report = export.tflite(sparse_cnn(), tmp_path / "model.tflite")
    assert report.verified_with == "random inputs"
    assert report.top1 is None
    assert "random inputs" in export.report_table([report])


@pytest.mark.parametrize(
    ("layer", "sparsity", "said"),
    [
        (layers.Conv2D(8, 3), 0.1, "the file is dense"),
        (layers.Conv2DTranspose(4, 2), 0.75, "the file is dense"),
    ],
    ids=["few zeros", "few weights"],
)
def test_sparse_encoding_in_vain_is_told(tmp_path, layer, sparsity, said):
    model = keras.Sequential([keras.Input((4, 4, 3)), layer])
    fill(model, sparsity)
    report = export.tflite(model, tmp_path / "model.tflite", sparse=True)
    assert said in report.note
    assert said in export.report_table([report])
    assert report.bytes >= report.dense_bytes


@pytest.mark.parametrize("sparsified", ["whole", "layer"])
def test_thresholds_are_stripped(tmp_path, sparsified):
    import str_keras as stk

    model = sparse_cnn(sparsity=0.0)
    if sparsified == "whole":
        model = stk.sparsify(model, s_init=-1.4)  # g = 0.198
    else:
        wrapped = stk.SoftThreshold(layers.Conv2D(64, 3), s_init=-3.0)
        model = keras.Sequential([keras.Input((8, 8, 3)), wrapped])
    plain = stk.strip(model)
    before = [np.array(w) for w in model.weights]
    report = export.tflite(model, tmp_path / "model.tflite")
    assert 0 < report.nonzeros == nonzeros(plain) < report.params
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_other_dtype_policies_become_float32(tmp_path, policy):
    model = sparse_cnn(dtype=policy)
    path = tmp_path / "model.tflite"
    report = export.tflite(model, path, sparse=True)
    assert report.nonzeros == 540
    kernels = flatbuffer.read_kernels(path.read_bytes())
    assert {kernel.dtype for kernel in kernels} == {"float32"}
    x = np.random.default_rng(0).normal(size=(3, 32, 32, 1)).astype("float32")
    reference = np.asarray(model(x), "float32")
    tolerance = 2e-2 if policy == "mixed_float16" else 1e-4
    assert np.abs(run(path, x) - reference).max() < tolerance * np.abs(reference).max()
    assert model.layers[2].compute_dtype == policy.removeprefix("mixed_")


def test_model_of_a_strategy(tmp_path, mirrored):
    with mirrored.scope():
        model = sparse_cnn()
    assert export.tflite(model, tmp_path / "model.tflite").nonzeros == 540


LAYERS = {
    "Dense on a sequence": ((7, 20), layers.Dense(12), 1),
    "Conv1D": ((20, 8), layers.Conv1D(16, 3, padding="causal"), 1),
    "Conv2D dilated": ((9, 9, 8), layers.Conv2D(16, 3, dilation_rate=2), 1),
    "Conv2D groups": ((9, 9, 8), layers.Conv2D(16, 3, groups=2), 1),
    "Conv3D": ((6, 6, 6, 4), layers.Conv3D(8, 3), 1),
    "Conv1DTranspose": ((6, 4), layers.Conv1DTranspose(8, 9, strides=2), 1),
    "Conv2DTranspose": ((6, 6, 4), layers.Conv2DTranspose(8, 3, strides=2), 1),
    "DepthwiseConv2D": ((9, 9, 8), layers.DepthwiseConv2D(3, depth_multiplier=2), 1),
    "SeparableConv2D": ((9, 9, 8), layers.SeparableConv2D(16, 9), 2),
    "EinsumDense": ((9, 8), layers.EinsumDense("abc,cde->abde", (None, 4, 6)), 1),
    "LSTM": ((9, 8), layers.LSTM(16), 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_zeros_of_every_kind_of_layer_arrive(tmp_path, kind):
    shape, layer, densify_ops = LAYERS[kind]
    model = keras.Sequential(
        [
            keras.Input(shape),
            type(layer).from_config(layer.get_config()),
        ]
    )
    fill(model, 0.75)
    report = export.tflite(model, tmp_path / "model.tflite", sparse=True)
    assert report.nonzeros == report.model_nonzeros == nonzeros(model)
    assert report.params == sum(w.numpy().size for w in model.weights if w.ndim > 1)
    assert report.densify_ops == densify_ops


@pytest.mark.parametrize("name", ["attention", "grouped_attention"])
def test_an_input_that_several_projections_read(tmp_path, name):
    """What reads an input together with others has nobody that produced it."""
    model = BY_NAME[name].net()
    fill(model, 0.5)
    report = export.tflite(model, tmp_path / "model.tflite")
    kernels = [w.numpy() for w in model.weights if w.name == "kernel"]
    assert report.nonzeros == sum(map(np.count_nonzero, kernels))
    assert report.params == sum(kernel.size for kernel in kernels)


def shared_layer():
    inputs = keras.Input((8, 8, 4))
    conv, x = layers.Conv2D(4, 3, padding="same", use_bias=False), inputs
    for _ in range(2):
        x = layers.BatchNormalization()(conv(x))
    model = keras.Model(inputs, layers.Flatten()(x))
    fill(model, 0.5)
    return model


def test_layer_used_twice_is_folded_twice(tmp_path):
    model = shared_layer()
    report = export.tflite(model, tmp_path / "model.tflite")
    assert report.nonzeros == 2 * nonzeros(model) == 2 * report.model_nonzeros
