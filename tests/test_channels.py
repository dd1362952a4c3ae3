"""STR on batch norms and `shrink`: thresholds, dead channels, folded constants."""

import keras
import numpy as np
import pytest
import reference
from keras import layers, ops

import str_keras as stk
from str_keras import channels
from str_keras.channels.steps import Opaque, create_step
from str_keras.thresholds import is_threshold_logit

numpy = ops.convert_to_numpy
# A batch norm in float64 is off by 2e-7 by itself on JAX, by 1e-6 on PyTorch.
ATOL = {"tensorflow": 1e-10, "jax": 1e-6, "torch": 5e-6}[keras.backend.backend()]
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(4, 8, 8, 3))
BLOCK_BATCH_NORMS = [f"layer{i}_{j}_bn1" for i in (1, 2, 3, 4) for j in (0, 1)]


@pytest.fixture
def float64():
    keras.config.set_dtype_policy("float64")


def outputs(model, images=IMAGES):
    return [numpy(output) for output in keras.tree.flatten(model(images))]


def assert_same(before, after, atol=ATOL, images=IMAGES):
    for a, b in zip(outputs(before, images), outputs(after, images), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1, abs(a).max()))


def randomize(model, rng):
    """Weights as after training: no gamma of 1, no bias of 0."""
    for variable in model.weights:
        value = rng.normal(size=variable.shape) * 0.4
        if variable.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.5, 1.5, variable.shape)
        if "seed" not in variable.path:
            variable.assign(value)
    return model


def kill(variable, index):
    """Zeros where NumPy's `index` points."""
    value = np.array(numpy(variable))
    value[index] = 0
    variable.assign(value)


def widths(model):
    """Output channels of each layer with a kernel, by name."""
    return {
        row.path: found for row in stk.summary(model).rows for found in [row.shape[-1]]
    }


def params(model):
    return model.count_params()


# --- thresholds on batch norms -------------------------------------------------------


def norm_model(granularity="layer", s_init=-0.5, **kwargs):
    layer = channels.ChannelThreshold(
        layers.BatchNormalization(epsilon=1e-3, name="bn", **kwargs),
        s_init,
        granularity=granularity,
    )
    model = keras.Sequential([keras.Input((6,), dtype="float64"), layer])
    return model, layer


def formula(x, gamma, beta, s, mean, variance):
    scale = reference.soft_threshold(gamma, reference.sigmoid(s))
    return scale * (x - mean) / np.sqrt(variance + 1e-3) + scale * beta


@pytest.mark.parametrize("granularity", ["layer", "channel"])
@pytest.mark.parametrize("training", [False, True])
def test_forward_is_the_formula_and_dead_channels_are_zero(
    float64, granularity, training
):
    model, layer = norm_model(granularity)
    randomize(model, RNG)
    gamma = np.array([0.2, -0.2, 1.0, -1.1, 0.9, 0.3])
    layer.layer.gamma.assign(gamma)
    logit = layer.threshold_logits[0]
    logit.assign(np.full(logit.shape, -0.5))  # a threshold of 0.378
    beta, x = numpy(layer.layer.beta), RNG.normal(size=(16, 6))
    mean, variance = numpy(layer.layer.moving_mean), numpy(layer.layer.moving_variance)
    if training:
        mean, variance = x.mean(0), x.var(0)
    found = numpy(model(x, training=training))
    expected = formula(x, gamma, beta, -0.5, mean, variance)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)
    assert (found[:, [0, 1, 5]] == 0).all() and beta.all()
    assert tuple(logit.shape) == (() if granularity == "layer" else (6,))


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_gradients_are_those_of_finite_differences(float64, granularity):
    """A step of plain SGD at a rate of 1 shows them on every backend."""
    model, layer = norm_model(granularity)
    randomize(model, RNG)
    bn, logit = layer.layer, layer.threshold_logits[0]
    bn.gamma.assign([0.2, -0.2, 1.0, -1.1, 0.9, 0.3])
    logit.assign(np.full(logit.shape, -0.5))
    x, upstream = RNG.normal(size=(16, 6)), RNG.normal(size=(16, 6))
    start = [numpy(v).copy() for v in (bn.gamma, bn.beta, logit)]

    def loss(gamma, beta, s):
        out = formula(x, gamma, beta, s, x.mean(0), x.var(0))
        return np.mean(upstream * out**2)

    expected = []
    for i, value in enumerate(start):
        gradient = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [v.copy() for v in start]
                moved[i][index] += step
                sides.append(loss(*moved))
            gradient[index] = (sides[0] - sides[1]) / 2e-6
        expected.append(gradient)
    model.compile(
        keras.optimizers.SGD(1.0), lambda y, out: ops.mean(y * ops.square(out))
    )
    model.train_on_batch(x, upstream)
    for variable, before, gradient in zip(
        (bn.gamma, bn.beta, logit), start, expected, strict=True
    ):
        np.testing.assert_allclose(before - numpy(variable), gradient, atol=1e-8 + ATOL)
    assert (expected[0][[0, 1, 5]] == 0).all() and expected[2].any()


