"""sparsify, SparseModel, strip, copy_weights; runs on every backend but where said."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import reference
from descriptors import CASES
from keras import layers, ops

import str_keras as stk
from str_keras.model import find_thresholded
from str_keras.thresholds import is_threshold_logit

TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(
    not TENSORFLOW, reason="a feature of the TensorFlow backend"
)
numpy = ops.convert_to_numpy
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(8, 8, 8, 3)).astype("float32")
LABELS = RNG.integers(0, 4, 8)


def functional():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    shared = layers.Conv2D(6, 1, name="shared")
    x = layers.Add()([shared(x), shared(layers.DepthwiseConv2D(3, padding="same")(x))])
    x = layers.GlobalAveragePooling2D()(layers.Dropout(0.2)(x))
    return keras.Model(inputs, layers.Dense(4, name="classifier")(x), name="functional")


def sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SeparableConv2D(5, 3, name="separable"),
            layers.Flatten(),
            layers.Dense(4, name="classifier"),
        ],
        name="sequential",
    )


def nested():
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(5, 3), layers.BatchNormalization()],
        name="encoder",
    )
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(inner(inputs))
    return keras.Model(inputs, layers.Dense(4, name="classifier")(x), name="nested")


def multiple():
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((4,), name="b")
    x = layers.Flatten()(layers.Conv2D(3, 3, name="conv")(a))
    x = layers.Concatenate()([x, layers.Dense(2, name="dense")(b)])
    return keras.Model({"a": a, "b": b}, [layers.Dense(4)(x), layers.Dense(2)(x)])


MODELS = [functional, sequential, nested]
models = pytest.mark.parametrize("create", MODELS, ids=lambda f: f.__name__)


def hand_placed():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            stk.SoftThreshold(layers.Conv2D(5, 3, name="conv"), s_init=-1.5),
            layers.BatchNormalization(),
            layers.Reshape((6, 30)),
            layers.TimeDistributed(
                stk.SoftThreshold(layers.Dense(3, name="inner"), s_init=-2)
            ),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )


def weights(model):
    return [numpy(v) for v in model.weights]


def train(model, epochs=2, **kwargs):
    model.compile(
        stk.optimizers.SGD(0.1, momentum=0.9, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **kwargs,
    )
    model.fit(IMAGES, LABELS, batch_size=4, epochs=epochs, verbose=0, shuffle=False)
    return model


@models
def test_the_model_given_is_not_touched_and_its_weights_are_copied(create):
    dense = create()
    config, before = dense.to_json(), weights(dense)
    sparse = stk.sparsify(dense, s_init=-1e4)  # a threshold of 0: the same function
    np.testing.assert_allclose(numpy(sparse(IMAGES)), numpy(dense(IMAGES)), atol=1e-6)
    train(sparse)
    assert dense.to_json() == config
    for a, b in zip(before, weights(dense), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not {id(v) for v in dense.weights} & {id(v) for v in sparse.weights}


@models
@pytest.mark.parametrize("granularity", ["layer", "filter", "weight", "network"])
def test_strip_gives_the_same_outputs_bit_for_bit(create, granularity):
    sparse = train(stk.sparsify(create(), s_init=-2.0, granularity=granularity))
    before = weights(sparse)
    plain = stk.strip(sparse)
    np.testing.assert_array_equal(numpy(plain(IMAGES)), numpy(sparse(IMAGES)))
    np.testing.assert_array_equal(
        plain.predict(IMAGES, verbose=0), sparse.predict(IMAGES, verbose=0)
    )
    assert "str_keras" not in plain.to_json()
    assert not any(is_threshold_logit(v) for v in plain.weights)
    for a, b in zip(before, weights(sparse), strict=True):
        np.testing.assert_array_equal(a, b)
    zeros = [(v == 0).mean() for v in weights(plain) if v.ndim > 1]
    assert min(zeros) > 0


def test_strip_of_hand_placed_layers_inside_other_wrappers_too():
    model = train(hand_placed())
    assert len(list(find_thresholded(model))) == 2
    plain = stk.strip(model)
    np.testing.assert_array_equal(numpy(plain(IMAGES)), numpy(model(IMAGES)))
    assert "str_keras" not in plain.to_json()
    assert plain.layers[0].name == "conv"


def test_a_compiled_model_with_a_lambda_loss_is_copied_uncompiled():
    dense = sequential()
    dense.compile("sgd", loss=lambda y, out: ops.mean(out))
    sparse = stk.sparsify(dense)
    assert dense.compiled and not sparse.compiled and not sparse.model.compiled
    wrapped = hand_placed()
    wrapped.compile("sgd", loss=lambda y, out: ops.mean(out))
    assert not stk.strip(wrapped).compiled and wrapped.compiled


def test_strip_of_a_sparse_model_inside_another():
    backbone = stk.sparsify(nested(), s_init=-2.0)
    model = keras.Sequential([keras.Input((8, 8, 3)), backbone, layers.Dense(2)])
    assert len(list(find_thresholded(model))) == 2
    plain = stk.strip(model)
    np.testing.assert_array_equal(numpy(plain(IMAGES)), numpy(model(IMAGES)))
    assert "str_keras" not in plain.to_json()


def test_strip_of_a_plain_model_is_a_copy():
    model = functional()
    copy = stk.strip(model)
    np.testing.assert_array_equal(numpy(copy(IMAGES)), numpy(model(IMAGES)))
    assert copy is not model


def test_copies_normalize_by_what_the_original_was_adapted_to():
    normalization = layers.Normalization()
    normalization.adapt(3.0 * IMAGES + 5.0)
    image = keras.Input(IMAGES.shape[1:])
    x = layers.Conv2D(4, 3, use_bias=False)(normalization(image))
    y = layers.Dense(2)(layers.Flatten()(layers.BatchNormalization()(x)))
    model = keras.Model(image, y)
    expected = numpy(model(IMAGES))
    sparse = stk.sparsify(model, s_init=-100.0)
    thin = stk.sparsify_channels(model, s_init=-100.0)
    for copy in (stk.strip(model), sparse, stk.strip(sparse), thin, stk.shrink(model)):
        np.testing.assert_allclose(numpy(copy(IMAGES)), expected, atol=1e-5)


@pytest.mark.slow
def test_a_stripped_file_loads_with_no_str_keras(tmp_path):
    sparse = train(stk.sparsify(nested(), s_init=-2.0))
    stk.strip(sparse).save(tmp_path / "plain.keras")
    np.save(tmp_path / "x.npy", IMAGES)
    code = (
        "import sys; sys.modules['str_keras'] = None\n"
        "import keras, numpy as np\n"
        "model = keras.models.load_model('plain.keras')\n"
        "np.save('y.npy', keras.ops.convert_to_numpy(model(np.load('x.npy'))))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), numpy(sparse(IMAGES)))


@pytest.mark.parametrize("granularity", ["filter", "network"])
def test_save_and_load_resume_training_exactly(granularity, tmp_path):
    keras.utils.set_random_seed(1)
    sparse = train(
        stk.sparsify(sequential(), -2.0, granularity=granularity, skip="classifier")
    )
    sparse.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.passed_through == [("classifier", "skipped by the caller")]
    for model in (sparse, loaded):
        model.fit(IMAGES, LABELS, batch_size=4, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(weights(sparse), weights(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    other = stk.sparsify(sequential(), -1.0, granularity=granularity, skip="classifier")
    sparse.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(numpy(other(IMAGES)), numpy(sparse(IMAGES)))


def test_network_granularity_is_one_logit():
    sparse = stk.sparsify(functional(), s_init=-2.0, granularity="network")
    assert [v.name for v in sparse.weights if is_threshold_logit(v)] == [
        "threshold_logit"
    ]
    before = [float(numpy(t.threshold())) for t in find_thresholded(sparse)]
    np.testing.assert_allclose(before, reference.sigmoid(-2), rtol=1e-6)
    train(sparse)
    assert len({float(numpy(t.threshold())) for t in find_thresholded(sparse)}) == 1


def test_a_model_of_each_layer_equals_its_wrapped_layers():
    """sparsify(model) and SoftThreshold around each layer train to the same weights."""
    case_names = {"conv2d", "depthwise2d", "separable2d"}
    for case in CASES:
        if case.name not in case_names:
            continue
        keras.utils.set_random_seed(4)
        x = RNG.normal(size=(6, *case.input_shape)).astype("float32")
        plain = keras.Sequential([keras.Input(case.input_shape), case.create()])
        whole = stk.sparsify(plain, s_init=-2.0)
        single = keras.Sequential(
            [keras.Input(case.input_shape), stk.SoftThreshold(case.create(), -2.0)]
        )
        stk.copy_weights(plain, single)
        y = np.zeros(plain(x).shape, "float32")
        for model in (whole, single):
            model.compile(stk.optimizers.SGD(0.1, weight_decay=1e-3), "mse")
            model.fit(x, y, epochs=4, batch_size=3, verbose=0, shuffle=False)
        for a, b in zip(
            weights(stk.strip(whole)), weights(stk.strip(single)), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_several_inputs_and_outputs():
    model = multiple()
    x = {"a": IMAGES, "b": RNG.normal(size=(8, 4)).astype("float32")}
    sparse = stk.sparsify(model, s_init=-2.0)
    sparse.compile("sgd", ["mse", "mse"])
    sparse.fit(x, [np.zeros((8, 4)), np.zeros((8, 2))], verbose=0)
    plain = stk.strip(sparse)
    for a, b in zip(plain(x), sparse(x), strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        ("classifier", {"classifier"}),
        (["encoder/conv2d"], {"encoder/conv2d"}),
        ("encoder", {"encoder/conv2d"}),
        (re.compile(r"^encoder/"), {"encoder/conv2d"}),
        (layers.Dense, {"classifier"}),
        (lambda layer: layer.name.startswith("conv"), {"encoder/conv2d"}),
        (["classifier", re.compile("nothing")], {"classifier"}),
    ],
    ids=["name", "path", "nested model", "regex", "type", "predicate", "several"],
)
def test_skip(skip, expected):
    keras.backend.clear_session()
    sparse = stk.sparsify(nested(), skip=skip)
    assert sparse.passed_through == [
        (path, "skipped by the caller") for path in expected
    ]
    paths = {t.kernel.path.rsplit("/", 1)[0] for t in find_thresholded(sparse)}
    assert paths == {"encoder/conv2d", "classifier"} - expected


def test_layers_that_cannot_be_wrapped_are_passed_through_with_the_reason():
    class Scale(layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 2))

        def call(self, x):
            return x @ self.matrix

    @keras.saving.register_keras_serializable("test")
    class OwnCell(layers.Layer):
        state_size = 4

        def build(self, shape):
            self.matrix = self.add_weight((shape[-1], 4))

        def call(self, x, states):
            return x @ self.matrix, states

    frozen = layers.Dense(3, name="frozen", trainable=False)
    lora = layers.Dense(3, name="lora")
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(7, 3, name="embedding"),
            layers.RNN([layers.GRUCell(4), OwnCell()], name="cell"),
            frozen,
            lora,
            layers.Dense(4, name="dense"),
            layers.BatchNormalization(),
            Scale(name="scale"),
        ]
    )
    lora.enable_lora(1)
    copy = dict(stk.sparsify(model, skip="lora").passed_through)
    assert set(copy) == {"cell", "frozen", "lora", "scale"}
    assert "unknown cells" in copy["cell"]
    assert "trainable=False" in copy["frozen"]
    assert "unknown layer type" in copy["scale"]
    # The reasons are in the report, too.
    table = str(stk.summary(stk.sparsify(model, skip="lora")))
    assert "unknown layer type" in table and "frozen (trainable=False)" in table


def subclassed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.ones((1, 3), "float32"))
    return model


@pytest.mark.parametrize(
    ("model", "kwargs", "error", "match"),
    [
        (lambda: 3, {}, TypeError, "Received: model=int"),
        (lambda: keras.Sequential([layers.Dense(2)]), {}, ValueError, "built=False"),
        (subclassed, {}, ValueError, "SoftThreshold around its layers"),
        (hand_placed, {}, ValueError, "strip it first"),
        (lambda: stk.sparsify(sequential()), {}, ValueError, "strip it first"),
        (sequential, {"skip": ["clasifier"]}, ValueError, "near it: classifier"),
        (sequential, {"skip": [3]}, TypeError, "Received: 3"),
        (sequential, {"skip": layers.Layer}, ValueError, "No kernel is left"),
        (sequential, {"granularity": "row"}, ValueError, "granularity='row'"),
        (sequential, {"s_init": float("inf")}, ValueError, "s_init=inf"),
    ],
)
def test_bad_arguments(model, kwargs, error, match):
    with pytest.raises(error, match=match):
        stk.sparsify(model(), **kwargs)


def test_a_layer_inside_cannot_be_called_alone():
    sparse = stk.sparsify(functional())
    with pytest.raises(RuntimeError, match=r"raw, dense kernel.*strip"):
        sparse.get_layer("shared")(np.ones((1, 8, 8, 6), "float32"))
    features = keras.Model(sparse.inputs[0], sparse.get_layer("conv").output)
    with pytest.raises(RuntimeError, match="raw, dense kernel"):
        features(IMAGES)
    assert sparse.input_shape == (None, 8, 8, 3)
    assert sparse.output_shape == (None, 4)


def test_copy_weights_both_ways():
    dense, trained = functional(), train(stk.sparsify(functional(), s_init=-2.0))
    sparse = stk.sparsify(functional(), s_init=-3.0)
    stk.copy_weights(dense, sparse)  # raw kernels come, logits stay
    for a, b in zip(
        weights(dense),
        [numpy(v) for v in sparse.weights if not is_threshold_logit(v)],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert all(numpy(v) == -3 for v in sparse.weights if is_threshold_logit(v))
    stk.copy_weights(trained, sparse)  # all, logits too
    np.testing.assert_array_equal(numpy(sparse(IMAGES)), numpy(trained(IMAGES)))
    stk.copy_weights(trained, dense)  # sparse kernels
    np.testing.assert_array_equal(numpy(dense(IMAGES)), numpy(trained(IMAGES)))


@pytest.mark.parametrize("granularity", ["layer", "weight"])
def test_copy_weights_between_the_two_thresholded_forms(granularity):
    """Square kernels: in raw order logits and kernels would change places."""

    def wrapped(s_init):
        return keras.Sequential(
            [
                keras.Input((4,)),
                stk.SoftThreshold(layers.Dense(4), s_init, granularity=granularity),
                stk.SoftThreshold(layers.Dense(4), s_init, granularity=granularity),
            ]
        )

    plain = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)])
    source = stk.sparsify(plain, -1.0, granularity=granularity)
    target, back = wrapped(-3.0), stk.sparsify(plain, -3.0, granularity=granularity)
    stk.copy_weights(source, target)
    x = RNG.normal(size=(5, 4)).astype("float32")
    np.testing.assert_allclose(numpy(target(x)), numpy(source(x)), atol=1e-6)
    stk.copy_weights(target, back)
    np.testing.assert_array_equal(numpy(back(x)), numpy(source(x)))


def test_thresholds_that_cannot_be_taken_out_are_refused():
    """Silently left in, they would be the reference of an export."""

    @keras.saving.register_keras_serializable("test")
    class Block(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = stk.SoftThreshold(layers.Dense(4), s_init=-1.0)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.dense(x)

    model = keras.Sequential([keras.Input((4,)), Block()])
    assert len(list(find_thresholded(model))) == 1
    with pytest.raises(ValueError, match="custom layer"):
        stk.strip(model)
    inner = keras.Sequential([keras.Input((4,)), stk.SoftThreshold(layers.Dense(3))])
    timed = keras.Sequential([keras.Input((2, 4)), layers.TimeDistributed(inner)])
    assert "str_keras" not in stk.strip(timed).to_json()


def test_nested_models_that_cannot_be_copied_as_they_are():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls()

    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(2, name="head")(Own()(x)))
    sparse = stk.sparsify(model)
    assert [t.kernel.path for t in find_thresholded(sparse)] == ["head/kernel"]
    assert "its get_config lacks the name" in sparse.passed_through[0][1]
    rows = {row.path: row for row in stk.summary(sparse).rows}
    assert rows.pop("head/kernel").macs == 8
    (row,) = rows.values()
    assert row.macs is None and "get_config" in row.reason
    with pytest.raises(ValueError, match=r"let their `get_config` tell `name`"):
        stk.sparsify(model, skip="head")
    shared = layers.Dense(4)
    inner = keras.Sequential([keras.Input((4,)), shared])
    with pytest.raises(ValueError, match="both inside and outside"):
        stk.sparsify(keras.Model(x, shared(inner(x))))

    class Backbone(keras.Model):
        """As KerasHub's Llama of tied embeddings: a copy of it has another matrix."""

        def __init__(self, tied=False, **kwargs):
            last = layers.Dense(4, name="last")
            first = last if tied else layers.Dense(4, name="first")
            super().__init__(x, last(first(x)))

        def get_config(self):
            return {}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    assert len(stk.sparsify(Backbone()).thresholded) == 2
    with pytest.raises(ValueError, match=r"of Backbone does not tell.*2 weights, 4 in"):
        stk.sparsify(Backbone(tied=True))


