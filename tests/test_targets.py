"""Targets: a sparsity, MACs or bytes to end at, and the ramp that leads there."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import str_keras as stk
from str_keras.model import find_thresholded
from str_keras.sparsifying import PRESETS

numpy = ops.convert_to_numpy
EPOCHS, BATCH = 4, 32


def make_net(seed=0):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(12, 3, use_bias=False, name="first"),
            layers.BatchNormalization(
                synchronized=keras.backend.backend() == "tensorflow"
            ),
            layers.ReLU(),
            layers.Conv2D(24, 3, strides=2, use_bias=False, name="second"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="head"),
        ]
    )


def images(n=256):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 12, 12, 3)).astype("float32"), rng.integers(0, 10, n)


def compiled(model, **arguments):
    model.compile(
        stk.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **arguments,
    )
    return model


def trained(model, *callbacks, epochs=EPOCHS):
    x, y = images()
    compiled(model).fit(
        x, y, BATCH, epochs, verbose=0, shuffle=False, callbacks=list(callbacks)
    )
    return model


@pytest.mark.parametrize(
    "arguments",
    [{"preset": name, "target_sparsity": 0.9} for name in PRESETS]
    + [
        {"target_sparsity": 0.5},
        {"target_sparsity": 0.995},
        {"target_sparsity": 0.9, "granularity": "filter"},
        {"target_sparsity": 0.9, "granularity": "weight"},
        {"target_sparsity": 0.9, "g": "exp"},
        {"target_macs": 0.1},
        {"target_macs": 25_000},
        {"preset": "gmp", "target_macs": 0.1},
        {"preset": "st3", "target_macs": 0.1, "mac_pressure": 0.5},
    ],
    ids=str,
)
def test_training_ends_at_the_target(arguments):
    """To one weight or its MACs, counted of the stripped model; nothing is cut late."""
    model, ramp = stk.sparsify(make_net(), **arguments), stk.SparsityRamp()
    trained(model, ramp)
    total = stk.summary(stk.strip(model)).kernels
    if "target_sparsity" in arguments:
        wanted = round(total.params * (1 - arguments["target_sparsity"]))
        assert abs(total.nonzeros - wanted) <= 1
    else:
        wanted = arguments["target_macs"]
        wanted = wanted * total.macs if wanted < 1 else wanted
        assert wanted - 100 <= total.sparse_macs <= wanted
    assert ramp.changes[-1].step == EPOCHS * 256 // BATCH
    late = [change for change in ramp.changes if change.step >= 29]
    if arguments.get("preset") != "lats":  # its threshold rises to the end
        assert late and all(abs(c.cost - c.limit) <= 100 for c in late)
        assert {c.limit for c in late} == {late[0].limit}


def inverse_of(g, t):
    with np.errstate(divide="ignore"):
        return np.log(t) if g == "exp" else np.log(t) - np.log1p(-t)


@pytest.mark.parametrize("granularity", ["layer", "filter"])
@pytest.mark.parametrize("g", ["sigmoid", "exp"])
def test_the_target_presses_as_decay_does(g, granularity):
    """By NumPy: s of a kernel rises in proportion to how far it is below g^-1(1/2)."""
    arguments = {"target_sparsity": 0.8, "min_per_channel": 0}
    model = stk.sparsify(make_net(), -8.0, g, granularity=granularity, **arguments)
    items = list(find_thresholded(model))
    for shift, item in enumerate(items):
        spread = np.linspace(0, 1, numpy(item.logit).size)
        item.logit.assign(np.reshape(-3.0 + shift + spread, item.logit.shape))
    loop = stk.steering.Loop(model)
    offsets = np.zeros(len(items))
    for reached in (0.5, 0.7, 0.7, 1.0):
        rooms = [
            max(float(inverse_of(g, 0.5)) - numpy(i.logit).mean() - o, 0.05)
            for i, o in zip(items, offsets, strict=True)
        ]
        keys = []
        for item, offset, room in zip(items, offsets, rooms, strict=True):
            w = np.abs(numpy(item.kernel.variable).astype("float64"))
            keys.append(
                ((inverse_of(g, w) - numpy(item.logit) - offset) / room).ravel()
            )
        ordered = np.sort(np.concatenate(keys))
        limit = round(0.2 * len(ordered))
        drop = len(ordered) - int(len(ordered) + (limit - len(ordered)) * reached)
        pressures, kept = loop.solve(reached)
        assert ordered[drop - 1] < pressures[0] < ordered[drop]
        assert len(set(pressures)) == 1
        assert kept.tolist() == [int((key > pressures[0]).sum()) for key in keys]
        model.follow(reached, 1.0, loop)
        found = [int((numpy(i.sparse()) != 0).sum()) for i in items]
        assert found == kept.tolist()
        offsets = offsets + pressures * rooms
        np.testing.assert_allclose(numpy(model.offsets), offsets, rtol=1e-5, atol=1e-6)
        offsets = numpy(model.offsets).astype("float64")


def test_floors_hold():
    arguments = {"target_sparsity": 0.97, "min_density": 0.01, "min_kept": 20}
    model = trained(stk.sparsify(make_net(), preset="st3", **arguments))
    rows = stk.summary(model).rows
    assert all(row.nonzeros >= max(20, 0.01 * row.params) for row in rows)
    assert min(row.nonzeros for row in rows) == 20
    assert sum(r.nonzeros for r in rows) == round(sum(r.params for r in rows) * 0.03)


@pytest.mark.parametrize(("sparsity", "taken"), [(0.9, 1.0), (0.95, None)])
def test_floors_by_channel_take_half_at_most(sparsity, taken):
    """One weight a channel, unless told; smaller where that is more than half."""
    for preset, floor in (("st3", 0.0), ("str", 1.0)):
        led = stk.sparsify(make_net(), preset=preset, target_sparsity=sparsity)
        assert led.target.min_per_channel == floor
    model = stk.sparsify(make_net(), preset="feather", target_sparsity=sparsity)
    sums = np.array([3 + 3 + 3 + 12, 3 + 3 + 12 + 24, 24 + 10])
    floors = stk.steering.Loop(model).floors
    half = round(3156 * (1 - sparsity)) / 2
    assert floors.sum() <= half
    if taken:
        assert floors.tolist() == sums.tolist()
    else:
        assert floors.sum() > 0.9 * half
        assert (np.abs(floors - sums * floors.sum() / sums.sum()) <= 1).all()
    rows = stk.summary(trained(model)).rows
    assert all(row.nonzeros >= n for row, n in zip(rows, floors, strict=True))
    assert abs(sum(row.nonzeros for row in rows) - 2 * half) <= 1


def test_pressure_follows_macs():
    """At equal sparsity fewer MACs: the first layer's weights are used most."""
    plain, pressed = (
        trained(stk.sparsify(make_net(), target_sparsity=0.8, mac_pressure=p))
        for p in (0.0, 1.0)
    )
    plain, pressed = stk.summary(plain).kernels, stk.summary(pressed).kernels
    assert abs(plain.nonzeros - pressed.nonzeros) <= 1
    assert pressed.sparse_macs < 0.8 * plain.sparse_macs