def conv_net():
    """Two blocks whose batch norms are free, and an addition."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv1")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="bn1")(x))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="bn2")(y))
    y = layers.Conv2D(5, 1, use_bias=False, name="conv2")(y)
    z = layers.Conv2D(5, 1, name="shortcut")(x)
    y = layers.Add()([layers.BatchNormalization(name="bn3")(y), z])
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(inputs, layers.Dense(4, name="classifier")(y), name="net")


def thresholded_names(model):
    return [x.name for x in model.layers if isinstance(x, channels.ChannelThreshold)]


def test_sparsify_channels_takes_the_batch_norms_whose_channels_can_leave():
    model = conv_net()
    before = [numpy(v).copy() for v in model.weights]
    assert thresholded_names(channels.sparsify_channels(model)) == ["bn2"]
    everywhere = channels.sparsify_channels(model, everywhere=True, skip="bn2")
    assert thresholded_names(everywhere) == ["bn1", "bn3"]
    for a, b in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(a, numpy(b))
    mobilenet = stk.models.MobileNetV1(0.25, (32, 32, 3), 10)
    names = [f"block{i}_depthwise_bn" for i in range(1, 14)] + ["block13_pointwise_bn"]
    assert thresholded_names(channels.sparsify_channels(mobilenet)) == names
    resnet = stk.models.ResNet18((32, 32, 3), 10)
    assert thresholded_names(channels.sparsify_channels(resnet)) == BLOCK_BATCH_NORMS


def test_a_threshold_of_zero_changes_beta_alone():
    model = randomize(conv_net(), RNG)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(np.ones(layer.gamma.shape))  # gamma beta = beta
    sparse = channels.sparsify_channels(model, s_init=-1e4, everywhere=True)
    assert_same(model, sparse, 1e-6)


def trained(model, steps=6):
    model.compile(
        stk.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-3, threshold_decay=0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    images, labels = IMAGES.astype("float32"), np.arange(4) % 4
    model.fit(images, labels, epochs=steps, batch_size=4, verbose=0)
    return model


@pytest.mark.parametrize("granularity", ["layer", "channel"])
def test_train_strip_and_shrink(granularity, tmp_path):
    sparse = channels.sparsify_channels(
        conv_net(), -1.0, granularity=granularity, everywhere=True
    )
    for name in ("bn1", "bn2", "bn3"):
        bn = sparse.get_layer(name).layer
        size = bn.gamma.shape[0]
        bn.gamma.assign([0.1, -0.1, *RNG.uniform(0.6, 1.4, size - 2)])
        bn.beta.assign(RNG.normal(size=size))
    logits = [v for v in sparse.trainable_variables if is_threshold_logit(v)]
    before = [numpy(v).copy() for v in logits]
    trained(sparse)
    assert len(logits) == 3
    assert all((numpy(v) != b).any() for v, b in zip(logits, before, strict=True))
    plain = stk.strip(sparse)
    images = IMAGES.astype("float32")
    np.testing.assert_array_equal(numpy(plain(images)), numpy(sparse(images)))
    assert "str_keras" not in plain.to_json()
    bn = plain.get_layer("bn1")
    assert type(bn) is layers.BatchNormalization
    dead = numpy(bn.gamma) == 0
    assert dead.sum() == 2 and (numpy(bn.beta)[dead] == 0).all()
    for model in (sparse, channels.shrink(sparse)):
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(numpy(again(images)), numpy(model(images)))
    # bn1 and bn2 are of one space: what leaves is dead or unread in both.
    assert widths(channels.shrink(sparse))["conv1/kernel"] == 4
    assert_same(plain, channels.shrink(sparse), 1e-5, images)


def test_decay_on_the_logit_is_that_of_the_optimizer():
    sparse = channels.sparsify_channels(conv_net(), -1e3)
    sparse.compile(stk.optimizers.SGD(0.5, threshold_decay=0.1), "mse")
    sparse.train_on_batch(IMAGES.astype("float32"), np.zeros((4, 4), "float32"))
    logits = [v for v in sparse.trainable_variables if is_threshold_logit(v)]
    for logit in logits:  # g' is 0 there: decay alone
        np.testing.assert_allclose(numpy(logit), -1e3 * (1 - 0.5 * 0.1), rtol=1e-6)


def test_kernels_and_channels_together():
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(6, 3, use_bias=False, name="conv")
    x = layers.BatchNormalization(name="bn")(stk.SoftThreshold(conv, -3.0)(inputs))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    model = keras.Model(inputs, layers.Dense(4)(x))
    sparse = trained(channels.sparsify_channels(model, -2.0))
    assert sum(is_threshold_logit(v) for v in sparse.weights) == 2
    plain = stk.strip(sparse)
    images = IMAGES.astype("float32")
    np.testing.assert_array_equal(numpy(plain(images)), numpy(sparse(images)))
    assert (numpy(plain.get_layer("conv").kernel) == 0).any()


def test_half_precision_keeps_the_logit_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    sparse = channels.sparsify_channels(conv_net(), -0.5)
    assert {v.dtype for v in sparse.weights if is_threshold_logit(v)} == {"float32"}
    sparse.get_layer("bn2").layer.gamma.assign([0.1, *[1.0] * 5])
    images = IMAGES.astype("float32")
    plain = stk.strip(sparse)
    np.testing.assert_array_equal(
        numpy(ops.cast(plain(images), "float32")),
        numpy(ops.cast(sparse(images), "float32")),
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: channels.ChannelThreshold(layers.Dense(3)), TypeError, "Dense"),
        (
            lambda: channels.ChannelThreshold(layers.BatchNormalization(scale=False)),
            ValueError,
            "scale=True",
        ),
        (
            lambda: channels.ChannelThreshold(
                layers.BatchNormalization(), granularity="filter"
            ),
            ValueError,
            "granularity",
        ),
        (
            lambda: channels.sparsify_channels(conv_net(), granularity="weight"),
            ValueError,
            "granularity",
        ),
        (
            lambda: channels.sparsify_channels(conv_net(), s_init=float("nan")),
            ValueError,
            "finite",
        ),
        (lambda: channels.sparsify_channels(conv_net(), g="no"), ValueError, "Unknown"),
        (
            lambda: channels.sparsify_channels(conv_net(), skip="bn9"),
            ValueError,
            "near it: bn",
        ),
        (
            lambda: channels.sparsify_channels(conv_net(), skip=["bn1", "bn2"]),
            ValueError,
            "everywhere=True",
        ),
        (
            lambda: channels.sparsify_channels(stk.sparsify(conv_net())),
            ValueError,
            "thresholds already",
        ),
        (
            lambda: channels.sparsify_channels(channels.sparsify_channels(conv_net())),
            ValueError,
            "thresholds already",
        ),
        (lambda: channels.sparsify_channels("net"), TypeError, "keras.Model"),
        (lambda: channels.shrink(layers.Dense(3)), TypeError, "keras.Model"),
        (lambda: channels.shrink(keras.Sequential()), ValueError, "built"),
        (lambda: channels.measure_latency([], rounds=0), ValueError, "rounds=0"),
        (
            lambda: channels.shrink_report(
                conv_net(), stk.models.MobileNetV1(0.25, (32, 32, 3), 10)
            ),
            ValueError,
            "kernels differ",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- shrink: cases counted by hand ---------------------------------------------------


def chain(*middle, size=8):
    """conv 3x3 (3 -> 4), batch norm, ReLU, `middle`, then 1x1 (4 -> 5) and Dense."""
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(4, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.ReLU(),
            *middle,
            layers.Conv2D(5, 1, use_bias=False, name="last"),
            layers.BatchNormalization(name="last_bn"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="classifier"),
        ]
    )


def test_parameters_fall_by_the_count_of_a_dead_channel(float64):
    """27 weights of its filter, 4 of its batch norm, 5 of the next layer that read it.

    The constant relu(beta - gamma mean / sqrt(var + eps)) goes into the mean of the
    next batch norm: no bias is added.
    """
    model = randomize(chain(), RNG)
    kill(model.get_layer("conv").kernel, (..., 1))
    kill(model.get_layer("bn").moving_mean, ...)
    model.get_layer("bn").beta.assign([1.0, 2.0, 3.0, 4.0])  # the constant is 2
    small = channels.shrink(model)
    assert params(model) - params(small) == 27 + 4 + 5
    assert_same(model, small)
    shift = 2 * numpy(model.get_layer("last").kernel)[0, 0, 1]
    np.testing.assert_allclose(
        numpy(small.get_layer("last_bn").moving_mean),
        numpy(model.get_layer("last_bn").moving_mean) - shift,
    )
    report = channels.shrink_report(model, small)
    assert report.channels == (4 + 5 + 2, 3 + 5 + 2)
    assert report.params == (params(model), params(small))
    assert report.macs == (36 * 27 * 4 + 36 * 20 + 10, 36 * 27 * 3 + 36 * 15 + 10)
    assert report.layers[0].channels == (4, 3) and report.latency is None
    assert "conv" in str(report) and report.to_dict()["channels"] == [11, 10]


KILLED = {
    "kernel": lambda m: kill(m.get_layer("conv").kernel, (..., 1)),
    "gamma": lambda m: kill(m.get_layer("bn").gamma, 1),
    "unread": lambda m: kill(m.get_layer("last").kernel, (..., 1, slice(None))),
}


@pytest.mark.parametrize("killed", KILLED)
@pytest.mark.parametrize("constant", [0.0, 0.7, -0.7])
def test_dead_by_kernel_by_gamma_or_unread(float64, killed, constant):
    model = randomize(chain(), RNG)
    kill(model.get_layer("bn").moving_mean, 1)
    model.get_layer("bn").beta.assign([1.0, constant, 3.0, 4.0])
    KILLED[killed](model)
    small = channels.shrink(model)
    assert params(model) - params(small) == 27 + 4 + 5
    assert_same(model, small)


# Layers between a dead channel and its reader; whether a constant other than 0 passes.
BETWEEN = {
    "nothing": (lambda: [], True),
    "valid": (lambda: [layers.Conv2D(4, 3, name="next")], True),
    "same": (lambda: [layers.Conv2D(4, 3, padding="same", name="next")], False),
    "same 1x1": (lambda: [layers.Conv2D(4, 1, padding="same", name="next")], True),
    "zero padding": (lambda: [layers.ZeroPadding2D(1), layers.Conv2D(4, 3)], False),
    "zero padding, 1x1": (lambda: [layers.ZeroPadding2D(1)], False),
    "depthwise valid": (lambda: [layers.DepthwiseConv2D(3)], True),
    "depthwise same": (lambda: [layers.DepthwiseConv2D(3, padding="same")], False),
    "max pool": (lambda: [layers.MaxPooling2D(3, padding="same")], True),
    "average pool": (lambda: [layers.AveragePooling2D(2)], True),
    "average pool, same": (lambda: [layers.AveragePooling2D(3, padding="same")], False),
    "cropping": (lambda: [layers.Cropping2D(1)], True),
    "upsampling": (lambda: [layers.UpSampling2D(2)], True),
    "dropout": (lambda: [layers.SpatialDropout2D(0.5), layers.Dropout(0.5)], True),
    "relu6": (lambda: [layers.ReLU(6.0), layers.Activation("swish")], True),
    "dense": (lambda: [layers.Dense(4, activation="tanh")], True),
    "batch norm": (lambda: [layers.BatchNormalization()], True),
    "normalization over channels": (lambda: [layers.LayerNormalization()], None),
    "softmax": (lambda: [layers.Activation("softmax")], None),
    "groups": (lambda: [layers.Conv2D(4, 1, groups=2)], None),
    "transposed": (lambda: [layers.Conv2DTranspose(4, 3)], None),
    "multiplier": (lambda: [layers.DepthwiseConv2D(3, depth_multiplier=2)], None),
    "reshape": (lambda: [layers.Reshape((9, 4, 4))], None),
    "permute": (lambda: [layers.Permute((2, 1, 3))], None),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_padding_and_what_stands_between(float64, name):
    """A constant is folded exactly where it is one; unknown layers are left alone."""
    create, folds = BETWEEN[name]
    model = randomize(chain(*create()), RNG)
    kill(model.get_layer("conv").kernel, (..., [1, 3]))
    kill(model.get_layer("bn").moving_mean, [1, 3])
    model.get_layer("bn").beta.assign([1.0, 0.0, 3.0, 2.0])  # the constants: 0 and 2
    small = channels.shrink(model)
    assert_same(model, small)
    # 0 leaves in any case; 2 does not where zeros are padded.
    left = {True: 2, False: 3, None: 4}[folds]
    assert widths(small)["conv/kernel"] == left
    assert (params(small) < params(model)) == (left < 4)


def test_a_bias_is_given_only_where_a_constant_needs_it(float64):
    inputs = keras.Input((5,))
    x = layers.Dense(4, name="hidden", activation="relu")(inputs)
    model = keras.Model(inputs, layers.Dense(3, use_bias=False, name="classifier")(x))
    x = RNG.normal(size=(4, 5))
    randomize(model, RNG)
    kill(model.get_layer("hidden").kernel, (..., 2))
    model.get_layer("hidden").bias.assign([0.1, 0.2, 0.5, 0.3])
    small = channels.shrink(model)
    assert_same(model, small, images=x)
    assert params(small) == params(model) - 5 - 1 - 3 + 3
    model.get_layer("hidden").bias.assign([0.1, 0.2, -0.5, 0.3])  # ReLU makes it 0
    small = channels.shrink(model)
    assert_same(model, small, images=x)
    assert params(small) == params(model) - 5 - 1 - 3


def test_death_spreads_both_ways_in_one_sweep(float64):
    """Nobody reads b: so nobody reads what only b read, and so on to the input."""
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="a")(inputs)
    x = layers.Dense(4, name="b")(x)
    x = layers.Dense(4, name="c")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="d")(x)), RNG)
    kernel = np.array(numpy(model.get_layer("b").kernel))
    kernel[1, :3] = 0  # a's channel 1 is read by b's channel 3 alone
    model.get_layer("b").kernel.assign(kernel)
    kill(model.get_layer("c").kernel, (3, slice(None)))  # and that one by nobody
    kill(model.get_layer("c").kernel, (slice(None), 0))  # c's channel 0: its bias
    small = channels.shrink(model)
    assert_same(model, small, images=RNG.normal(size=(4, 3)))
    assert list(widths(small).values()) == [3, 3, 3, 2]
    assert params(small) == 3 * 3 + 3 + 3 * 3 + 3 + 3 * 3 + 3 + 3 * 2 + 2


def residual(kill_all):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 1, name="stem")(inputs)
    y = layers.Conv2D(4, 3, padding="same", use_bias=False, name="inside")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="inside_bn")(y))
    y = layers.Conv2D(6, 1, use_bias=False, name="branch")(y)
    y = layers.BatchNormalization(name="branch_bn")(y)
    x = layers.ReLU()(layers.Add()([y, x]))
    x = layers.GlobalAveragePooling2D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="classifier")(x)), RNG)
    kill(model.get_layer("branch_bn").gamma, [0, 1])
    if kill_all:
        kill(model.get_layer("stem").kernel, (..., 0))
        kill(model.get_layer("inside").kernel, (..., 0, slice(None)))
    return model


def test_a_channel_leaves_an_addition_if_all_its_terms_allow_it(float64):
    model = residual(kill_all=False)
    small = channels.shrink(model)
    assert_same(model, small)
    assert widths(small)["stem/kernel"] == 6
    # The branch's two dead filters stay, as zeros.
    zeros = (numpy(small.get_layer("branch").kernel) == 0).all((0, 1, 2))
    assert zeros.tolist() == [True, True, False, False, False, False]
    model = residual(kill_all=True)
    small = channels.shrink(model)
    assert_same(model, small)
    found = widths(small)
    assert (found["stem/kernel"], found["branch/kernel"]) == (5, 5)


def test_a_branch_that_is_dead_as_a_whole_keeps_one_channel(float64):
    model = residual(kill_all=False)
    kill(model.get_layer("branch_bn").gamma, ...)
    small = channels.shrink(model)
    assert_same(model, small)
    assert widths(small)["inside/kernel"] == 1
    for name in ("stem", "inside", "branch", "classifier"):  # and nothing but zeros
        kill(model.get_layer(name).kernel, ...)
    small = channels.shrink(model)
    assert_same(model, small)
    assert list(widths(small).values()) == [1, 1, 1, 2]


def test_flatten_and_its_features(float64):
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(layers.Flatten()(x))
    model = randomize(keras.Model(inputs, layers.Dense(2, name="classifier")(x)), RNG)
    kill(model.get_layer("conv").kernel, (..., 3))
    kernel = np.array(numpy(model.get_layer("classifier").kernel)).reshape(4, 5, 2)
    kernel[:, 0] = 0  # channel 0 is unread at all positions, channel 1 at one of them
    kernel[2, 1] = 0
    model.get_layer("classifier").kernel.assign(kernel.reshape(20, 2))
    small = channels.shrink(model)
    assert_same(model, small, images=RNG.normal(size=(4, 4, 4, 3)))
    assert widths(small)["conv/kernel"] == 3
    assert tuple(small.get_layer("classifier").kernel.shape) == (12, 2)


class Doubled(layers.Dense):
    """A subclass computes what it likes."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs) + 1