def test_quantizing_a_sparsified_model_is_refused_when_it_is_called():
    """The quantized layers would read their raw, dense kernels."""
    sparse = stk.sparsify(sequential(), s_init=-1.0)
    sparse.get_layer("classifier").quantize("int8")
    with pytest.raises(ValueError, match="strip first"):
        sparse(IMAGES)


def test_copy_weights_of_another_architecture_writes_nothing():
    a, b = functional(), sequential()
    before = weights(b)
    with pytest.raises(ValueError, match="different numbers"):
        stk.copy_weights(a, b)
    c = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SeparableConv2D(5, 3),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    with pytest.raises(
        ValueError, match=r"differ in shape.*source sequential/classifier"
    ):
        stk.copy_weights(b, c)
    for x, y in zip(before, weights(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_mixed_precision_with_loss_scaling_trains_and_strips_equal():
    keras.config.set_dtype_policy("mixed_float16")
    sparse = stk.sparsify(functional(), s_init=-2.0)
    assert sparse.dtype_policy.name == "mixed_float16"
    train(sparse)
    if TENSORFLOW:
        assert type(sparse.optimizer).__name__ == "LossScaleOptimizer"
    for t in find_thresholded(sparse):
        assert t.logit.dtype == "float32" and t.kernel.variable.dtype == "float32"
    plain = stk.strip(sparse)
    np.testing.assert_array_equal(numpy(plain(IMAGES)), numpy(sparse(IMAGES)))


@tensorflow_only
@pytest.mark.slow
def test_two_replicas_end_with_the_weights_of_one(mirrored):
    ends = []
    for scope in (None, mirrored.scope()):
        keras.utils.set_random_seed(5)
        if scope is None:
            model = train(stk.sparsify(sequential(), s_init=-2.0), epochs=5)
        else:
            with scope:
                model = stk.sparsify(sequential(), s_init=-2.0)
                model = train(model, epochs=5)
        ends.append(weights(model))
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@tensorflow_only
def test_threads_do_not_see_each_others_scope():
    """Swapped attributes gave 194 of 252 wrong outputs here."""
    from concurrent.futures import ThreadPoolExecutor

    sparse = stk.sparsify(functional(), s_init=-2.0)
    expected = numpy(sparse(IMAGES))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            outs = list(pool.map(lambda _: numpy(sparse(IMAGES)), range(40)))
    finally:
        sys.setswitchinterval(interval)
    for out in outs:
        np.testing.assert_array_equal(out, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2", "EfficientNetV2B0"])
def test_keras_applications(name):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(64, 64, 3), classes=5
    )
    sparse = stk.sparsify(model, s_init=-4.0)
    kernels = [v for v in model.trainable_weights if len(v.shape) > 1]
    assert len(list(find_thresholded(sparse))) == len(kernels)
    plain = stk.strip(sparse)
    x = RNG.uniform(0, 255, size=(2, 64, 64, 3)).astype("float32")
    np.testing.assert_array_equal(
        plain.predict(x, verbose=0), sparse.predict(x, verbose=0)
    )
