"""Each preset through a whole training against the published rule, in float64.

The loss is linear in the kernels, so what reaches them of it is known for every batch:
it is what a plain net's kernels move by. At every step the library's state (kernels,
thresholds, logits) goes into the rules of `preset_rules`, and what they make of it must
be the kernel that layers read, and the next state.
"""

import dataclasses
import itertools
import pathlib
from typing import Any

import keras
import numpy as np
import preset_rules as rules
import pytest
from keras import ops
from preset_cases import CASES, STEPS

import str_keras as stk
from str_keras import presets
from str_keras.model import find_thresholded
from str_keras.presets import PRESETS

numpy = ops.convert_to_numpy
BATCHES, BATCH = 4, 3
EPOCHS = STEPS // BATCHES
# All exact in float32, as Keras keeps a learning rate.
LR, MOMENTUM, DECAY, LOGIT_DECAY = 0.125, 0.75, 2.0**-8, 2.0**-5


@pytest.fixture(autouse=True)
def float64():
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def make_net():
    """A convolution, a depthwise one and a dense layer, side by side: 900 weights."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    inputs = keras.Input((6, 6, 4))
    outputs = [
        layers.Conv2D(8, 3, use_bias=False, name="conv")(inputs),
        layers.DepthwiseConv2D(3, use_bias=False, name="depthwise")(inputs),
        layers.Dense(4, use_bias=False, name="head")(layers.Flatten()(inputs)),
    ]
    outputs = layers.Concatenate()([layers.Flatten()(x) for x in outputs])
    return keras.Model(inputs, outputs)


FILTER_AXES = [(-1,), (-2, -1), (-1,)]


def images():
    rng = np.random.default_rng(1)
    n = BATCHES * BATCH
    return rng.normal(size=(n, 6, 6, 4)), rng.normal(size=(n, 196)) / 50


def train(model, optimizer, epochs, *callbacks):
    """The loss is a sum over outputs: linear."""
    model.compile(optimizer, lambda y, outputs: ops.sum(y * outputs))
    x, y = images()
    model.fit(x, y, BATCH, epochs, 0, shuffle=False, callbacks=list(callbacks))


@dataclasses.dataclass
class State:
    """What is in force in one step, by kernel."""

    kernels: list[np.ndarray]
    thresholds: list[np.ndarray]
    sparse: list[np.ndarray]
    logits: list[Any]
    effective_logits: list[Any]
    share: float


class Watch(keras.callbacks.Callback):
    """Keeps the state of each step, and that after the last."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_train_batch_begin(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        items = list(find_thresholded(self.model))
        logits = [np.array(numpy(getattr(i, "logit", 0.0))) for i in items]
        offsets = getattr(self.model, "offsets", None)
        offsets = [0.0] * 3 if offsets is None else numpy(offsets).astype("float64")
        share = self.model.share
        self.states.append(
            State(
                [np.array(numpy(item.kernel.variable)) for item in items],
                [numpy(item.threshold()).astype("float64") for item in items],
                [np.array(numpy(item.sparse())) for item in items],
                logits,
                [s + offset for s, offset in zip(logits, offsets, strict=True)],
                share if isinstance(share, float) else float(numpy(share)),
            )
        )

    def on_train_end(self, logs=None):
        self.on_train_batch_begin(0)