@keras.saving.register_keras_serializable("test")
def relu(x):
    """The name of a known activation, and not elementwise."""
    return x - ops.max(x, -1, keepdims=True)


def opaque_models():
    def shared(x):
        dense = layers.Dense(4)
        return dense(dense(x))

    yield "shared", shared
    yield "subclass", lambda x: Doubled(4)(x)
    yield "operation", lambda x: ops.cumsum(x, axis=-1)
    yield "concatenate", lambda x: layers.Concatenate()([x, x])
    yield "split", lambda x: layers.Concatenate()(ops.split(x, 2, axis=-1))
    yield "multiply", lambda x: layers.Multiply()([x, ops.sigmoid(x)])
    yield "broadcast", lambda x: layers.Add()([x, layers.Dense(1)(x)])
    yield "softmax", lambda x: layers.Dense(4, activation="softmax")(x)
    yield "activation", lambda x: layers.Activation(relu)(x)
    yield "einsum", lambda x: layers.EinsumDense("ab,bc->ac", output_shape=4)(x)
    yield "passed on twice", lambda x: layers.Add()([x, x, layers.ReLU()(x)])


@pytest.mark.parametrize(("name", "middle"), list(opaque_models()))
def test_unknown_layers_are_left_alone(float64, name, middle):
    inputs = keras.Input((3,))
    x = layers.Dense(4, activation="relu", name="first")(inputs)
    x = layers.Dense(4, name="last")(middle(x))
    outputs = layers.Dense(2, name="classifier")(x)
    model = randomize(keras.Model(inputs, outputs), RNG)
    kill(model.get_layer("first").kernel, (..., 1))
    kill(model.get_layer("last").kernel, (..., 2))
    small = channels.shrink(model)
    assert_same(model, small, images=RNG.normal(size=(6, 3)))
    assert widths(small)["last/kernel"] == 3
    known = name in ("softmax", "passed on twice")
    assert widths(small)["first/kernel"] == (3 if known else 4)


