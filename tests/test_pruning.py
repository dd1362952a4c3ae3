"""prune, PrunedModel, SparsityRamp, keep_random: against NumPy, and as tfmot counts."""

import keras
import numpy as np
import pytest
from keras import ops

import str_keras as stk
from str_keras.budget import measure_sparsity, num_kept
from str_keras.model import find_thresholded
from str_keras.pruning import keep_random

numpy = ops.convert_to_numpy


def make_net(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, use_bias=False, name="conv"),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(5, name="head"),
        ]
    )


def images(n=16):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 8, 8, 3)).astype("float32"), rng.integers(0, 5, n)


def compiled(model, lr=0.05, **arguments):
    model.compile(
        stk.optimizers.SGD(lr, momentum=0.9, **arguments),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def largest(kernel, rate):
    """The kernel with its smallest weights zeroed, by NumPy."""
    flat = np.abs(kernel).ravel()
    order = np.argsort(flat)
    kept = kernel.ravel().copy()
    number = round(flat.size * (1 - rate))
    kept[order[: flat.size - (max(number, 1) if rate < 1 else 0)]] = 0
    return kept.reshape(kernel.shape)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_the_largest_weights_are_read(rate):
    dense = make_net()
    model = stk.prune(dense, rate)
    for item, name in zip(find_thresholded(model), ("conv", "head"), strict=True):
        raw = numpy(dense.get_layer(name).kernel)
        np.testing.assert_array_equal(numpy(item.sparse()), largest(raw, rate))
        dropped = np.abs(raw)[largest(raw, rate) == 0]
        assert float(numpy(item.threshold())) == dropped.max(initial=0)
    x, _ = images()
    plain = stk.strip(model)
    np.testing.assert_array_equal(numpy(plain(x)), numpy(model(x)))
    counted = stk.summary(model).prunable
    assert counted.nonzeros == num_kept(216, rate) + num_kept(1440, rate)
    assert stk.summary(plain).prunable.nonzeros == counted.nonzeros


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kept", [0, 1, 7, 36, 37, 71, 72])
def test_the_threshold_is_the_largest_that_goes(dtype, kept):
    """Of weights that tie, of zeros, of the smallest and the largest floats."""
    limits = np.finfo(dtype)
    some = [0.0, -0.0, 1.0, -1.0, 1.5, limits.max, -limits.tiny, np.inf]
    weights = np.random.default_rng(0).choice(some, 72).astype(dtype).reshape(9, 8)
    layers = [keras.Input((9,)), keras.layers.Dense(8, use_bias=False, dtype=dtype)]
    model = stk.prune(keras.Sequential(layers), 0.5)
    (item,) = find_thresholded(model)
    item.kernel.variable.assign(weights)
    model.kept.assign([kept])
    sizes = np.sort(np.abs(weights).ravel())
    smallest = sizes[-kept] if kept else np.inf
    dropped = sizes[sizes < smallest]
    assert float(numpy(item.threshold())) == dropped.max(initial=0)


def test_raw_weights_stay_and_the_dense_model_is_not_touched():
    dense = make_net()
    before = [numpy(v).copy() for v in dense.weights]
    stk.prune(dense, 0.9)
    for old, new in zip(before, dense.weights, strict=True):
        np.testing.assert_array_equal(old, numpy(new))


@pytest.mark.parametrize("gradient", ["masked", "straight_through"])
def test_gradient_by_one_step(gradient):
    """One step of plain SGD moves by -lr G: at pruned weights only straight through.

    G is that of a plain layer with the pruned kernel, by its own step.
    """
    x, y = images()
    model = compiled(stk.prune(make_net(), 0.7, gradient), lr=1.0)
    plain = compiled(stk.strip(model), lr=1.0)
    raw = [numpy(t.kernel.variable).copy() for t in find_thresholded(model)]
    sparse = [largest(w, 0.7) for w in raw]
    model.fit(x, y, batch_size=16, verbose=0)
    plain.fit(x, y, batch_size=16, verbose=0)
    names = ("conv", "head")
    for w, masked, name, item in zip(
        raw, sparse, names, find_thresholded(model), strict=True
    ):
        step = numpy(plain.get_layer(name).kernel) - masked
        assert np.abs(step[masked == 0]).max() > 0
        if gradient == "masked":
            step = np.where(masked != 0, step, 0)
        np.testing.assert_allclose(
            numpy(item.kernel.variable), w + step, rtol=1e-5, atol=1e-6
        )


def test_rates_by_path_leave_others_dense():
    model = stk.prune(make_net(), {"head/kernel": 0.8})
    rows = {row.path: row for row in stk.summary(model).rows}
    assert rows["conv/kernel"].nonzeros == 216
    assert rows["conv/kernel"].reason == "no rate is given"
    assert rows["head/kernel"].nonzeros == 288
    model = stk.prune(make_net(), 0.8, skip="conv")
    assert [t.kernel.path for t in find_thresholded(model)] == ["head/kernel"]


def test_a_budget_is_taken_by_layer():
    budget = stk.budget.Budget("mine", {"conv": 0.0, "head": 0.8})
    model = stk.prune(make_net(), budget)
    assert [t.kernel.path for t in find_thresholded(model)] == ["head/kernel"]
    assert stk.summary(model).kernels.nonzeros == 216 + 288
    with pytest.raises(ValueError, match="no rate for conv/kernel"):
        stk.prune(make_net(), stk.budget.Budget("half", {"head": 0.8}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rates": 90}, "share of zeros, from 0 to 1 .*90"),
        ({"rates": -0.1}, "share of zeros"),
        ({"rates": float("nan")}, "share of zeros"),
        ({"rates": {"cnov/kernel": 0.5}}, "cnov/kernel"),
        ({"rates": {"conv/kernel": 2.0}}, "conv/kernel.*2.0"),
        ({"rates": 0.5, "backward": "none"}, "backward"),
        ({"rates": 0.5, "skip": ["conv", "head"]}, "No kernel is left"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        stk.prune(make_net(), **arguments)


def test_a_model_with_thresholds_is_refused():
    with pytest.raises(ValueError, match="strip it first"):
        stk.prune(stk.sparsify(make_net()), 0.5)
    with pytest.raises(ValueError, match="strip it first"):
        stk.sparsify(stk.prune(make_net(), 0.5))


def test_ramp_is_the_cubic_of_the_authors():
    """rate (1 - (1 - (e - 20) / 60)^3) for epochs 20..79, then the rate."""
    ramp = stk.SparsityRamp(20, 80)
    for epoch in range(100):
        wanted = 0.9 * (1 - (1 - min(max(epoch - 20, 0) / 60, 1)) ** 3)
        assert 0.9 * ramp.reached_at(epoch) == pytest.approx(wanted, abs=1e-6)
    # Between two changes the rate stays, at the end it is exact.
    ramp = stk.SparsityRamp(10, 25, frequency=10)
    reached = [ramp.reached_at(step) for step in range(30)]
    assert reached[9] == reached[10] == 0.0
    assert reached[19] == reached[10] and reached[24] == reached[20] != reached[10]
    assert reached[25:] == [1.0] * 5


class Watch(keras.callbacks.Callback):
    """Counts the kept weights that the finished step had."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.kept.append([int(n) for n in numpy(self.model.kept)])


@pytest.mark.parametrize("cut", [None, 5])
def test_ramp_in_fit(cut, tmp_path):
    """At each step as many weights as the schedule says; also when training goes on."""
    x, y = images(64)
    model = compiled(stk.prune(make_net(), 0.9))
    ramp, watch = stk.SparsityRamp(2, 8, frequency=2), Watch()
    if cut is None:
        model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[ramp, watch])
    else:
        model.fit(x[:16], y[:16], epochs=cut, verbose=0, callbacks=[ramp, watch])
        assert watch.kept[0] == [216, 1440]
        model.save(tmp_path / "cut.keras")
        model = keras.models.load_model(tmp_path / "cut.keras")
        assert [int(n) for n in numpy(model.kept)] == watch.kept[-1]
        model.fit(x[:16], y[:16], epochs=12 - cut, verbose=0, callbacks=[ramp, watch])
    rates = [0.9 * ramp.reached_at(step) for step in range(12)]
    assert watch.kept == [[num_kept(216, r), num_kept(1440, r)] for r in rates]
    assert stk.summary(model).prunable.nonzeros == 22 + 144


@pytest.mark.parametrize("ramp", [(2, 16, 1), (20, 20, 1), (10, 20, 4), (3, 9, 7)])
@pytest.mark.parametrize("steps", [1, 5])
def test_the_ramp_arrives(ramp, steps):
    """Also at the end of the training, and where several steps are one call."""
    if steps > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras' torch trainer takes one step a call")
    x, y = images(80)
    model = stk.prune(make_net(), 0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(stk.optimizers.SGD(0.01), loss, steps_per_execution=steps)
    callbacks = [stk.SparsityRamp(*ramp)]
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=callbacks)
    assert stk.summary(model).prunable.nonzeros == 22 + 144


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_zeros_get_no_gradient(rate):
    """A kernel with more zeros than its rate keeps them; at rate 0 all may move."""
    dense = make_net()
    keep_random(dense, {"conv/kernel": 0.75, "head/kernel": 0.75}, seed=0)
    model = compiled(stk.prune(dense, rate))
    x, y = images()
    model.fit(x, y, epochs=2, verbose=0)
    wanted = max(rate, 0.75)
    assert stk.summary(model).prunable.nonzeros == round(1656 * (1 - wanted))
    model.set_rates([0.0, 0.0])
    model.fit(x, y, epochs=2, verbose=0)
    assert stk.summary(model).prunable.nonzeros > 1600


def test_copies_keep_weights_and_numbers():
    source, target = stk.prune(make_net(), 0.5), stk.prune(make_net(1), 0.9)
    stk.copy_weights(source, target)
    for a, b in zip(source.weights, target.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    with pytest.raises(ValueError, match="different sources"):
        stk.copy_weights(source, stk.sparsify(make_net()))


def test_skip_goes_before_the_budget():
    budget = stk.budget.Budget("mine", {"conv": 0.5, "head": 0.8})
    model = stk.prune(make_net(), budget, skip="conv")
    assert [t.kernel.path for t in find_thresholded(model)] == ["head/kernel"]


def test_sparsity_is_counted_of_scales_not_offsets():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, use_bias=False)(inputs)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    dense = keras.Model(inputs, keras.layers.Conv2D(4, 1)(x))
    (found,) = measure_sparsity(stk.sparsify_channels(dense))
    assert (found.params, found.nonzeros) == (8, 8)


@pytest.mark.parametrize("arguments", [(-1, 2), (3, 2), (0, 2, 0)])
def test_bad_ramp(arguments):
    with pytest.raises(ValueError, match="begin <= end"):
        stk.SparsityRamp(*arguments)


def test_ramp_wants_a_pruned_model():
    x, y = images()
    with pytest.raises(TypeError, match=r"stk\.prune"):
        compiled(make_net()).fit(x, y, callbacks=[stk.SparsityRamp(0, 1)], verbose=0)


def test_static_zeros_stay(tmp_path):
    dense = make_net()
    rates = {"conv/kernel": 0.5, "head/kernel": 0.9}
    keep_random(dense, rates, seed=3)
    zeros = [numpy(dense.get_layer(name).kernel) == 0 for name in ("conv", "head")]
    assert [int(z.sum()) for z in zeros] == [108, 1296]
    raw = numpy(make_net().get_layer("head").kernel)  # random, not the smallest
    assert np.abs(raw[~zeros[1]]).min() < np.abs(raw[zeros[1]]).max()
    model = compiled(stk.prune(dense, rates), weight_decay=1e-3)
    x, y = images(64)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0)
    for item, zero in zip(find_thresholded(model), zeros, strict=True):
        np.testing.assert_array_equal(numpy(item.sparse()) == 0, zero)
        assert np.all(numpy(item.kernel.variable)[zero] == 0)
    again = make_net()
    keep_random(again, rates, seed=3)
    np.testing.assert_array_equal(numpy(again.get_layer("head").kernel) == 0, zeros[1])
    with pytest.raises(ValueError, match="no such kernels"):
        keep_random(again, {"other/kernel": 0.5}, seed=0)


def test_float64_and_mixed_precision():
    for policy, kernel in (("float64", "float64"), ("mixed_float16", "float32")):
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = stk.prune(make_net(), 0.5)
        finally:
            keras.config.set_dtype_policy(before)
        item = next(find_thresholded(model))
        assert keras.backend.standardize_dtype(item.sparse().dtype) == kernel
        assert int((numpy(item.sparse()) != 0).sum()) == 108
        assert np.isfinite(numpy(model(images()[0]))).all()
