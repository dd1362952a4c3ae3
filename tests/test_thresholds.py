"""The operator against NumPy float64; runs on every backend."""

import keras
import numpy as np
import pytest
import reference
from keras import ops

import str_keras as stk
from str_keras import thresholds

RNG = np.random.default_rng(0)


class Probe(keras.layers.Layer):
    """Gradients by any backend: one SGD step of rate 1 on sum(upstream * output)."""

    def __init__(self, kernel, logit, g, dtype):
        super().__init__(dtype=dtype)
        self.kernel = self.add_weight(name="w", shape=kernel.shape)
        self.logit = self.add_weight(name="s", shape=np.shape(logit))
        self.kernel.assign(kernel)
        self.logit.assign(logit)
        self.g = thresholds.get_g(g)
        self.built = True

    def call(self, upstream):
        t = self.g(ops.convert_to_tensor(self.logit))
        return upstream * stk.soft_threshold(ops.convert_to_tensor(self.kernel), t)


def gradients(kernel, logit, upstream, g="sigmoid", dtype="float32"):
    keras.config.set_dtype_policy(dtype)
    keras.config.set_floatx(dtype)
    try:
        probe = Probe(kernel, logit, g, dtype)
        model = keras.Sequential([probe])
        model.compile(keras.optimizers.SGD(1.0), loss=lambda y, out: ops.sum(out))
        # Keras averages over the batch's entries: one example, one number.
        model.fit(upstream[None], np.zeros((1, 1), dtype), verbose=0)
        return (
            kernel - ops.convert_to_numpy(probe.kernel),
            logit - ops.convert_to_numpy(probe.logit),
        )
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1, 6), (5, 6)], ids=["layer", "filter", "all"])
def test_forward_is_the_formula(dtype, shape):
    w = RNG.normal(size=(5, 6)).astype(dtype)
    t = np.asarray(np.abs(RNG.normal(size=shape)), dtype)
    out = ops.convert_to_numpy(
        stk.soft_threshold(ops.convert_to_tensor(w), ops.convert_to_tensor(t, dtype))
    )
    assert out.dtype == dtype
    expected = reference.soft_threshold(w, t)
    np.testing.assert_allclose(out, expected, rtol=0, atol=np.finfo(dtype).eps * 4)
    np.testing.assert_array_equal(out == 0, np.abs(w) <= t)


def test_solvable_by_hand():
    w = ops.convert_to_tensor(np.float32([3, -2, 1, -1, 0.5, 0, -0.0]))
    out = stk.soft_threshold(w, ops.convert_to_tensor(np.float32(1)))
    np.testing.assert_array_equal(ops.convert_to_numpy(out), [2, -1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1, 6), (5, 6)], ids=["layer", "filter", "all"])
def test_gradients_are_the_formula(dtype, shape):
    w = RNG.normal(size=(5, 6)).astype(dtype)
    s = RNG.normal(size=shape).astype(dtype)
    upstream = RNG.normal(size=(5, 6)).astype(dtype)
    to_w, to_s = gradients(w, s, upstream, dtype=dtype)
    t = reference.sigmoid(s)
    expected_w, each = reference.gradients(w, t, upstream)
    axes = {(): None, (1, 6): 0, (5, 6): ()}[shape]
    expected_s = (t * (1 - t)) * each.sum(axis=axes).reshape(shape)
    tolerance = {"float32": 1e-6, "float64": 1e-13}[dtype] * 10
    np.testing.assert_allclose(to_w, expected_w, rtol=0, atol=tolerance)
    np.testing.assert_allclose(to_s, expected_s, rtol=0, atol=tolerance)


def test_ties_get_no_gradient():
    # sigmoid(0) is 1/2 exactly: weights of 1/2 stand at the threshold.
    w = np.float32([0.5, -0.5, 0.75, -1.0])
    to_w, to_s = gradients(w, np.float32(0), np.ones(4, np.float32))
    np.testing.assert_array_equal(to_w, [0, 0, 1, 1])
    assert to_s == 0  # -1 of 0.75 and +1 of -1


@pytest.mark.parametrize("s", [80.0, 89.0, 1e9])
def test_exp_overflow_prunes_all_without_nan(s):
    w = np.float32([1e30, -2, 0])
    to_w, to_s = gradients(w, np.float32(s), np.ones(3, np.float32), g="exp")
    np.testing.assert_array_equal(to_w, 0)
    assert to_s == 0


def test_exp_gradient():
    w, s = np.float32([2, -0.1, -3]), np.float32(-1)
    to_w, to_s = gradients(w, s, np.float32([1, 1, 2]), g="exp")
    np.testing.assert_array_equal(to_w, [1, 0, 2])
    np.testing.assert_allclose(to_s, np.exp(-1) * (-1 + 2), rtol=1e-6)


@pytest.mark.parametrize("s", [-3200.0, -1e9])
def test_from_the_papers_start_the_kernel_is_untouched(s):
    w = np.float32([1e-30, -2, 0])
    t = thresholds.get_g("sigmoid")(ops.convert_to_tensor(np.float32(s)))
    out = stk.soft_threshold(ops.convert_to_tensor(w), t)
    np.testing.assert_array_equal(ops.convert_to_numpy(out), w)


def test_nan_and_infinite_weights_are_not_hidden():
    w = ops.convert_to_tensor(np.float32([np.nan, np.inf, -np.inf, 1]))
    out = ops.convert_to_numpy(
        stk.soft_threshold(w, ops.convert_to_tensor(np.float32(2)))
    )
    np.testing.assert_array_equal(out, [np.nan, np.inf, -np.inf, 0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int32"])
def test_other_dtypes_are_refused(dtype):
    w = ops.cast(ops.ones((2,)), dtype)
    with pytest.raises(TypeError, match=f"kernel.dtype={dtype}"):
        stk.soft_threshold(w, ops.cast(ops.ones(()), dtype))
    with pytest.raises(TypeError, match="one dtype"):
        stk.soft_threshold(ops.ones((2,)), ops.cast(ops.ones(()), dtype))


def double(s):
    return ops.exp(2 * s)


def test_a_registered_callable_is_known_by_name_and_by_itself():
    g = stk.register_g("test_double", double, s_init=-3)
    assert thresholds.get_g("test_double") is g
    assert thresholds.get_g(double) is g
    assert stk.SoftThreshold(keras.layers.Dense(1), g=double).s_init == -3
    with pytest.raises(ValueError, match="exists"):
        stk.register_g("test_double", lambda s: s, s_init=0)


@pytest.mark.parametrize("g", ["tanh", abs, None])
def test_an_unknown_g_is_answered_with_the_known_ones(g):
    with pytest.raises(ValueError, match=r"exp.*sigmoid.*register_g"):
        thresholds.get_g(g)