def test_channels_first_is_left_alone():
    x = keras.KerasTensor((None, 3, 8, 8))
    layer = layers.Conv2D(4, 3, data_format="channels_first")
    layer.build(x.shape)
    assert type(create_step(layer, [x], keras.KerasTensor((None, 4, 6, 6)))) is Opaque
    layer = layers.BatchNormalization(axis=1)
    layer.build(x.shape)
    assert type(create_step(layer, [x], x)) is Opaque


TOLD = pytest.mark.parametrize(
    ("training", "left"), [(True, 4), (False, 3), (None, 3)], ids=str
)


@TOLD
@pytest.mark.parametrize("kind", [layers.BatchNormalization, layers.GaussianNoise])
def test_a_layer_told_to_train_is_left_alone(float64, kind, training, left):
    """A batch norm of the batch has another constant, noise has none."""
    inputs = keras.Input((8, 8, 3))
    layer = kind(1.0) if kind is layers.GaussianNoise else kind()
    x = layers.Conv2D(4, 3, use_bias=False, name="conv")(inputs)
    x = layers.Conv2D(5, 1, name="last")(layer(x, training=training))
    x = layers.GlobalAveragePooling2D()(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)), RNG)
    kill(model.get_layer("conv").kernel, (..., 1))
    small = channels.shrink(model)
    assert widths(small)["conv/kernel"] == left
    if kind is layers.BatchNormalization:
        assert_same(model, small)


