"""Operators and backward rules by themselves; runs on every backend."""

import math

import keras
import numpy as np
import preset_rules as rules
import pytest
from keras import ops

import str_keras as stk
from str_keras import operators
from str_keras.model import find_thresholded

numpy = ops.convert_to_numpy
POWERS = ("feather(1)", "feather(2)", "feather(3)", "feather(8)")
NAMES = ("soft", "hard", *POWERS)


def forward(name, w, t):
    """Of the rules, in float64."""
    if name in ("soft", "hard"):
        return getattr(rules, name)(w, t)
    # (|w|^p - t^p) = (|w| - t) (|w|^(p-1) + ... + t^(p-1)): nothing cancels.
    p, size = int(name[8:-1]), np.abs(rules.float64(w))
    rest = np.maximum(size - t, 0) * sum(size**i * t ** (p - 1 - i) for i in range(p))
    return np.where(rules.active(w, t), np.sign(w) * rest ** (1 / p), 0)


class Probe(keras.layers.Layer):
    """A kernel and a threshold behind an operator."""

    def __init__(self, kernel, threshold, operator, share):
        super().__init__(dtype=str(kernel.dtype))
        self.kernel = self.add_weight(name="w", shape=kernel.shape)
        self.threshold = self.add_weight(name="t", shape=np.shape(threshold))
        self.kernel.assign(kernel)
        self.threshold.assign(threshold)
        self.operator, self.share = operators.get_operator(operator), share
        self.built = True

    def call(self, upstream):
        w, t = map(ops.convert_to_tensor, (self.kernel, self.threshold))
        return upstream * operators.apply_threshold(w, t, self.operator, self.share)


def gradients(kernel, threshold, upstream, operator, share=0.0, **compiled):
    """To kernel and threshold: what one step of SGD of rate 1 moves them by."""
    dtype = str(kernel.dtype)
    keras.config.set_dtype_policy(dtype)
    keras.config.set_floatx(dtype)
    try:
        probe = Probe(kernel, threshold, operator, share)
        model = keras.Sequential([probe])
        sgd = keras.optimizers.SGD(1.0)
        model.compile(sgd, lambda y, out: ops.sum(out), **compiled)
        model.fit(upstream[None], np.zeros((1, 1), dtype), verbose=0)
        return kernel - numpy(probe.kernel), threshold - numpy(probe.threshold)
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_floatx("float32")


def call(name, w, t):
    w = ops.convert_to_tensor(w)
    t = ops.convert_to_tensor(t, keras.backend.standardize_dtype(w.dtype))
    return numpy(operators.apply_threshold(w, t, operators.get_operator(name), 0.0))


