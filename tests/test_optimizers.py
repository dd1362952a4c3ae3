"""The rules against NumPy in float64, torch.optim and Keras; then in real training."""

from pathlib import Path

import keras
import numpy as np
import pytest

import str_keras as stk
from str_keras import schedules
from str_keras.forecasting import forecast
from str_keras.optimizers import SGD, Adam, AdamW

BACKEND = keras.backend.backend()
tensorflow_only = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="tf.distribute, tf.function and IndexedSlices"
)

SHAPES = {
    "kernel": (4, 3),
    "bias": (3,),
    "gamma": (3,),
    "beta": (3,),
    "threshold_logit": (),
    "threshold_logit_kernel": (1, 3),
}
STEPS = 50


def schedule():
    """Changes every 5 steps: a rule that folds the rate into v would be found out."""
    return schedules.create("cosine", 0.2, 5, 10, warmup_epochs=2)


def rates():
    return schedules.evaluate(schedule(), STEPS)


def initial(name):
    values = np.random.default_rng(len(name)).normal(size=SHAPES[name])
    return values - 20 if name.startswith("threshold") else values


def gradients(name):
    return np.random.default_rng(7).normal(size=(STEPS, *SHAPES[name]))


def variables(dtype="float32"):
    return [keras.Variable(initial(name), dtype=dtype, name=name) for name in SHAPES]


def train(optimizer, steps=STEPS, dtype="float32", scale=1.0, seen=None):
    """Applies the gradients of the first steps; gives arrays by name.

    `seen`, a list, gets those after every step.
    """
    weights = variables(dtype)
    assert {w.dtype for w in weights} == {dtype}
    for step in range(steps):
        grads = [
            keras.ops.convert_to_tensor(gradients(name)[step] * scale, dtype)
            for name in SHAPES
        ]
        optimizer.apply(grads, weights)
        if seen is not None:
            seen.append(values(weights))
    return values(weights)


def values(weights):
    """Arrays in float64 by name, to be compared."""
    return {w.name: keras.ops.convert_to_numpy(w).astype("float64") for w in weights}


def torch_rule(p, grads, lr, decay, momentum, nesterov=False):
    """PyTorch's documented SGD, one variable, in float64: after every step."""
    v, path = np.zeros_like(p), []
    for grad, rate in zip(grads, lr, strict=False):
        d = grad + decay * p
        v = momentum * v + d
        p = p - rate * (d + momentum * v if nesterov else v)
        path.append(p)
    return np.stack(path)


def decay_of(name, decays, decay_batch_norm=True):
    if name.startswith("threshold"):
        return decays[1]
    return 0.0 if name in ("gamma", "beta") and not decay_batch_norm else decays[0]


RULES = [
    pytest.param((0.875, False, (0.02, 0.3), True), id="momentum"),
    pytest.param((0.9, True, (0.02, 0.3), True), id="nesterov"),
    pytest.param((0.0, False, (0.02, 0.3), True), id="no momentum"),
    pytest.param((0.875, False, (0.02, None), True), id="one decay"),
    pytest.param((0.875, False, (0.0, 0.3), True), id="thresholds alone"),
    pytest.param((0.875, True, (0.02, 0.3), False), id="no decay on batch norm"),
]


@pytest.mark.parametrize("rule", RULES)
def test_sgd_is_pytorchs(rule):
    torch = pytest.importorskip("torch")
    momentum, nesterov, decays, on_batch_norm = rule
    got: list[dict] = []
    train(SGD(schedule(), momentum, nesterov, *decays, on_batch_norm), seen=got)
    decays = (decays[0], decays[0] if decays[1] is None else decays[1])
    for name in SHAPES:
        decay = decay_of(name, decays, on_batch_norm)
        expected = torch_rule(
            initial(name), gradients(name), rates(), decay, momentum, nesterov
        )
        sequence = np.stack([step[name] for step in got])
        assert len(sequence) == STEPS
        np.testing.assert_allclose(sequence, expected, rtol=1e-5, atol=1e-5)

        p = torch.tensor(initial(name), requires_grad=True)
        reference = torch.optim.SGD([p], 1.0, momentum, 0, decay, nesterov)
        for grad, lr in zip(gradients(name), rates(), strict=True):
            reference.param_groups[0]["lr"] = lr
            p.grad = torch.tensor(grad)
            reference.step()
        np.testing.assert_allclose(p.detach().numpy(), expected[-1], rtol=1e-12)


def test_sgd_in_float64():
    got = train(SGD(schedule(), 0.875, True, 0.02, 0.3), dtype="float64")
    for name in SHAPES:
        decay = decay_of(name, (0.02, 0.3))
        expected = torch_rule(
            initial(name), gradients(name), rates(), decay, 0.875, True
        )[-1]
        np.testing.assert_allclose(got[name], expected, rtol=1e-12)