@TOLD
@pytest.mark.parametrize("first", [True, False])
def test_all_layers_of_a_model_told_to_train_are_left_alone(
    float64, training, left, first
):
    """Also where another call of it, before or after, is not told so."""
    inner = randomize(chain(), RNG)
    kill(inner.get_layer("conv").kernel, (..., 1))
    inner.name = "encoder"
    inputs = keras.Input((8, 8, 3))
    calls = [inner(inputs, training=training if i == first else None) for i in (0, 1)]
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Add()(calls)))
    small = channels.shrink(model)
    assert widths(small)["encoder/conv/kernel"] == left
    assert_same(model, small)


def test_nested_models_shrink_inside_and_keep_their_borders(float64):
    inner = randomize(chain(), RNG)
    kill(inner.get_layer("conv").kernel, (..., 1))
    kill(inner.get_layer("classifier").kernel, (..., 0))
    inputs = keras.Input((8, 8, 3))
    inner.name = "encoder"
    twice = layers.Add()([inner(inputs), inner(layers.Dense(3, name="d")(inputs))])
    model = keras.Model(inputs, layers.Dense(2, name="head")(twice))
    small = channels.shrink(model)
    assert_same(model, small)
    assert widths(small)["encoder/conv/kernel"] == 3
    assert widths(small)["encoder/classifier/kernel"] == 2