def case(dtype="float64"):
    """Kernel, upstream gradient; half of the weights are within 0.3."""
    rng = np.random.default_rng(7)
    w = rng.uniform(-0.6, 0.6, (4, 5))
    return w.astype(dtype), rng.normal(size=(4, 5)).astype(dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_precision_close_to_the_threshold(name, dtype):
    """Weights from one step of the dtype above it to 1e6 times of it, both signs."""
    t = np.asarray(0.037, dtype)
    near = t * (1 + np.logspace(math.log10(np.finfo(dtype).eps), 6, 50))
    w = np.concatenate([near, -near, [t, -t, np.nextafter(t, 1, dtype=dtype), t / 2]])
    w = np.append(w, [0.0, -0.0]).astype(dtype)
    found = call(name, w, t)
    assert found.dtype == dtype
    tolerance = 64 * np.finfo(dtype).eps
    np.testing.assert_allclose(found, forward(name, w, float(t)), rtol=tolerance)
    np.testing.assert_array_equal(found != 0, rules.active(w, t))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_threshold_the_kernel_is_untouched(name):
    w = np.float32([1e-30, -1e-3, 0, 3, -1e30])
    np.testing.assert_allclose(call(name, w, np.float32(0)), w, rtol=1e-6)


def test_feather_of_one_is_soft_and_of_many_hard():
    w, _ = case()
    soft, first, last, hard = (
        call(name, w, np.float64(0.3))
        for name in ("soft", "feather(1)", "feather(500)", "hard")
    )
    np.testing.assert_allclose(first, soft, rtol=1e-13)
    np.testing.assert_allclose(last, hard, rtol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_that_is_no_number_is_seen(name):
    w = np.float32([np.nan, 0.1, 1])
    np.testing.assert_array_equal(np.isnan(call(name, w, np.float32(0.3))), [1, 0, 0])


@pytest.mark.parametrize("shape", [(), (1, 5), (4, 5)], ids=["layer", "filter", "all"])
def test_soft_gradients_are_the_differences(shape):
    """Masked: the derivatives of the forward pass itself, in w and in t."""
    w, upstream = case()
    t = 0.3 + np.linspace(-0.05, 0.05, math.prod(shape)).reshape(shape)
    t = np.asarray(t)
    to_w, to_t = gradients(w, t, upstream, "soft")
    step = 1e-6
    for found, values, index in ((to_w, w, 0), (to_t, t, 1)):
        for place in np.ndindex(values.shape):
            sides = []
            for sign in (1, -1):
                moved = [w.copy(), t.copy()]
                moved[index][place] += sign * step
                sides.append(np.sum(upstream * call("soft", *moved)))
            slope = (sides[0] - sides[1]) / (2 * step)
            np.testing.assert_allclose(found[place], slope, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_gradients_are_the_backward_rules(name, share):
    """Not the operator's own: whole for active weights, `share` for the others."""
    w, upstream = case()
    to_w, to_t = gradients(w, np.float64(0.3), upstream, name, share)
    weights = np.where(rules.active(w, 0.3), 1.0, share)
    np.testing.assert_allclose(to_w, weights * upstream, rtol=1e-13, atol=1e-16)
    wanted = -np.sum(np.sign(w) * weights * upstream) if name == "soft" else 0.0
    np.testing.assert_allclose(to_t, wanted, rtol=1e-13)


def halved(kernel, threshold):
    return ops.where(ops.abs(kernel) > threshold, kernel - threshold / 2, 0.0)


def test_thresholds_are_learned_through_an_operator_of_ones_own():
    """Its slope is summed to the threshold's shape."""
    w, upstream = np.abs(case()[0]), case()[1]
    slope = lambda kernel, threshold: -ops.ones_like(kernel) / 2  # noqa: E731
    stk.register_operator("test_halved", halved, slope)
    _, to_t = gradients(w, np.full((1, 5), 0.3), upstream, "test_halved")
    wanted = -0.5 * np.sum(rules.active(w, 0.3) * upstream, axis=0, keepdims=True)
    np.testing.assert_allclose(to_t, wanted, rtol=1e-13)


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["soft", "hard", "feather(3)"])
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="XLA is not torch's")
def test_xla_computes_the_same(name, share):
    w, upstream = case("float32")
    t = np.float32(0.3)
    plain, xla = (
        gradients(w, t, upstream, name, share, jit_compile=jit) for jit in (False, True)
    )
    for a, b in zip(plain, xla, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        found = tf.function(lambda w, t: call_raw(name, w, t), jit_compile=True)(w, t)
        np.testing.assert_allclose(numpy(found), call(name, w, t), rtol=1e-6)


def call_raw(name, w, t):
    return operators.apply_threshold(w, t, operators.get_operator(name), 0.0)


@pytest.mark.parametrize("policy", ["float16", "bfloat16"])
@pytest.mark.parametrize("preset", ["str", "st3", "feather", "gmp"])
def test_kernels_of_16_bits_are_raised(policy, preset):
    """The operator's value in float32, rounded once."""
    keras.config.set_dtype_policy(policy)
    dense = keras.Sequential([keras.Input((30,)), keras.layers.Dense(40)])
    model = stk.sparsify(dense, preset=preset, target_sparsity=0.5)
    model.follow(1.0, 1.0, stk.steering.Loop(model))
    (item,) = find_thresholded(model)
    w = numpy(ops.cast(item.kernel.variable.value, "float32"))
    t = float(numpy(item.threshold()))
    names = {"str": "soft", "feather": "feather(3)", "gmp": "hard"}
    wanted = (
        forward(names[preset], w, t) if preset in names else rules.st3_forward(w, t)
    )
    found = item.sparse()
    assert keras.backend.standardize_dtype(found.dtype) == policy
    found = numpy(ops.cast(found, "float32"))
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[policy]
    np.testing.assert_allclose(found, wanted, rtol=1.01 * step, atol=6e-8)
    # Of few bits many weights are equal: those on the threshold go or stay together.
    ties = max(np.unique(np.abs(w), return_counts=True)[1])
    assert abs(np.sum(found != 0) - 600) <= ties


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
def test_other_dtypes_are_refused(dtype):
    hard = operators.get_operator("hard")
    one = ops.ones((2,), dtype)
    with pytest.raises(TypeError, match=rf"cast .* first.*kernel\.dtype={dtype}"):
        operators.apply_threshold(one, ops.ones((), dtype), hard, 0.0)
    with pytest.raises(TypeError, match=rf"one dtype.*threshold\.dtype=.*{dtype}"):
        operators.apply_threshold(ops.ones((2,)), ops.ones((), dtype), hard, 0.0)


def test_identifiers():
    get = operators.get_operator
    assert get(" feather( 2 ) ").name == "feather(2)"
    assert get("feather").name == "feather"
    w, t = ops.convert_to_tensor([2.0, 0.5]), ops.convert_to_tensor(1.0)
    default, three = (numpy(get(n).function(w, t)) for n in ("feather", "feather(3)"))
    np.testing.assert_array_equal(default, three)
    soft = get("soft")
    assert get(soft) is soft
    assert operators.get_backward("scaled(0.1)").name == "scaled(0.1)"
    again = operators.get_backward(operators.get_backward("scaled(0.1)").name)
    assert again.constant == 0.1


@pytest.mark.parametrize(
    ("kind", "identifier", "words"),
    [
        ("operator", "softer", r"Unknown operator.*feather.*hard.*soft.*'softer'"),
        ("operator", "feather(3", "Unknown operator"),
        ("operator", None, "Unknown operator.*None"),
        ("operator", "soft(1)", "it takes none"),
        ("operator", "feather(x)", "could not convert"),
        ("operator", "feather(inf)", "must be finite"),
        ("operator", "feather(nan)", "must be finite"),
        ("operator", "feather(0.9)", "at least 1"),
        ("operator", "feather(1, 2)", "takes one power"),
        ("operator", "test_bent(1, 2, 3)", "too many"),
        ("operator", "test_bent", "missing"),
        ("backward", "half", "Unknown backward.*masked"),
        ("backward", "masked(0)", "it takes none"),
        ("backward", "scaled(-0.1)", "from 0 to 1"),
        ("backward", "annealed", "from 0 to 1"),
        ("backward", "test_late", "missing"),
    ],
)
def test_wrong_names_and_parameters(kind, identifier, words):
    stk.register_operator("test_bent", bent)
    stk.register_backward("test_late", late)
    get = getattr(operators, f"get_{kind}")
    with pytest.raises(ValueError, match=words) as caught:
        get(identifier)
    assert f"Received: {kind}={identifier!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def bent(kernel, threshold, factor, power=1.0):
    return kernel


def late(progress, begin):
    return float(progress < begin)


def test_rules_of_ones_own():
    """A share that changes is told from one that does not."""
    stk.register_backward("test_late", late)
    stk.register_backward("test_late", late)  # again is no trouble
    assert operators.get_backward("test_late(0.9)").constant is None
    assert operators.get_backward("test_late(2)").constant == 1.0
    with pytest.raises(ValueError, match="Another one of this name"):
        stk.register_backward("test_late", bent)
    with pytest.raises(ValueError, match="Another one of this name"):
        stk.register_operator("soft", bent)
    with pytest.raises(ValueError, match="identifier"):
        stk.register_backward("my rule", late)


def test_a_ramp_wants_something_to_lead():
    model = stk.sparsify(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    model.compile("sgd", "mse")
    x, y = np.zeros((4, 3)), np.zeros((4, 2))
    with pytest.raises(TypeError, match="with a target"):
        model.fit(x, y, verbose=0, callbacks=[stk.SparsityRamp()])