@pytest.fixture(scope="module")
def upstreams():
    """By batch, for each kernel, the gradient to the kernel that its layer reads."""
    keras.config.set_dtype_policy("float64")
    keras.config.set_floatx("float64")
    model, found = make_net(), []

    class Moves(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                model.jax_state_sync()
            found.append([np.array(numpy(v)) for v in model.weights])

        def on_train_end(self, logs=None):
            self.on_train_batch_begin(0)

    train(model, keras.optimizers.SGD(1.0), 1, Moves())
    return [
        [a - b for a, b in zip(before, after, strict=True)]
        for before, after in itertools.pairwise(found)
    ]


def test_every_preset_has_a_case():
    assert {case.arguments["preset"] for case in CASES} == set(PRESETS)


def pruned(kernels, thresholds):
    pairs = zip(kernels, thresholds, strict=True)
    return np.array([np.sum(~rules.active(w, t)) for w, t in pairs])


def check_thresholds(case, step, state):
    """Those of the rule, to one weight."""
    kernels, levels, final = state.kernels, state.thresholds, case.final
    begin, end = case.ramp
    share = 1.0 if begin == end else rules.cubic(step, begin, end, 1.0)
    if case.by == "offset":
        with np.errstate(over="ignore"):
            expected = [rules.str_threshold(s) for s in state.effective_logits]
        for t, wanted in zip(levels, expected, strict=True):
            np.testing.assert_allclose(t, wanted, rtol=1e-12)
        if final is not None:  # which the publication does not know
            size = sum(w.size for w in kernels)
            assert abs(sum(pruned(kernels, levels)) - size * final * share) <= 1
    elif case.by == "layer":
        wanted = [rules.layer_threshold(w, share * final) for w in kernels]
        found = pruned(kernels, levels)
        # The common rate is the least that is enough for all kernels together.
        assert np.all(np.abs(found - pruned(kernels, wanted)) <= 2)
    elif case.by == "lats":
        last = 0.0625
        if final is not None:
            course = rules.lats_threshold(step, STEPS, 1.0)
            wanted = rules.global_thresholds(kernels, final)
            if step == 0:
                assert levels == [0.0] * 3
                return
            ends = [t / course for t in levels]
            assert abs(sum(pruned(kernels, ends)) - sum(pruned(kernels, wanted))) <= 1
            last = ends[0]
        t = rules.lats_threshold(step, STEPS, last)
        np.testing.assert_allclose(levels, [t] * 3, rtol=1e-6)
    else:
        sigmas = {"global": None, "sigma": [rules.st3_sigma(w.shape) for w in kernels]}
        wanted = rules.global_thresholds(kernels, share * final, sigmas[case.by])
        found = pruned(kernels, levels)
        # A weight of one kernel for a weight of another, at most.
        assert np.abs(found - pruned(kernels, wanted)).sum() <= 1
        if step > begin and case.by == "sigma":
            # Not the sizes of the kernels, but the sums of their shapes.
            np.testing.assert_allclose(
                levels / levels[0], np.array(wanted) / wanted[0], rtol=1e-6
            )


class Reference:
    """SGD as the recipes have it: coupled decay of raw kernels, pruned weights too."""

    def __init__(self):
        self.velocities = {}

    def step(self, key, value, gradient, decay):
        velocity = self.velocities.get(key, 0.0)
        value, self.velocities[key] = rules.str_logit_step(
            value, velocity, gradient, LR, MOMENTUM, decay
        )
        return value


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_step_is_the_published_one(case, upstreams):
    # The rules know no floor: a layer may lose all.
    floor = {} if case.final is None else {"min_kept": 0, "min_per_channel": 0}
    learned = PRESETS[case.arguments["preset"]].threshold == "learned"
    floor |= {"g": "sigmoid"} if learned else {}
    model = stk.sparsify(make_net(), **case.arguments, **floor)
    watch, reference = Watch(), Reference()
    optimizer = stk.optimizers.SGD(
        LR, MOMENTUM, weight_decay=DECAY, threshold_decay=LOGIT_DECAY
    )
    ramps = [stk.SparsityRamp()] if model.is_led else []
    train(model, optimizer, EPOCHS, *ramps, watch)
    assert len(watch.states) == STEPS + 1
    for step, state in enumerate(watch.states):
        check_thresholds(case, step, state)
        np.testing.assert_allclose(state.share, case.share(step), rtol=1e-6)
        for w, t, sparse, axes in zip(
            state.kernels, state.thresholds, state.sparse, FILTER_AXES, strict=True
        ):
            expected = case.forward(w, t, axes)
            np.testing.assert_allclose(sparse, expected, rtol=1e-10, atol=1e-15)
            np.testing.assert_array_equal(sparse != 0, rules.active(w, t))
        if step == STEPS:
            break
        following, upstream = watch.states[step + 1], upstreams[step % BATCHES]
        to_logits = []
        for i, (w, t, u) in enumerate(
            zip(state.kernels, state.thresholds, upstream, strict=True)
        ):
            gradient = case.to_kernel(w, t, u, state.share)
            wanted = reference.step(i, w, gradient, DECAY)
            np.testing.assert_allclose(
                following.kernels[i], wanted, rtol=1e-10, atol=1e-13
            )
            if case.to_logit is not None:
                with np.errstate(over="ignore"):
                    s = state.effective_logits[i]
                    to_logits.append(case.to_logit(w, s, u, state.share))
        if case.arguments["preset"] == "str_global":
            to_logits = [sum(to_logits)] * 3
        for i, gradient in enumerate(to_logits):
            wanted = reference.step(f"s{i}", state.logits[i], gradient, LOGIT_DECAY)
            np.testing.assert_allclose(
                following.logits[i], wanted, rtol=1e-10, atol=1e-13
            )
    # What is compared above moves, prunes some and not all, and ends there.
    first, last = watch.states[0], watch.states[-1]
    assert all(np.any(a != b) for a, b in zip(first.kernels, last.kernels, strict=True))
    assert 0 < sum(pruned(last.kernels, last.thresholds)) < 900


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_described(name):
    text, preset = presets.describe(name), PRESETS[name]
    assert max(map(len, text.splitlines())) <= 88
    words = " ".join(text.split())
    for part in (preset.help, preset.source, preset.shapes, preset.gradient):
        assert part and part in words
    assert ("PQuantML 0.1.0" in words) == (name == "autosparse")


def test_readme_has_the_table():
    readme = pathlib.Path(__file__).parents[1] / "README.md"
    assert presets.table() in readme.read_text()