def test_outputs_keep_their_shapes_names_and_order(float64):
    inputs = {"a": keras.Input((8, 8, 3), name="a"), "b": keras.Input((3,), name="b")}
    x = layers.Conv2D(4, 3, name="conv")(inputs["a"])
    features = layers.GlobalAveragePooling2D(name="features")(x)
    y = layers.Dense(4, activation="relu", name="hidden")(inputs["b"])
    heads = [layers.Dense(2, name="head")(y), features]
    model = randomize(keras.Model(inputs, heads, name="two"), RNG)
    kill(model.get_layer("conv").kernel, (..., 1))
    kill(model.get_layer("hidden").kernel, (..., 1))
    small = channels.shrink(model)
    assert small.output_names == model.output_names and small.name == "two"
    assert [x.shape for x in small.outputs] == [x.shape for x in model.outputs]
    assert widths(small)["hidden/kernel"] == 3
    assert_same(model, small, images={"a": IMAGES, "b": RNG.normal(size=(4, 3))})


# --- shrink: networks ----------------------------------------------------------------


def die(model, rng):
    """Kills filters, gammas, readers at random; some constants become 0 too."""
    for variable in model.weights:
        size = variable.shape[-1]
        dead = rng.random(size) < 0.3
        if variable.name == "gamma":
            kill(variable, dead)
        elif variable.name in ("beta", "bias", "moving_mean"):
            kill(variable, rng.random(size) < 0.5)
        elif variable.name == "kernel":
            kill(variable, (..., dead))
            if len(variable.shape) > 1 and variable.shape[-2] > 3:
                unread = rng.random(variable.shape[-2]) < 0.2
                kill(variable, (..., unread, slice(None)))
    return model


