"""Exact forms of the graph: the same outputs, and what XNNPACK's rules ask for."""

import keras
import numpy as np
import pytest
from export_models import fill
from tflite_content import run, start, to_tflite

from str_keras.export import flatbuffer, rewrite
from str_keras.export.rewrite.editing import OP

layers = keras.layers


def model_of(shape, *inner, sparsity=0.5):
    model = keras.Sequential([keras.Input(shape), *inner])
    fill(model, sparsity)
    return model


def operators(content):
    names = {code: name for name, code in vars(OP).items() if isinstance(code, int)}
    return [
        (names[code], operator, graph)
        for graph in flatbuffer.read_graphs(content)
        for code, operator in graph.operators
    ]


def names_of(content):
    return [name for name, _, _ in operators(content)]


def check_same(content, made):
    """Bit for bit, names and shapes of inputs and outputs too."""
    before, after = start(content), start(made)
    for details in ("get_input_details", "get_output_details"):
        for old, new in zip(
            getattr(before, details)(), getattr(after, details)(), strict=True
        ):
            assert old["name"] == new["name"]
            np.testing.assert_array_equal(old["shape"], new["shape"])
            np.testing.assert_array_equal(
                old["shape_signature"], new["shape_signature"]
            )
    assert before.get_signature_list() == after.get_signature_list()
    for old, new in zip(run(content), run(made), strict=True):
        np.testing.assert_array_equal(old, new)


def convolution(kind, size, **options):
    if kind == "Conv2D":
        return layers.Conv2D(6, size, strides=2, **options)
    return layers.DepthwiseConv2D(size, strides=2, **options)


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D"])
@pytest.mark.parametrize(
    ("shape", "size", "batch_size", "pads"),
    [
        ((13, 13, 3), 3, 1, 1),
        ((9, 15, 3), 5, None, 1),
        ((9, 9, 3), (3, 1), 4, 1),
        ((12, 12, 3), 3, 1, 0),
        ((13, 12, 3), 3, 1, 0),
        ((13, 13, 3), 4, 1, 0),
        ((13, 13, 3), 1, 1, 0),
    ],
)
def test_padding_over_odd_extents_is_set_apart(kind, shape, size, batch_size, pads):
    layer = convolution(kind, size, padding="same")
    model = model_of(shape, layer, layers.ReLU(), layers.GlobalAveragePooling2D())
    content = to_tflite(model, batch_size)
    made, done = rewrite.rewrite_graph(content)
    assert names_of(content).count("PAD") == 0
    assert names_of(made).count("PAD") == len(done) == pads
    assert all("padding set apart" in line for line in done)
    check_same(content, made)
    assert rewrite.make_ready(made) == made  # nothing is left to do


def test_padding_that_the_converter_folded_comes_back():
    """MobileNetV1 at 208: ZeroPadding2D and "valid" over 13x13."""
    padded = [layers.ZeroPadding2D(1), convolution("DepthwiseConv2D", 3)]
    content = to_tflite(model_of((13, 13, 4), layers.Conv2D(4, 1), *padded))
    assert "PAD" not in names_of(content)  # this test is of no use otherwise
    made = rewrite.make_ready(content)
    assert "PAD" in names_of(made)
    check_same(content, made)


def test_a_free_extent_is_left_alone():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), convolution("Conv2D", 3, padding="same")]
    )
    assert rewrite.make_ready(content := to_tflite(model)) == content


CONSTANTS = {
    "scalar": (2.5, 1),
    "vector": ([0.5, 2.0, 3.0], 1),
    "row of channels": ([[[0.5, 2.0, 3.0]]], 1),
    "plane": (np.arange(36.0).reshape(6, 6, 1), 0),
}


@pytest.mark.parametrize("kind", CONSTANTS)
@pytest.mark.parametrize("operation", ["MUL", "ADD"])
@pytest.mark.parametrize("batch_size", [1, None])
def test_constants_come_first_with_four_dimensions(kind, operation, batch_size):
    value, rewritten = CONSTANTS[kind]
    value = np.asarray(value, "float32")

    def apply(x):
        y = keras.ops.tanh(x)  # else it is folded into the convolution
        return keras.ops.tanh(y * value if operation == "MUL" else y + value)

    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, apply(layers.Conv2D(3, 1)(inputs)))
    fill(model, 0.5)
    content = to_tflite(model, batch_size)
    made, done = rewrite.rewrite_graph(content)
    assert len(done) == rewritten
    check_same(content, made)
    ((operator, graph),) = [
        (op, g) for name, op, g in operators(made) if name == operation
    ]
    first = int(operator.inputs[0])
    if rewritten:
        assert graph.data(first) is not None and len(graph.shape(first)) == 4
    else:
        assert graph.data(first) is None


