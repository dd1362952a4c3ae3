"""SoftThreshold over the table of layers; runs on every backend."""

import keras
import numpy as np
import pytest
import reference
from descriptors import BY_NAME, CASES
from keras import ops

import str_keras as stk
from str_keras.thresholds import is_threshold_logit

TENSORFLOW = keras.backend.backend() == "tensorflow"
S_INIT = -2.0
numpy = ops.convert_to_numpy
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def wrapped_and_inputs(case, dtype=None, **kwargs):
    kwargs = {"s_init": S_INIT, **kwargs}
    layer = stk.SoftThreshold(case.create(), **kwargs)
    x = case.inputs()
    return case.net(layer), layer, x if case.classes else x.astype(dtype or "float32")


def sparse_in_numpy(layer):
    """Weights of the wrapped layer, its kernels thresholded by the reference."""
    logits = {id(t.kernel.variable): t.logit for t in layer.thresholded}
    return [
        reference.soft_threshold(
            numpy(v),
            reference.sigmoid(numpy(logits[id(v)])),
        )
        if id(v) in logits
        else numpy(v)
        for v in layer.layer.weights
    ]


def plain_twin(case, layer, model):
    twin = case.net()
    twin.set_weights(sparse_in_numpy(layer))
    return twin


@cases
@pytest.mark.parametrize("granularity", ["layer", "filter", "weight"])
def test_forward_is_the_plain_layer_with_sparse_kernels(case, granularity):
    model, layer, x = wrapped_and_inputs(case, granularity=granularity)
    for t in layer.thresholded:  # different logits, so that broadcasting is seen
        noise = np.random.default_rng(2).normal(S_INIT, 1, t.logit.shape)
        t.logit.assign(noise)
    expected = plain_twin(case, layer, model)(x)
    np.testing.assert_allclose(numpy(model(x)), numpy(expected), atol=2e-6)


@cases
def test_logits_are_float32_scalars_or_per_filter(case):
    _, layer, _ = wrapped_and_inputs(case)
    assert [t.logit.shape for t in layer.thresholded] == [()] * len(case.macs)
    _, layer, _ = wrapped_and_inputs(case, granularity="filter")
    assert tuple(t.logit.shape for t in layer.thresholded) == case.filters
    _, layer, _ = wrapped_and_inputs(case, granularity="weight")
    for t in layer.thresholded:
        assert t.logit.shape == t.kernel.variable.shape
        assert t.logit.dtype == "float32"


@cases
def test_gradients_are_those_of_the_plain_layer_masked(case):
    """One SGD step of rate 1 shows the gradients on any backend."""
    model, layer, x = wrapped_and_inputs(case)
    twin = plain_twin(case, layer, model)
    y = np.zeros(model(x).shape, np.float32)
    before = {}
    for net in (model, twin):
        net.compile(keras.optimizers.SGD(1.0), "mse")
        before[net] = [numpy(v) for v in net.weights]
        net.fit(x, y, batch_size=4, verbose=0)
    steps = {
        net: [b - numpy(v) for b, v in zip(old, net.weights, strict=True)]
        for net, old in before.items()
    }
    by_id = dict(zip(map(id, model.weights), steps[model], strict=True))
    raw = dict(zip(map(id, model.weights), before[model], strict=True))
    logit_of = {id(t.kernel.variable): t.logit for t in layer.thresholded}
    for variable, upstream in zip(layer.layer.weights, steps[twin], strict=True):
        if id(variable) not in logit_of:
            np.testing.assert_allclose(by_id[id(variable)], upstream, atol=1e-5)
            continue
        s = raw[id(logit_of[id(variable)])]
        t = reference.sigmoid(s)
        to_w, to_t = reference.gradients(raw[id(variable)], t, upstream)
        np.testing.assert_allclose(by_id[id(variable)], to_w, atol=1e-5)
        to_s = by_id[id(logit_of[id(variable)])]
        np.testing.assert_allclose(to_s, t * (1 - t) * to_t.sum(), atol=1e-5, rtol=1e-4)


@cases
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_files_keep_raw_kernels_and_logits(case, suffix, tmp_path):
    model, layer, x = wrapped_and_inputs(case, granularity="filter")
    path = str(tmp_path / f"model{suffix}")
    if suffix == ".keras":
        model.save(path)
        loaded = keras.models.load_model(path)
        for key in ("name", "s_init", "g", "granularity", "kernels"):
            assert (
                loaded.get_layer(layer.name).get_config()[key]
                == layer.get_config()[key]
            )
    else:
        model.save_weights(path)
        loaded, *_ = wrapped_and_inputs(case, granularity="filter", s_init=-1)
        loaded.load_weights(path)
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    np.testing.assert_array_equal(numpy(model(x)), numpy(loaded(x)))