def random_conv(x, rng, filters=None):
    kind = rng.integers(4)
    padding = str(rng.choice(["same", "valid"])) if x.shape[1] > 3 else "same"
    if kind == 0 and padding == "valid":
        x = layers.ZeroPadding2D(1)(x)
    arguments = {
        "padding": padding,
        "use_bias": bool(rng.integers(2)),
        "activation": str(rng.choice(["linear", "relu", "sigmoid"])),
    }
    if kind == 1 and filters is None:
        return layers.DepthwiseConv2D(3, **arguments)(x)
    filters = filters or int(rng.integers(2, 7))
    size = 3 if x.shape[1] > 3 else 1
    stride = int(rng.integers(1, 3)) if x.shape[1] > 5 else 1
    return layers.Conv2D(filters, size, strides=stride, **arguments)(x)


def random_norm(x, rng):
    if rng.integers(3):
        x = layers.BatchNormalization(scale=bool(rng.integers(4)))(x)
    return layers.Activation(str(rng.choice(["relu", "relu6", "elu", "linear"])))(x)


def random_block(x, rng):
    kind = rng.integers(6)
    if kind == 0:
        inside = random_norm(layers.Conv2D(5, 1, use_bias=False)(x), rng)
        inside = layers.Conv2D(x.shape[-1], 3, padding="same", use_bias=False)(inside)
        shortcut = layers.Conv2D(x.shape[-1], 1)(x) if rng.integers(2) else x
        return layers.Add()([layers.BatchNormalization()(inside), shortcut])
    if kind == 1 and x.shape[1] > 3:
        pools = layers.MaxPooling2D, layers.AveragePooling2D
        padding = str(rng.choice(["same", "valid"]))
        return pools[rng.integers(2)](2, padding=padding)(x)
    if kind == 2:
        return layers.Dropout(0.1)(layers.Dense(4, activation="gelu")(x))
    return random_norm(random_conv(x, rng), rng)


