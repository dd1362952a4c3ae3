"""Kernels stored another way: what LiteRT unpacks equals what NumPy rounds."""

import re

import keras
import numpy as np
import pytest
from export_models import all_kinds, embedding, fill, transposed, volumes
from tflite_content import PLAIN, run, start, to_tflite

from str_keras import export
from str_keras.export import flatbuffer, rewrite
from str_keras.export.rewrite.editing import OP, TYPE
from str_keras.export.rewrite.encoding import Rows
from str_keras.export.rewrite.sizes import smallest, stored_bytes

layers = keras.layers
STORAGES = [
    rewrite.Storage(dtype, sparse)
    for dtype in rewrite.DTYPES
    for sparse in (False, True)
]


@pytest.fixture(scope="module")
def content():
    return to_tflite(all_kinds())


def kernels(content):
    """Index and float32 values of each kernel of a dense file of one subgraph."""
    (graph,) = flatbuffer.read_graphs(content)
    return {
        index: graph.data(index).view("float32").reshape(graph.shape(index))
        for index, _, _ in flatbuffer.kernel_constants(graph)
    }


def rounded(kernel, dtype, axis):
    """What a kernel is worth when it is stored so, by another road than the code's."""
    if dtype == "float32":
        return kernel
    if dtype == "float16":
        return kernel.astype("float16").astype("float32")
    channels = np.moveaxis(kernel, axis, 0)
    values = np.empty_like(channels)
    for i, channel in enumerate(channels):
        scale = np.float32(np.abs(channel).max() / 127) or np.float32(1)
        values[i] = np.rint(channel / np.float64(scale)).astype("float32") * scale
    return np.moveaxis(values, 0, axis)


def check_stored(content, storages):
    """Unpacks a stored file by LiteRT and compares; returns the file."""
    axes = {w.values.tobytes(): w.axis for w in rewrite.weights(content)}
    chosen = iter(storages)
    written = rewrite.store(content, lambda weight: next(chosen))
    runtime = start(
        written,
        experimental_op_resolver_type=PLAIN,
        experimental_preserve_all_tensors=True,
    )
    runtime.invoke()
    for (index, kernel), storage in zip(
        kernels(content).items(), storages, strict=True
    ):
        np.testing.assert_array_equal(
            runtime.get_tensor(index),
            rounded(kernel, storage.dtype, axes[kernel.tobytes()]),
        )
    assert next(chosen, None) is None
    stored = flatbuffer.read_kernels(written)
    dense = flatbuffer.read_kernels(content)
    for now, before, storage in zip(stored, dense, storages, strict=True):
        assert (now.dtype, now.sparse) == (storage.dtype, storage.sparse)
        assert (now.size, now.nonzeros) == (before.size, before.nonzeros)
    return written


@pytest.mark.parametrize("storage", STORAGES, ids=str)
def test_every_kernel_is_what_numpy_rounds(content, storage):
    count = len(rewrite.weights(content))
    assert count == 10
    written = check_stored(content, [storage] * count)
    (expected,) = run(content)
    bound = {"float32": 1e-6, "float16": 2e-3, "int8": 3e-2}[storage.dtype]
    for options in ({}, {"experimental_op_resolver_type": PLAIN}):
        (outputs,) = run(written, **options)
        error = np.abs(outputs - expected).max() / np.abs(expected).max()
        assert error <= bound
    assert (len(written) < 0.7 * len(content)) == (storage != rewrite.Storage())


@pytest.mark.parametrize("seed", range(3))
def test_each_kernel_its_own_way(content, seed):
    count = len(rewrite.weights(content))
    chosen = np.random.default_rng(seed).integers(0, len(STORAGES), count)
    written = check_stored(content, [STORAGES[i] for i in chosen])
    (graph,) = flatbuffer.read_graphs(written)
    for code, operator in graph.operators:
        if code not in (OP.CONV_2D, OP.DEPTHWISE_CONV_2D, OP.FULLY_CONNECTED):
            continue
        stored = [graph.stored(int(i)) for i in operator.inputs[1:] if i >= 0]
        kinds = {graph.tensors[index].type == TYPE.FLOAT16 for index in stored}
        assert len(kinds) == 1  # no float32 bias beside float16, nor the other way


