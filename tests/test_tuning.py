"""tune: short runs find the decay for a sparsity, and write down what they tried."""

import json

import keras
import numpy as np
import pytest

import str_keras as stk

STEPS = 160


def make_net():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((16,)), keras.layers.Dense(64, activation="relu")]
    return keras.Sequential([*layers, keras.layers.Dense(4)])


def optimizer(decay, steps):
    schedule = stk.schedules.create("cosine", 0.1, steps, 1, 0, per_epoch=False)
    return stk.optimizers.SGD(schedule, momentum=0.5, threshold_decay=decay)


class Fit:
    """Trains on a linear task; counts its runs."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(512, 16)).astype("float32")
        self.y = (self.x @ rng.normal(size=(16, 4))).argmax(1)
        self.steps = []

    def __call__(self, model, optimizer, steps):
        self.steps.append(steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)
        rows = np.arange(steps * 32) % 512
        model.fit(self.x[rows], self.y[rows], 32, shuffle=False, verbose=0)


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_the_target_is_found_and_carried_over(target, tmp_path):
    fit, record = Fit(), tmp_path / "tune.json"
    found = stk.tune(
        make_net(), optimizer, fit, STEPS, target, share=1.0, runs=8, tolerance=0.03,
        record=record,
    )  # fmt: skip
    assert abs(found.sparsity - target) <= 0.03 and set(fit.steps) == {STEPS}
    assert len(fit.steps) == len(found.trials) <= 8
    # At the whole length the settings are those of the run, and give what it gave.
    model = stk.sparsify(make_net(), found.s_init)
    fit(model, optimizer(found.threshold_decay, STEPS), STEPS)
    assert stk.summary(model).prunable.sparsity == pytest.approx(
        found.sparsity, abs=0.01
    )
    # Lambda by hand: the sum of the cosine, over 1 - mu.
    rates = 0.05 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))
    unit = rates.sum() / 0.5
    for trial in found.trials:
        assert trial.total_decay == pytest.approx(trial.threshold_decay * unit)
    stored = json.loads(record.read_text())
    assert [t["sparsity"] for t in stored["trials"]] == [
        t.sparsity for t in found.trials
    ]
    assert f"threshold_decay={found.threshold_decay:.5g}" in str(found)


def test_short_runs_go_on_from_their_record(tmp_path):
    """Two runs, then two more; the decay is smaller for the longer training."""
    fit, record = Fit(), tmp_path / "tune.json"
    arguments = {"share": 0.5, "tolerance": 0.0, "record": record}
    first = stk.tune(make_net(), optimizer, fit, STEPS, 0.8, runs=2, **arguments)
    again = stk.tune(make_net(), optimizer, fit, STEPS, 0.8, runs=4, **arguments)
    assert fit.steps == [STEPS // 2] * 4 and again.trials[:2] == first.trials
    best = min(again.trials, key=lambda t: abs(t.sparsity - 0.8))
    whole = stk.forecast(optimizer(again.threshold_decay, STEPS), STEPS)
    assert whole.total_decay == pytest.approx(best.total_decay)
    assert "longer training" in str(again)
    with pytest.raises(ValueError, match=r"other settings.*target_sparsity"):
        stk.tune(make_net(), optimizer, fit, STEPS, 0.7, **arguments)
    record.write_text("{")
    with pytest.raises(ValueError, match="no record of tune"):
        stk.tune(make_net(), optimizer, fit, STEPS, 0.8, **arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_sparsity": 1.0}, "below 1"),
        ({"target_sparsity": 0.0}, "above 0"),
        ({"share": 1.5}, "at most 1"),
        ({"runs": 0}, "runs"),
        ({"steps": -1}, "steps"),
        ({"granularity": "row"}, "granularity"),
    ],
)
def test_bad_arguments(changes, words):
    arguments = {"steps": STEPS, "target_sparsity": 0.9, **changes}
    with pytest.raises(ValueError, match=words):
        stk.tune(make_net(), optimizer, Fit(), **arguments)
    with pytest.raises(TypeError, match="decoupled"):
        stk.tune(
            make_net(), lambda decay, steps: keras.optimizers.SGD(), Fit(), 10, 0.9
        )