POLICIES = ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64"]


SOME = ["dense", "conv2d", "separable2d", "einsum_heads", "bidirectional", "fast_grnn"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", SOME)
def test_dtype_policies(name, policy):
    case = BY_NAME[name]
    keras.config.set_dtype_policy(policy)
    model, layer, x = wrapped_and_inputs(case)
    wide = "float64" if policy == "float64" else "float32"
    narrow = policy.removeprefix("mixed_")
    for t in layer.thresholded:
        assert t.logit.dtype == wide
        assert keras.backend.standardize_dtype(t.threshold().dtype) == wide
        sparse = t.sparse()
        assert keras.backend.standardize_dtype(sparse.dtype) == t.kernel.variable.dtype
        # Zeros stand where float32 puts them, whatever the layer computes in.
        raw = numpy(ops.cast(t.kernel.variable, wide))
        zeros = np.abs(raw) <= reference.sigmoid(S_INIT).astype(wide)
        found = numpy(ops.cast(sparse, wide)) == 0
        np.testing.assert_array_equal(found, zeros)
    out = model(x)
    assert keras.backend.standardize_dtype(out.dtype) == narrow
    loose = plain_twin(case, layer, model)
    tolerance = {"float64": 1e-12, "float16": 2e-2, "bfloat16": 1e-1}[narrow]
    np.testing.assert_allclose(
        numpy(ops.cast(out, "float32")),
        numpy(ops.cast(loose(x), "float32")),
        atol=max(tolerance, 1e-6),
    )


def test_the_logits_gradient_is_summed_in_float32_under_mixed_precision():
    """A sum of 200,000 terms of 1 overflows float16, whose largest number is 65,504."""
    keras.config.set_dtype_policy("mixed_float16")
    dense = keras.layers.Dense(2000, use_bias=False, kernel_initializer="ones")
    layer = stk.SoftThreshold(dense, s_init=-1.0)
    model = keras.Sequential([keras.Input((100,)), layer])
    optimizer = keras.optimizers.SGD(1.0)
    model.compile(
        optimizer,
        loss=lambda y, out: ops.sum(ops.cast(out, "float32"), -1),
        auto_scale_loss=False,
    )
    model.fit(np.ones((1, 100)), np.zeros((1, 2000)), batch_size=1, verbose=0)
    t = reference.sigmoid(-1.0)
    moved = float(numpy(layer.threshold_logits[0])) + 1.0
    np.testing.assert_allclose(moved, 200_000 * t * (1 - t), rtol=1e-3)


@pytest.mark.skipif(not TENSORFLOW, reason="jit_compile is a choice on TensorFlow only")
@pytest.mark.parametrize("name", ["dense", "conv2d", "separable2d", "lstm"])
def test_xla_trains_to_the_same_weights(name):
    case, ends = BY_NAME[name], []
    for jit in (False, True):
        keras.utils.set_random_seed(3)
        model, _, x = wrapped_and_inputs(case)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
        y = np.zeros(model(x).shape)
        model.fit(x, y, epochs=3, verbose=0)
        ends.append([numpy(v) for v in model.weights])
    for a, b in zip(*ends, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_layers_of_other_types_by_naming_their_kernels():
    """Attention layers by name; of a known type some kernels only, by name too."""
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    lstm = stk.SoftThreshold(
        keras.layers.LSTM(4), s_init=S_INIT, kernels=["recurrent_kernel"]
    )
    out = lstm(x)
    assert [t.kernel.variable.name for t in lstm.thresholded] == ["recurrent_kernel"]
    plain = keras.layers.LSTM(4)
    plain.build(x.shape)
    plain.set_weights(sparse_in_numpy(lstm))
    np.testing.assert_allclose(numpy(out), numpy(plain(x)), atol=1e-6)
    heads = stk.SoftThreshold(
        keras.layers.MultiHeadAttention(2, 3), s_init=S_INIT, kernels=["kernel"]
    )
    assert heads(x, x).shape == (2, 5, 3)
    assert len(heads.thresholded) == 4


def test_updates_inside_pass_through():
    """Batch-norm statistics and dropout seeds change, activity losses are kept."""

    @keras.saving.register_keras_serializable("test")
    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(4, activity_regularizer="l2")
            self.norm = keras.layers.BatchNormalization()
            self.drop = keras.layers.Dropout(0.5, seed=1)

        def build(self, shape):
            self.dense.build(shape)
            self.norm.build((*shape[:-1], 4))

        def call(self, x, training=None):
            x = self.norm(self.dense(x), training=training)
            return self.drop(x, training=training)

    layer = stk.SoftThreshold(Block(), s_init=S_INIT, kernels=["kernel"])
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    first = numpy(layer(x, training=True))
    second = numpy(layer(x, training=True))
    assert ((first == 0) != (second == 0)).any()
    assert len(layer.losses) == 1 and float(numpy(layer.losses[0])) > 0
    assert np.abs(numpy(layer.layer.norm.moving_mean)).max() > 0


def test_regularizers_act_on_the_raw_kernel():
    layer = stk.SoftThreshold(
        keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5)), s_init=3
    )
    layer.build((None, 4))
    raw = numpy(layer.layer.kernel)
    loss = numpy(sum(layer.losses))
    np.testing.assert_allclose(loss, 0.5 * (raw**2).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"layer": keras.layers.ReLU()}, TypeError, "kernels=.*Received: layer=ReLU"),
        ({"layer": keras.layers.PReLU()}, TypeError, "Received: layer=PReLU"),
        ({"layer": 3}, ValueError, "Layer 3 supplied"),
        ({"granularity": "channel"}, ValueError, "granularity='channel'"),
        ({"s_init": float("nan")}, ValueError, "s_init=nan"),
        ({"s_init": "low"}, ValueError, "s_init='low'"),
        ({"s_init": "-1"}, ValueError, "s_init='-1'"),
        ({"s_init": True}, ValueError, "s_init=True"),
        ({"s_init": -(10**400)}, ValueError, "finite number"),
        ({"g": "softplus"}, ValueError, "g='softplus'"),
    ],
)
def test_bad_arguments(arguments, error, match):
    arguments = {"layer": keras.layers.Dense(2), **arguments}
    with pytest.raises(error, match=match):
        stk.SoftThreshold(**arguments)