@pytest.mark.parametrize("ours", [Adam, AdamW])
@pytest.mark.parametrize("on_batch_norm", [True, False])
def test_adam_is_keras_but_for_thresholds(ours, on_batch_norm):
    options = {"clipnorm": None, "beta_2": 0.99, "weight_decay": 0.1}
    optimizer = ours(
        schedule(),
        threshold_decay=0.03,
        threshold_lr_multiplier=2.0,
        threshold_momentum=0.5,
        decay_batch_norm=on_batch_norm,
        **options,
    )
    got = train(optimizer, steps=15)
    theirs = getattr(keras.optimizers, ours.__name__)(schedule(), **options)
    if not on_batch_norm:
        normalization = ["gamma", "beta"]
        theirs.exclude_from_weight_decay(var_names=normalization)
        if BACKEND == "tensorflow":  # Keras matches the names of other objects there
            theirs._use_weight_decay = lambda v: (
                v.name.split(":")[0] not in (normalization)
            )
    expected = train(theirs, steps=15)
    for name in SHAPES:
        if name.startswith("threshold"):
            expected[name] = torch_rule(
                initial(name), gradients(name), 2 * rates()[:15], 0.03, 0.5
            )[-1]
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5)


def gentle():
    return schedules.create("cosine", 0.01, 4, 5, warmup_epochs=1)


MAKE = {
    "sgd": lambda **k: SGD(gentle(), 0.875, True, 0.02, 0.05, **k),
    "adam": lambda **k: Adam(
        gentle(), threshold_decay=0.05, threshold_momentum=0.5, **k
    ),
    "adamw": lambda **k: AdamW(
        gentle(), threshold_decay=0.05, threshold_lr_multiplier=3.0, **k
    ),
}
every_optimizer = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def test_excluded_biases_are_not_decayed():
    optimizer = SGD(schedule(), 0.875, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    got = train(optimizer)
    for name, decay in (("bias", 0.0), ("kernel", 0.5), ("threshold_logit", 0.5)):
        expected = torch_rule(initial(name), gradients(name), rates(), decay, 0.875)[-1]
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_clipped_before_decay():
    got = train(SGD(schedule(), 0.875, weight_decay=0.3, clipvalue=0.1))
    for name in SHAPES:
        clipped = np.clip(gradients(name), -0.1, 0.1)
        expected = torch_rule(initial(name), clipped, rates(), 0.3, 0.875)[-1]
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5)


def test_accumulated_gradients_decay_once():
    optimizer = SGD(0.1, 0.875, weight_decay=0.3, gradient_accumulation_steps=5)
    got = train(optimizer, steps=20)
    for name in SHAPES:
        means = gradients(name)[:20].reshape(4, 5, *SHAPES[name]).mean(axis=1)
        expected = torch_rule(initial(name), means, [0.1] * 4, 0.3, 0.875)[-1]
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5)


@every_optimizer
def test_a_schedule_counts_steps_where_gradients_accumulate(make):
    """Keras asks it by batches: the rate would fall K times as fast."""
    optimizer = make(gradient_accumulation_steps=5)
    got = train(optimizer, steps=20)
    means = {n: gradients(n)[:20].reshape(4, 5, *SHAPES[n]).mean(1) for n in SHAPES}
    weights, plain = variables(), make()
    for step in range(4):
        grads = [keras.ops.convert_to_tensor(means[n][step], "float32") for n in SHAPES]
        plain.apply(grads, weights)
    first, last = schedules.evaluate(gentle(), 20)[[3, 19]]
    assert first != last  # the schedule tells them apart
    for name, expected in values(weights).items():
        np.testing.assert_allclose(got[name], expected, rtol=1e-5, atol=1e-5)


def test_moving_average_holds_thresholds():
    optimizer = SGD(0.1, weight_decay=0.3, use_ema=True, ema_momentum=0.5)
    weights = variables()
    course = {name: [] for name in SHAPES}
    for _ in range(3):
        optimizer.apply([keras.ops.zeros(w.shape) for w in weights], weights)
        for name, value in values(weights).items():
            course[name].append(value)
    optimizer.finalize_variable_values(weights)
    for name, value in values(weights).items():
        first, second, third = course[name]
        expected = 0.25 * first + 0.25 * second + 0.5 * third
        np.testing.assert_allclose(value, expected, rtol=1e-6)