def test_a_constant_that_two_use_stays_for_the_other():
    vector = np.array([0.5, 2.0, 3.0], "float32")
    inputs = keras.Input((4, 4, 3))
    x = keras.ops.tanh(layers.Conv2D(3, 1)(inputs)) * vector
    x = layers.GlobalAveragePooling2D()(keras.ops.tanh(x))
    model = keras.Model(inputs, keras.ops.tanh(x) * vector)
    fill(model, 0.5)
    content = to_tflite(model)
    made, done = rewrite.rewrite_graph(content)
    assert len(done) == 1
    check_same(content, made)


def head(kind):
    pool = layers.GlobalAveragePooling2D(keepdims=True)
    return {
        "convolution": [pool, layers.Conv2D(5, 1), layers.Flatten()],
        "convolution, four dimensions": [pool, layers.Conv2D(5, 1)],
        "unary": [pool, layers.Activation("tanh"), layers.Flatten()],
        "unary and convolution": [
            pool,
            layers.Activation("tanh"),
            layers.Conv2D(5, 1),
            layers.Activation("softmax"),
        ],
        "two convolutions": [
            pool,
            layers.Conv2D(7, 1, activation="hard_swish"),
            layers.Conv2D(5, 1),
            layers.Flatten(),
        ],
        "flat": [pool, layers.Flatten(), layers.Dense(5)],
        "no convolution": [layers.GlobalAveragePooling2D(), layers.Dense(5)],
        "reshaped": [
            layers.GlobalAveragePooling2D(),
            layers.Reshape((1, 1, 8)),
            layers.Conv2D(5, 1),
        ],
    }[kind]


@pytest.mark.parametrize("batch_size", [1, None])
@pytest.mark.parametrize(
    ("kind", "flattened"),
    [
        ("convolution", 1),
        ("convolution, four dimensions", 1),
        ("unary", 1),
        ("unary and convolution", 1),
        ("two convolutions", 0),  # right as it is, and sparse
        ("flat", 0),
        ("no convolution", 0),
        ("reshaped", 1),
    ],
)
def test_pooled_features_are_flattened_before_a_head(kind, flattened, batch_size):
    if kind == "reshaped" and batch_size is None:
        flattened = 0  # of a fixed batch the converter makes one MEAN of the two
    layer = layers.Conv2D(8, 3, activation="relu")
    content = to_tflite(model_of((8, 8, 3), layer, *head(kind)), batch_size)
    made, done = rewrite.rewrite_graph(content)
    assert [line.split(":")[0] for line in done] == flattened * [
        "pooled features flattened before the head"
    ]
    check_same(content, made)
    keeps = [
        op.builtinOptions.keepDims for name, op, _ in operators(made) if name == "MEAN"
    ]
    assert len(keeps) == 1
    if flattened:
        assert not keeps[0]


def test_squeeze_and_excitation_is_left_alone():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(inputs)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(8, 1, activation="sigmoid")(y)
    x = layers.GlobalAveragePooling2D()(layers.Multiply()([x, y]))
    model = keras.Model(inputs, layers.Dense(3)(x))
    fill(model, 0.5)
    content = to_tflite(model)
    assert rewrite.make_ready(content) is content


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_what_was_rewritten_is_stored_once(storage):
    """The rewritten file holds no second copy of a kernel or a constant."""
    inner = [
        convolution("Conv2D", 3, padding="same"),
        layers.Activation("hard_sigmoid"),
        *head("convolution"),
    ]
    content = to_tflite(model_of((13, 13, 64), *inner))
    made, done = rewrite.rewrite_graph(content)
    assert len(done) == 3
    plain, ready = (
        rewrite.store(c, lambda weight: rewrite.Storage(storage, True))
        for c in (content, made)
    )
    assert len(ready) - len(plain) < 1200  # the operators, and not 14 kB of kernels
    (old,), (new,) = run(plain), run(ready)
    np.testing.assert_array_equal(old, new)