def test_wrapping_twice_is_refused():
    with pytest.raises(ValueError, match="has thresholds already"):
        stk.SoftThreshold(stk.SoftThreshold(keras.layers.Dense(2)))


def test_a_kernel_name_that_is_not_there():
    layer = stk.SoftThreshold(keras.layers.LSTM(2), kernels=["weights"])
    with pytest.raises(ValueError, match=r"recurrent_kernel.*kernels=\['weights'\]"):
        layer.build((None, 3, 4))


def test_a_quantized_layer_is_refused():
    layer = stk.SoftThreshold(keras.layers.Dense(4))
    layer.build((None, 8))
    layer.layer.quantize("int8")
    with pytest.raises(ValueError, match="strip first"):
        layer.call(np.ones((1, 8), np.float32))


def test_logits_are_told_by_their_name():
    _, layer, _ = wrapped_and_inputs(BY_NAME["separable1d"])
    names = [v.name for v in layer.weights if is_threshold_logit(v)]
    assert names == [
        "threshold_logit_depthwise_kernel",
        "threshold_logit_pointwise_kernel",
    ]


def test_both_directions_are_told_apart():
    _, layer, _ = wrapped_and_inputs(BY_NAME["bidirectional"])
    names = [v.name for v in layer.weights if is_threshold_logit(v)]
    assert names == [
        f"threshold_logit_{side}_{kernel}"
        for side in ("forward", "backward")
        for kernel in ("kernel", "recurrent_kernel")
    ]


def test_thresholds_of_a_recurrent_layer_are_computed_once_a_call(monkeypatch):
    """Not at each of the four steps, which are written out here."""
    from str_keras import layers as module

    calls, original = [], module.apply_threshold
    monkeypatch.setattr(
        module, "apply_threshold", lambda w, *a: calls.append(w) or original(w, *a)
    )
    layer = stk.SoftThreshold(keras.layers.LSTM(3, unroll=True), s_init=S_INIT)
    layer(np.ones((2, 4, 5), "float32"))
    calls.clear()
    layer(np.ones((2, 4, 5), "float32"))
    assert len(calls) == 2


def test_the_wrapped_layers_own_policy_decides():
    """Under mixed precision a float32 layer must not get inputs cut to float16."""
    keras.config.set_dtype_policy("mixed_float16")
    layer = stk.SoftThreshold(keras.layers.Dense(4, dtype="float32"), s_init=S_INIT)
    x = np.random.default_rng(0).normal(size=(8, 16)).astype("float32")
    out = layer(x)
    assert keras.backend.standardize_dtype(out.dtype) == "float32"
    plain = keras.layers.Dense(4, dtype="float32")
    plain.build(x.shape)
    plain.set_weights(sparse_in_numpy(layer))
    np.testing.assert_allclose(numpy(out), numpy(plain(x)), atol=1e-6)
