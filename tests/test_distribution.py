"""Several replicas, and a batch in parts, against one device that takes it whole."""

import keras
import numpy as np
import pytest

import str_keras as stk
from str_keras.internals import iterations

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="training uses tf.distribute"
)


def numpy(variable):
    return keras.ops.convert_to_numpy(variable)


@pytest.mark.parametrize("image", [0, 15], ids=["first replica", "last replica"])
def test_replicas_skip_a_step_in_which_one_overflows(image, mirrored):
    """Keras' own asks the first replica alone: with the last, all weights are NaN."""
    keras.config.set_dtype_policy("mixed_float16")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 6)).astype("f4"), np.zeros((64, 3), "f4")
    x[image] = 1e30
    with mirrored.scope():
        net = [keras.layers.Dense(8, "relu"), keras.layers.Dense(3, dtype="float32")]
        model = stk.sparsify(keras.Sequential([keras.Input((6,)), *net]), s_init=-2.0)
        inner = stk.optimizers.SGD(0.1, 0.9, weight_decay=1e-2)
        model.compile(stk.optimizers.LossScaleOptimizer(inner), "mse")
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert iterations(model) == 3
    assert numpy(model.optimizer.dynamic_scale) == 2.0**14
    for weight in model.weights:
        assert np.isfinite(numpy(weight)).all()


@pytest.mark.parametrize(
    ("policy", "inputs"),
    [
        ("mixed_float16", (57_344.0, 57_344.0)),  # their gradients' sum is infinite
        ("mixed_bfloat16", (1.0, 2.0**-9)),  # the sum rounds to the first alone
    ],
)
def test_gradients_of_thresholds_are_summed_in_float32(policy, inputs, mirrored):
    keras.config.set_dtype_policy(policy)
    s, w = -8.0, 0.0625
    with mirrored.scope():
        dense = keras.layers.Dense(1, use_bias=False)
        model = stk.sparsify(keras.Sequential([keras.Input((1,)), dense]), s_init=s)
        optimizer = stk.optimizers.LossScaleOptimizer(
            stk.optimizers.SGD(1e-3, momentum=0.5), initial_scale=1.0
        )
        model.compile(optimizer, lambda y, p: p * keras.ops.cast(y, p.dtype))
        (item,) = model.thresholded
        item.kernel.variable.assign([[w]])
    x = np.array(inputs, "f4")[:, None]
    y = np.full((2, 1), 2.0 if "b" in policy else 1.5, "f4")
    model.fit(x, y, batch_size=2, verbose=0)
    upstream = (x * y).mean(dtype="f8")  # of the whole batch, to the kernel
    g = 1 / (1 + np.exp(-s))
    slots = model.optimizer.inner_optimizer.variables
    (first,) = [numpy(slot) for slot in slots if "threshold" in slot.path]
    # After one step the momentum is the gradient: -sign(w) g'(s) of the kernel's.
    np.testing.assert_allclose(first, -upstream * g * (1 - g), rtol=1e-6)