def random_net(rng):
    inputs = x = keras.Input((12, 12, 3))
    for _ in range(rng.integers(3, 7)):
        x = random_block(x, rng)
    kinds = (
        layers.GlobalAveragePooling2D,
        layers.GlobalMaxPooling2D,
        layers.Flatten,
    )
    x = kinds[rng.integers(3)]()(x)
    if rng.integers(2):
        x = layers.Dense(6, activation="relu")(x)
    x = layers.Dense(3, use_bias=bool(rng.integers(2)))(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("seed", range(12))
def test_random_nets_give_the_same_outputs(float64, seed):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(3, 12, 12, 3))
    dense = randomize(random_net(rng), rng)
    assert params(channels.shrink(dense)) == params(dense)
    model = die(dense, rng)
    small = channels.shrink(model)
    np.testing.assert_allclose(numpy(small(images)), numpy(model(images)), atol=ATOL)
    assert params(small) < params(model)
    assert params(channels.shrink(small)) == params(small)


NETWORKS = {
    "mobilenetv1": lambda: stk.models.MobileNetV1(0.25, (32, 32, 3), 10, "small"),
    "resnet18": lambda: stk.models.ResNet18((32, 32, 3), 10),
    "resnet50": lambda: stk.models.ResNet50((32, 32, 3), 10),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_of_the_package(name, tmp_path):
    rng = np.random.default_rng(0)
    model = NETWORKS[name]()
    images = rng.normal(size=(2, 32, 32, 3)).astype("float32")
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            size = layer.gamma.shape
            layer.beta.assign(rng.normal(size=size) * 0.3)
            layer.moving_mean.assign(rng.normal(size=size) * 0.3)
    if name == "mobilenetv1":  # all alive: nothing happens
        same = channels.shrink(model)
        for a, b in zip(model.weights, same.weights, strict=True):
            np.testing.assert_array_equal(numpy(a), numpy(b))
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            dead = rng.random(layer.kernel.shape[-1]) < 0.4
            kill(layer.kernel, (..., dead))
    small = channels.shrink(model)
    assert params(small) < 0.85 * params(model)
    expected = numpy(model(images))
    tolerance = 1e-5 * max(1, abs(expected).max())
    np.testing.assert_allclose(numpy(small(images)), expected, rtol=0, atol=tolerance)
    small.save(tmp_path / "small.keras")
    again = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(numpy(again(images)), numpy(small(images)))
    assert [x.name for x in small.layers] == [x.name for x in model.layers]


def test_filters_that_died_under_str_leave_a_sparse_model():
    sparse = stk.sparsify(chain(), s_init=-1.0)  # a threshold of 0.27
    kernel = RNG.uniform(0.4, 1.0, (3, 3, 3, 4)) * np.array([1, 0.2, -1, -0.2])
    sparse.get_layer("conv").kernel.assign(kernel)
    images = IMAGES.astype("float32")
    small = channels.shrink(sparse)
    assert widths(small)["conv/kernel"] == 2
    assert_same(stk.strip(sparse), small, 1e-5, images)
    small.compile("sgd", "mse")  # it is an ordinary model: training goes on
    assert np.isfinite(small.train_on_batch(images, np.zeros((4, 2), "float32")))


def test_latency_takes_turns_and_gives_medians():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    medians = channels.measure_latency(calls, rounds=20)
    assert len(medians) == 2 and all(seconds > 0 for seconds in medians)
    assert order == ["a", "b"] * 22  # 2 rounds to warm up
    model = chain()
    report = channels.shrink_report(
        model, channels.shrink(model), IMAGES.astype("float32"), rounds=1
    )
    assert min(report.latency) > 0 and "times as fast" in str(report)