CHANNELS = {
    "Conv2D": ((6, 6, 3), layers.Conv2D(7, 2), "CONV_2D", 7),
    "DepthwiseConv2D": ((6, 6, 3), layers.DepthwiseConv2D(2), "DEPTHWISE_CONV_2D", 3),
    "Conv2DTranspose": ((6, 6, 3), layers.Conv2DTranspose(7, 2), "TRANSPOSE_CONV", 7),
    "Conv3D": ((6, 6, 6, 3), layers.Conv3D(7, 2), "CONV_3D", 7),
    "Conv3DTranspose": (
        (6, 6, 6, 3),
        layers.Conv3DTranspose(7, 2),
        "CONV_3D_TRANSPOSE",
        7,
    ),
    "EinsumDense": (
        (5, 3),
        layers.EinsumDense("abc,bcd->abd", (5, 7)),
        "BATCH_MATMUL",
        7,
    ),
    "Dense": ((3,), layers.Dense(7), "FULLY_CONNECTED", 7),
}


@pytest.mark.parametrize("kind", CHANNELS)
def test_a_scale_for_each_output_channel(kind):
    shape, layer, operator, channels = CHANNELS[kind]
    model = keras.Sequential(
        [keras.Input(shape), type(layer).from_config(layer.get_config())]
    )
    fill(model, 0)
    (weight,) = rewrite.weights(to_tflite(model))
    assert weight.operator == operator
    assert len(weight.rounded("int8").scales) == channels


def test_what_cannot_be_rounded():
    """Channels of zeros, of denormal numbers, and what float16 cannot hold."""
    values = np.array([[0, 0], [1e-42, 0], [1e38, -1e38], [1e5, 1]], "float32")
    weight = rewrite.Weight("w", "FULLY_CONNECTED", values, 0)
    int8 = weight.rounded("int8")
    assert np.isfinite(int8.scales).all() and (int8.scales > 0).all()
    np.testing.assert_array_equal(int8.values[[0, 2]], [[0, 0], [127, -127]])
    half = weight.rounded("float16").values
    np.testing.assert_array_equal(half[2:, 0], [65504, 65504])
    assert np.count_nonzero(half) == 4


def test_values_that_are_not_finite_are_refused(content):
    model = all_kinds()
    kernel = model.layers[-1].kernel
    value = kernel.numpy()
    value[3, 2] = np.nan
    kernel.assign(value)
    broken = to_tflite(model)
    with pytest.raises(export.ExportError, match="not finite") as caught:
        rewrite.store(broken, lambda weight: rewrite.Storage("int8"))
    assert "\n" not in str(caught.value)
    assert rewrite.store(broken, lambda weight: rewrite.Storage())
    with pytest.raises(ValueError, match=re.escape("dtype='int4'")):
        rewrite.Storage("int4")
    with pytest.raises(ValueError, match="TFL3"):
        rewrite.store(b"no model at all", lambda weight: rewrite.Storage())


def test_rewriting_twice_changes_nothing_more(content):
    """What is stored as float16 or sparse already is left alone."""
    for storage in STORAGES[1:]:
        written = rewrite.store(content, lambda weight, storage=storage: storage)
        assert rewrite.weights(written) == []
        again = rewrite.store(written, lambda weight: rewrite.Storage("int8", True))
        assert flatbuffer.read_kernels(again) == flatbuffer.read_kernels(written)