@pytest.mark.parametrize("preset", ["str", "st3", "gmp", "autosparse"])
def test_going_on_ends_with_the_same_weights(preset, tmp_path):
    """Cut inside of the ramp and past it, between two changes; the files have all."""
    x, y = images()

    def run(*lengths):
        model = compiled(stk.sparsify(make_net(), preset=preset, target_sparsity=0.9))
        ramp = {"begin": 3, "end": 17, "frequency": 5, "steps": 32}
        for length in lengths:
            done = int(model.optimizer.iterations) * BATCH
            rows = slice(done, done + length * BATCH)
            model.fit(
                np.tile(x, (4, 1, 1, 1))[rows],
                np.tile(y, 4)[rows],
                BATCH,
                verbose=0,
                shuffle=False,
                callbacks=[stk.SparsityRamp(**ramp)],
            )
            model.save(tmp_path / "model.keras")
            model = keras.models.load_model(tmp_path / "model.keras")
        return model

    # A cut past the ramp is an end of an epoch, where the target is met anew.
    whole, cut = run(16, 16), run(6, 5, 5, 16)
    for a, b in zip(whole.weights, cut.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b), err_msg=a.path)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
)
def test_two_replicas_end_as_one(mirrored):
    ends = []
    for scope in (contextlib.nullcontext(), mirrored.scope()):
        with scope:
            model = compiled(stk.sparsify(make_net(), target_sparsity=0.9))
        x, y = images()
        model.fit(x, y, BATCH, 2, verbose=0, shuffle=False)
        ends.append(model)
    sparse = [[numpy(i.sparse()) for i in find_thresholded(m)] for m in ends]
    for a, b in zip(*sparse, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert abs(stk.summary(ends[1]).kernels.sparsity - 0.9) < 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"target_sparsity": 90}, r"below 1 \(90 % is 0.9\).*90"),
        ({"target_sparsity": 0.9, "target_macs": 0.5}, "one of"),
        ({"target_macs": 1}, "share below 1 or an absolute"),
        ({"target_macs": -5}, "above 0"),
        ({"target_macs": 10**9}, "out of reach.*dense model has"),
        ({"target_sparsity": 0.99, "min_density": 0.2}, "out of reach"),
        ({"target_sparsity": 0.9, "min_density": 1.0}, "min_density"),
        ({"target_sparsity": 0.9, "min_kept": 0.5}, "min_kept"),
        ({"target_sparsity": 0.9, "mac_pressure": -1}, "mac_pressure"),
        ({"target_sparsity": 0.9, "min_per_channel": -1}, "min_per_channel"),
        ({"min_per_channel": 1.0}, "on the way to a target"),
        ({"min_density": 0.1}, "on the way to a target"),
        ({"preset": "st3"}, "want a target"),
        ({"preset": "st4", "target_sparsity": 0.9}, "Unknown preset.*st3_sigma"),
        ({"preset": "st3", "target_sparsity": 0.9, "s_init": -5.0}, "learned"),
        ({"preset": "gmp", "target_sparsity": 0.9, "mac_pressure": 1}, "mac_pressure"),
        ({"operator": "hard", "target_sparsity": 0.9}, "no gradient"),
        ({"threshold": "quantile(row)", "target_sparsity": 0.9}, "is one of"),
        ({"threshold": "scheduled(x)"}, "a number above 0"),
        ({"operator": "feather(0.5)"}, "at least 1"),
        ({"backward": "scaled"}, "from 0 to 1"),
        ({"backward": "scaled(2)"}, "from 0 to 1"),
        ({"backward": "half"}, "Unknown backward"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        stk.sparsify(make_net(), **arguments)


def test_a_ramp_of_unknown_length_is_refused():
    x, y = images(64)
    model = compiled(stk.sparsify(make_net(), target_sparsity=0.9))

    def batches():
        for _ in range(2):
            yield x[:32], y[:32]

    with pytest.raises(ValueError, match="name begin and end"):
        model.fit(batches(), verbose=0, shuffle=False)


def test_an_operator_of_ones_own(tmp_path):
    """The ten lines of README: registered, trained, saved, loaded, stripped."""

    def define(slope=1):  # as a cell of a notebook, which may be run again
        def bent(kernel, threshold, top=4.0):  # none up to t, all beyond 4 t
            size = ops.abs(kernel)
            rest = slope * (size - threshold) / ((top - 1) * threshold + 1e-12)
            return kernel * ops.clip(rest, 0, 1)

        stk.register_operator("test_firm", bent)

    define(slope=9)
    define()
    model = stk.sparsify(
        make_net(),
        operator="test_firm(3)",
        backward="straight_through",
        threshold="quantile(global)",
        target_sparsity=0.9,
    )
    trained(model, epochs=2)
    item = next(find_thresholded(model))
    w, t = numpy(item.kernel.variable), float(numpy(item.threshold()))
    np.testing.assert_allclose(
        numpy(item.sparse()), w * np.clip((abs(w) - t) / (2 * t), 0, 1), rtol=1e-5
    )
    assert stk.summary(model).kernels.sparsity == pytest.approx(0.9, abs=1e-3)
    model.save(tmp_path / "firm.keras")
    again = keras.models.load_model(tmp_path / "firm.keras")
    assert again.operator.name == "test_firm(3)"
    x = images(8)[0]
    np.testing.assert_array_equal(numpy(model(x)), numpy(again(x)))
    with pytest.raises(ValueError, match="Another one of this name"):
        stk.register_operator("test_firm", lambda kernel, threshold: kernel)
    with pytest.raises(ValueError, match="identifier"):
        stk.register_operator("my operator", lambda kernel, threshold: kernel)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="files are written by TensorFlow"
)
def test_bytes_are_those_of_the_file(tmp_path):
    keras.utils.set_random_seed(0)
    dense = stk.models.MobileNetV1(
        input_shape=(32, 32, 1), classes=10, alpha=0.25, stem="small"
    )
    model = stk.sparsify(dense, target_bytes=150_000)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 32, 32, 1)), rng.integers(0, 10, 32)
    ramp = stk.SparsityRamp(0, 1)
    compiled(model).fit(x, y, 8, verbose=0, callbacks=[ramp])
    path = tmp_path / "model.tflite"
    stk.export.tflite(stk.strip(model), path, weights="float16", sparse=True)
    assert path.stat().st_size == pytest.approx(150_000, rel=0.01)
    assert 149_000 < ramp.changes[-1].cost <= 150_000


