"""Zeros in written files, counted and compared with the model's, place by place."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

import str_keras as stk
from str_keras.export.flatbuffer import kernel_constants, read_graphs

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(32, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    """A sparse net whose batch norm is folded into kernels; no two sizes alike."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(40, 1, name="pointwise")(x)
    x = layers.GlobalAveragePooling2D()(x)
    made = keras.Model(image, layers.Dense(5, name="out")(x))
    for weight in made.weights:
        shift = 0.5 if weight.name in ("gamma", "moving_variance") else 0
        value = RANDOM.normal(0, 0.2, weight.shape)
        weight.assign(shift + abs(value) if shift else value)
    return stk.strip(stk.prune(made, 0.7))


@pytest.mark.parametrize("weights", ["int8", "int8_weights", "float16"])
def test_every_zero_is_in_the_file(tmp_path, model, weights):
    path = tmp_path / "model.tflite"
    report = stk.export.tflite(
        model,
        path,
        weights=weights,
        sparse=weights == "float16",
        calibration=X if weights == "int8" else None,
        images=X,
    )
    found = stk.export.count_zeros(path)
    kernels = [np.array(w) for w in model.weights if len(w.shape) > 1]
    assert found.params == sum(kernel.size for kernel in kernels) == report.params
    assert found.zeros == report.params - report.nonzeros
    assert found.zeros >= sum((kernel == 0).sum() for kernel in kernels)
    assert 0.69 < found.sparsity < 0.75
    text = str(found)
    assert f"{found.zeros:,}" in text and text.count("\n") == 3 + len(kernels)
    if weights == "float16":
        assert "float16 sparse" in text
        return
    # By place: the file has a kernel's output channels first, or last if depthwise.
    (graph,) = read_graphs(path.read_bytes())
    stored, types = {}, set()
    for index, _, _ in kernel_constants(graph):
        tensor = graph.tensors[index]
        int8 = tensor.type == schema.TensorType.INT8
        assert not int8 or not np.any(tensor.quantization.zeroPoint)
        values = np.asarray(graph.data(index)).view(np.int8 if int8 else np.float16)
        stored[values.size] = values.reshape(graph.shape(index))
        types.add(int8)
    # Of int8_weights the kernel of many channels takes less as float16.
    assert types == ({True} if weights == "int8" else {True, False})
    for kernel in kernels:
        values = stored[kernel.size]
        if values.shape[0] == 1:
            expected = kernel[None, ..., 0]
        else:
            expected = np.moveaxis(kernel, -1, 0)
        assert values.shape == expected.shape
        assert (values[expected == 0] == 0).all()
        assert (values[expected != 0] != 0).mean() > 0.95


def test_refuses_what_is_no_file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"no flatbuffer")
    with pytest.raises(ValueError, match=r"no \.tflite model"):
        stk.export.count_zeros(path)