@pytest.mark.parametrize(
    ("build", "batch_size"), [(embedding, 1), (volumes, 1), (transposed, None)]
)
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_kernels_that_xnnpack_leaves_are_sparse_in_float32_alone(
    build, batch_size, dtype
):
    """Else LiteRT reads what XNNPACK was to unpack: errors as large as the outputs."""
    model = build()
    fill(model, 0.9)
    content = to_tflite(model, batch_size)
    with pytest.raises(export.ExportError, match="float32 only") as caught:
        rewrite.store(content, lambda weight: rewrite.Storage(dtype, sparse=True))
    assert "\n" not in str(caught.value)
    choose = smallest([dtype])
    written = rewrite.store(content, choose)
    *left, dense = [choose(weight) for weight in rewrite.weights(content)]
    assert set(left) == {rewrite.Storage("float32", sparse=True)}
    assert dense == rewrite.Storage(dtype, sparse=True)
    (old,), (new,) = run(content), run(written)
    bound = {"float16": 2e-3, "int8": 3e-2}[dtype]
    assert np.abs(new - old).max() <= bound * np.abs(old).max()
    one = rewrite.store(content, lambda weight: rewrite.Storage(dtype))
    assert np.abs(run(one)[0] - old).max() <= bound * np.abs(old).max()


def test_a_bias_beside_two_kernels_stays_exact_for_the_one_of_float32():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16, activation="relu"), layers.Dense(16)]
    )
    fill(model, 0.5)
    model.layers[1].bias.assign(model.layers[0].bias)

    def biases(content):
        (graph,) = flatbuffer.read_graphs(content)
        found = [
            graph.stored(int(operator.inputs[2]))
            for code, operator in graph.operators
            if code == OP.FULLY_CONNECTED
        ]
        return found, [graph.tensors[index].type for index in found]

    content = to_tflite(model)
    (first, second), _ = biases(content)
    assert first == second  # the converter stores equal constants once
    storages = iter([rewrite.Storage("float16"), rewrite.Storage()])
    _, types = biases(rewrite.store(content, lambda weight: next(storages)))
    assert types == [TYPE.FLOAT16, TYPE.FLOAT32]


@pytest.mark.parametrize("dtype", rewrite.DTYPES)
def test_a_kernel_of_zeros_alone(dtype):
    model = keras.Sequential([keras.Input((30,)), layers.Dense(20)])
    fill(model, 1.0)
    content = to_tflite(model)
    written = check_stored(content, [rewrite.Storage(dtype, sparse=True)])
    (kernel,) = flatbuffer.read_kernels(written)
    assert kernel.sparse and kernel.nonzeros == 0
    (old,), (new,) = run(content), run(written)
    np.testing.assert_allclose(new, old, atol=1e-4)  # the biases


@pytest.mark.parametrize(
    ("columns", "kept", "segments", "indices"),
    [
        (256, 255, "uint8", "uint8"),
        (257, 257, "uint16", "uint16"),
        (65536, 65535, "uint16", "uint16"),
        (65537, 65537, "int32", "int32"),
    ],
)
def test_places_are_stored_in_the_narrowest_type(columns, kept, segments, indices):
    array = np.zeros((2, columns), "float32")
    array[1, -kept:] = np.arange(1, kept + 1)
    rows = Rows.of(array)
    assert (rows.segments.dtype, rows.indices.dtype) == (segments, indices)
    again = np.zeros_like(array)
    for row in range(2):
        part = slice(rows.segments[row], rows.segments[row + 1])
        again[row, rows.indices[part]] = rows.values[part]
    np.testing.assert_array_equal(again, array)


@pytest.mark.parametrize("storage", STORAGES[1:], ids=str)
def test_the_estimated_size_is_that_of_the_file(content, storage):
    """What a choice rests on; biases and shared zero points are left out of it."""
    before = len(rewrite.store(content, lambda weight: rewrite.Storage()))
    for chosen in rewrite.weights(content):

        def choose(weight, chosen=chosen):
            same = weight.name == chosen.name
            return storage if same else rewrite.Storage()

        after = len(rewrite.store(content, choose))
        estimated = stored_bytes(chosen, storage)
        estimated -= stored_bytes(chosen, rewrite.Storage())
        channels = chosen.values.shape[chosen.axis]
        apart = {"float32": 0, "float16": 120 - 2 * channels, "int8": 0}
        assert after - before - estimated == pytest.approx(
            apart[storage.dtype], abs=200
        )