def test_the_plan_says_what_is_coming():
    model = stk.sparsify(make_net(), target_sparsity=0.9)
    told = stk.SparsityRamp(10, 50, steps=100).describe(model)
    assert told.splitlines()[0] == (
        "target: 90 % of zeros, 316 weights of 3,156 weights"
    )
    lines = [line.split() for line in told.splitlines()[1:]]
    left = [3156 - (3156 - 316) * (1 - (1 - x) ** 3) for x in (0, 0.25, 0.5, 0.75, 1)]
    for words, step, number in zip(lines, (10, 20, 30, 40, 50), left, strict=True):
        assert words[:2] == ["step", f"{step}:"]
        assert int(words[2].replace(",", "")) == round(number)


def test_weights_beyond_1_are_pruned_too():
    """No sigmoid reaches them: with it the loop says what it cannot do."""
    dense = make_net()
    for layer in ("first", "second", "head"):
        kernel = dense.get_layer(layer).kernel
        kernel.assign(numpy(kernel) * 100)
    model = stk.sparsify(dense, target_sparsity=0.9)
    assert model.g.name == "exp" and stk.sparsify(dense).g.name == "sigmoid"
    x, y = images(64)
    compiled(model).fit(x, y, BATCH, verbose=0, callbacks=[stk.SparsityRamp(0, 0)])
    assert abs(stk.summary(model).kernels.sparsity - 0.9) < 1e-3
    bounded = compiled(stk.sparsify(dense, target_sparsity=0.9, g="sigmoid"))
    with pytest.warns(RuntimeWarning, match="weights beyond g"):
        bounded.fit(x, y, BATCH, verbose=0, callbacks=[stk.SparsityRamp(0, 0)])