@every_optimizer
def test_loss_scaling_unscales_first_and_skips_overflow(make):
    inner = make()
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    weights = variables()
    apply = optimizer.apply
    if BACKEND == "tensorflow":  # as `fit` does: a branch on the gradients' values
        import tensorflow as tf

        optimizer.build(weights)
        apply = tf.function(lambda grads: optimizer.apply(grads, weights))
    elif BACKEND == "jax":
        optimizer.build(weights)
        apply = stateless(optimizer, weights)
    else:
        optimizer.build(weights)

    def step(number, bad=None):
        grads = [gradients(name)[number] * 64.0 for name in SHAPES]
        if bad is not None:
            grads[0][0, 0] = bad
        apply([keras.ops.convert_to_tensor(grad, "float32") for grad in grads])

    step(0)
    state = [keras.ops.convert_to_numpy(v) for v in inner.variables]
    before = values(weights)
    step(1, bad=np.inf)
    for old, new in zip(state, inner.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(new), old)
    for name, value in values(weights).items():
        np.testing.assert_array_equal(value, before[name])

    plain = train(make(), steps=1)
    for name, value in before.items():
        np.testing.assert_allclose(value, plain[name], rtol=1e-6, atol=1e-6)


def stateless(optimizer, weights):
    def apply(grads):
        new = optimizer.stateless_apply(
            [v.value for v in optimizer.variables], grads, [w.value for w in weights]
        )
        for variable, value in zip(
            [*weights, *optimizer.variables], [*new[0], *new[1]], strict=True
        ):
            variable.assign(value)

    return apply


def images(count):
    path = Path(stk.__file__).parent / "data" / "embedded" / "fashion_mnist_5k.npz"
    with np.load(path) as data:
        train_set = data["train_images"][:count] / np.float32(255)
        test_set = data["test_images"] / np.float32(255)
        return (
            (train_set.astype("float32"), data["train_labels"][:count].astype("int32")),
            (test_set.astype("float32"), data["test_labels"].astype("int32")),
        )


def mlp(units=16, batch_norm=True):
    normalization = [keras.layers.BatchNormalization(momentum=0.9)] * batch_norm
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation="relu"),
            *normalization,
            keras.layers.Dense(10),
        ]
    )


def fit(model, optimizer, epochs=1, count=256, batch=32, **kwargs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if optimizer is not None:
        model.compile(optimizer, loss, metrics=["accuracy"], **kwargs)
    x, y = images(count)[0]
    model.fit(x, y, batch, epochs, verbose=0, shuffle=False)
    return weights_of(model)


def weights_of(model):
    return [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]


def sparsity_of(model):
    return stk.summary(model).prunable.sparsity


def logits_of(model):
    return [
        float(keras.ops.convert_to_numpy(w))
        for w in model.trainable_weights
        if w.name.startswith("threshold_logit")
    ]


@pytest.mark.parametrize(
    "name, policy, jit",
    [
        ("sgd", "float32", False),
        ("sgd", "mixed_float16", True),
        ("adam", "mixed_float16", False),
        ("adamw", "float32", True),
    ],
)
def test_fit_decays_thresholds_as_forecast(name, policy, jit):
    """At s = -1000 the gradient is 0: what moves s in `fit` is its own decay."""
    if BACKEND == "torch" and (jit or policy != "float32"):
        pytest.skip("torch.compile and float16 on a CPU are not in question here")
    keras.config.set_dtype_policy(policy)
    model = stk.sparsify(mlp(), s_init=-1000.0)
    optimizer = MAKE[name]()
    if policy != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    fit(model, optimizer, jit_compile=jit)
    expected = forecast(optimizer, steps=8, s_init=-1000.0).final_s
    assert abs(expected + 1000) > 1
    np.testing.assert_allclose(logits_of(model), expected, rtol=1e-6)


@tensorflow_only
@every_optimizer
def test_two_replicas_equal_one_device(make, mirrored):
    def run():
        keras.utils.set_random_seed(1)
        model = stk.sparsify(mlp(batch_norm=False), s_init=-4.0)
        return fit(model, make())

    one = run()
    with mirrored.scope():
        two = run()
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@tensorflow_only
def test_two_replicas_with_loss_scaling(mirrored):
    keras.config.set_dtype_policy("mixed_float16")
    with mirrored.scope():
        optimizer = keras.optimizers.LossScaleOptimizer(
            MAKE["sgd"](), initial_scale=8.0
        )
        model = stk.sparsify(mlp(batch_norm=False), s_init=-1000.0)
        fit(model, optimizer)
    expected = forecast(optimizer, steps=8, s_init=-1000.0).final_s
    np.testing.assert_allclose(logits_of(model), expected, rtol=1e-6)


@tensorflow_only
def test_indexed_slices_step_as_their_dense_gradient():
    import tensorflow as tf

    table = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
    rows, updates = [1, 3, 1], np.arange(6, dtype="float32").reshape(3, 2)
    dense = np.zeros_like(table)
    np.add.at(dense, rows, updates)
    for options in ({}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.1}):
        results = []
        for grad in (tf.IndexedSlices(updates, rows, (5, 2)), tf.constant(dense)):
            variable = keras.Variable(table)
            optimizer = SGD(0.1, **options)
            for _ in range(3):
                optimizer.apply([grad], [variable])
            results.append(keras.ops.convert_to_numpy(variable))
        np.testing.assert_allclose(*results, rtol=1e-6)


