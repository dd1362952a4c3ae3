"""The cost of a step: what is measured is what training does, and how it is told."""

import numpy as np

from experiments import small_nets, step_time


def test_quartiles_and_ratios():
    rng = np.random.default_rng(0)
    seconds = {name: rng.uniform(1, 2, 9).tolist() for name in ("dense", "str")}
    found = step_time.summarize(seconds)
    ratios = np.divide(seconds["str"], seconds["dense"])
    assert found["str"]["ratio_to_dense"]["median"] == np.median(ratios)
    assert found["str"]["seconds"]["low"] == np.quantile(seconds["str"], 0.25)
    assert found["dense"]["ratio_to_dense"] == {"median": 1, "low": 1, "high": 1}
    lines = step_time.table(found).splitlines()
    assert len(lines) == 4 and f"{np.median(ratios):.2f}" in lines[3]


def test_what_is_measured_is_led_from_the_first_step():
    small_nets.register()
    model, callbacks = step_time.build("st3_sigma")
    (ramp,) = callbacks
    assert ramp.reached_at(0) == 1.0 and model.target.sparsity == step_time.LEVEL
    model, callbacks = step_time.build(step_time.FREE)
    assert model.target is None and callbacks == []