def test_thresholds_that_outgrow_float32_are_told():
    """A training that diverges must not pass for one that met its target."""
    model = stk.sparsify(make_net(), target_sparsity=0.9)
    for item in find_thresholded(model):
        item.logit.assign(-2e7)  # beside which an offset has steps of 2
    model.compile(stk.optimizers.SGD(0.0), "mse")
    x, _ = images(32)
    with pytest.warns(RuntimeWarning, match="outgrown float32"):
        model.fit(x, np.zeros((32, 10)), verbose=0, callbacks=[stk.SparsityRamp(0, 0)])


@pytest.mark.parametrize(
    ("optimizer", "arguments"),
    [
        ({"gradient_accumulation_steps": 4}, {}),
        ({"gradient_accumulation_steps": 3}, {}),
        ({}, {"steps_per_execution": 3}),
        ({"scaled": 2.0**20}, {}),
        ({"scaled": 2.0**20, "gradient_accumulation_steps": 4}, {}),
    ],
    ids=str,
)
def test_steps_are_those_of_the_optimizer(optimizer, arguments):
    """Where a step takes several batches, or is skipped; `fit` adds the ramp."""
    if "steps_per_execution" in arguments and keras.backend.backend() == "torch":
        pytest.skip("Keras' torch trainer takes one step a call")
    x, y = images(160)
    model = stk.sparsify(make_net(), target_sparsity=0.9)
    scale = optimizer.pop("scaled", None)
    inner = stk.optimizers.SGD(0.02, momentum=0.9, **optimizer)
    if scale:  # the first steps are skipped, as their gradients overflow
        inner = keras.optimizers.LossScaleOptimizer(inner, initial_scale=scale**6)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(inner, loss, **arguments)
    model.fit(x, y, 16, 8, 0, [])  # callbacks by place
    assert abs(stk.summary(model).kernels.sparsity - 0.9) < 1e-3