@every_optimizer
def test_saved_training_goes_on_bit_for_bit(make, tmp_path):
    model = stk.sparsify(mlp(), s_init=-6.0)
    fit(model, make())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for a, b in zip(fit(model, None), fit(loaded, None), strict=True):
        np.testing.assert_array_equal(a, b)


@every_optimizer
def test_config_round_trip(make):
    optimizer = make(clipnorm=0.5, use_ema=True, name="mine")
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    for name, value in train(optimizer, 3).items():
        np.testing.assert_array_equal(value, train_again(config)[name])


def train_again(config):
    return train(keras.optimizers.deserialize(config), 3)


def test_defaults_are_pytorchs():
    got = train(SGD(), 3)
    expected = torch_rule(initial("kernel"), gradients("kernel")[:3], [0.01] * 3, 0, 0)[
        -1
    ]
    np.testing.assert_allclose(got["kernel"], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "name, value",
    [
        ("learning_rate", float("nan")),
        ("learning_rate", -0.1),
        ("learning_rate", "fast"),
        ("momentum", 1.0),
        ("momentum", -0.1),
        ("weight_decay", -1e-4),
        ("weight_decay", float("inf")),
        ("threshold_decay", float("nan")),
        ("threshold_decay", True),
        ("threshold_momentum", 1.0),
        ("threshold_lr_multiplier", -1.0),
    ],
)
def test_bad_numbers_are_named(name, value):
    of_adam = name in ("threshold_momentum", "threshold_lr_multiplier")
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}="):
        if of_adam:
            Adam(threshold_decay=0.1, **{name: value})
        else:
            SGD(**{name: value})
    if name in ("learning_rate", "weight_decay"):
        with pytest.raises(ValueError, match=f"Received: {name}="):
            AdamW(threshold_decay=0.1, **{name: value})


def test_nesterov_wants_a_momentum():
    with pytest.raises(ValueError, match=r"Nesterov needs .* momentum=0\.0"):
        SGD(0.1, nesterov=True)


@pytest.mark.slow
def test_coupled_decay_prunes_where_keras_own_stays_dense():
    """One setting, the short run of 12 epochs: 0.1, mu 0.875, 0.03 on s, s = -40."""
    rate = schedules.create("cosine", 0.1, 39, 12, warmup_epochs=1)
    decay, sparsity = 0.03, {}
    for name, optimizer in {
        "coupled": SGD(rate, 0.875, weight_decay=5e-4, threshold_decay=decay),
        "decoupled": keras.optimizers.SGD(rate, 0.875, weight_decay=decay),
    }.items():
        keras.utils.set_random_seed(0)
        model = stk.sparsify(mlp(64), s_init=-40.0)
        fit(model, optimizer, epochs=12, count=4992, batch=128)
        sparsity[name] = sparsity_of(model)
    assert sparsity["decoupled"] < 0.01
    assert sparsity["coupled"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("optimizer_class", [Adam, AdamW])
def test_adam_reaches_90_percent_from_a_pretrained_network(optimizer_class):
    """The setting that the docstring of `Adam` gives."""
    dense = mlp(128)
    rate = schedules.create("cosine", 1e-3, 39, 6, warmup_epochs=0)
    fit(dense, keras.optimizers.Adam(rate), epochs=6, count=4992, batch=128)
    sparse = stk.sparsify(dense, s_init=-40.0)
    rate = schedules.create("cosine", 1e-3, 39, 10, warmup_epochs=0)
    optimizer = optimizer_class(rate, threshold_decay=0.25)
    assert forecast(optimizer, 390, -40.0).verdict == "prunes"
    fit(sparse, optimizer, epochs=10, count=4992, batch=128)
    accuracy = [
        model.evaluate(*images(1)[1], verbose=0, return_dict=True)["accuracy"]
        for model in (dense, sparse)
    ]
    assert sparsity_of(sparse) >= 0.9
    assert accuracy[0] > 0.8
    assert accuracy[1] > accuracy[0] - 0.03