def test_a_training_that_starts_late_has_its_own_length():
    """Epochs 6 to 10 of a new optimizer are all of its training."""
    x, y = images(64)
    model, ramp = stk.sparsify(make_net(), target_sparsity=0.9), stk.SparsityRamp()
    compiled(model).fit(x, y, BATCH, 10, verbose=0, initial_epoch=5, callbacks=[ramp])
    assert ramp.changes[-1].step == 10 and ramp.reached_at(7) == 1.0
    assert abs(stk.summary(model).kernels.sparsity - 0.9) < 1e-3


class Stop(keras.callbacks.Callback):
    """Ends the training after an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.epoch


def test_an_early_stop_is_told_before_the_target_and_held_past_it():
    x, y = images(64)
    model = compiled(stk.sparsify(make_net(), target_sparsity=0.9))
    with pytest.warns(RuntimeWarning, match="before the ramp at step 14"):
        model.fit(x, y, BATCH, 10, verbose=0, callbacks=[Stop(1)])
    model = compiled(stk.sparsify(make_net(), target_sparsity=0.9))
    model.fit(x, y, BATCH, 10, verbose=0, callbacks=[Stop(8), stk.SparsityRamp()])
    assert abs(stk.summary(model).kernels.sparsity - 0.9) < 1e-3


def test_ends_of_a_ramp():
    model = stk.sparsify(make_net(), preset="st3", target_sparsity=0.9)
    ramp = stk.SparsityRamp(end=10, steps=1000)
    assert ramp.reached_at(9) < 1 and ramp.reached_at(10) == 1
    told = stk.SparsityRamp(steps=1000).describe(model).splitlines()
    assert told[1].split()[1] == "50:" and told[-1].split()[1] == "500:"


def test_what_is_learned_goes_on_to_a_target():
    """s and weights of a model that decay led, in one that is led to a target."""
    model = stk.sparsify(make_net(), s_init=-3.0)
    led = stk.sparsify(make_net(1), target_sparsity=0.9)
    stk.copy_weights(model, led)
    for a, b in zip(find_thresholded(model), find_thresholded(led), strict=True):
        assert float(a.logit) == float(b.logit) == -3.0
        np.testing.assert_array_equal(
            numpy(a.kernel.variable), numpy(b.kernel.variable)
        )


def test_a_source_of_ones_own():
    def create(model, kernels, common, own):
        return stk.LeveledModel(model, kernels, scope="normalized", **common)

    stk.register_threshold("test_mine", create, "as quantile(normalized)")
    arguments = {"operator": "hard", "target_sparsity": 0.9}
    mine = trained(stk.sparsify(make_net(), threshold="test_mine", **arguments))
    same = trained(
        stk.sparsify(make_net(), threshold="quantile(normalized)", **arguments)
    )
    for a, b in zip(mine.weights, same.weights, strict=True):
        np.testing.assert_array_equal(numpy(a), numpy(b))
    with pytest.raises(ValueError, match="Another one"):
        stk.register_threshold("test_mine", lambda *arguments: None, "")
    with pytest.raises(ValueError, match="g is of learned"):
        stk.sparsify(make_net(), g="exp", preset="st3", target_sparsity=0.9)
