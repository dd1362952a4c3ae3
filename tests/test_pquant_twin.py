"""PQuantML, which trains our net in a process and an environment of its own."""

import dataclasses
import json
import os
import subprocess

import numpy as np
import programs
import pytest
from tiny_suite import registered

from experiments import (
    arrays,
    outside,
    pquant_recipes,
    pquant_twin,
    records,
    runner,
    small_nets,
    suites,
    training,
)
from str_keras import building
from str_keras.config_files import from_dict

IMAGES, BATCH = 128, 32
VALUES = {
    "method": "dense",
    "dataset": "fashion_mnist_5k",
    "architecture": "mobilenetv1",
    "alpha": 0.1,
    "epochs": 2,
    "batch_size": BATCH,
    "lr": 0.05,
    "warmup_epochs": 0,
}
# At each of these some weights of so short a training go, and some stay.
KNOBS = {
    "pquant_autosparse": {"threshold_init": -4.0, "decay": 0.01},
    "pquant_dst": {"alpha": 0.01},
    "pquant_cs": {"threshold_decay": 1e-5, "fine_tuning": 0.5},
}


@pytest.mark.parity
@pytest.mark.parametrize(
    ("method", "architecture", "kernels"),
    [
        ("pquant_autosparse", "mobilenetv1", 28),
        ("pquant_dst", "resnet10", 13),
        ("pquant_cs", "resnet10", 13),
    ],
)
def test_a_short_training_is_what_its_row_says(method, architecture, kernels):
    small_nets.register()
    values = {**VALUES, "architecture": architecture}
    config = building.resolve(from_dict(values), 32, IMAGES // BATCH)
    row, weights = pquant_twin.train_with_pquant(
        config, method, KNOBS[method], limit=IMAGES, threads=1
    )
    outcome = outside.to_outcome(config, row, weights)
    rows = outcome.summary.rows
    assert len(rows) == kernels
    assert row["nonzeros"] == {r.path: r.nonzeros for r in rows}
    assert row["params"] == {r.path: r.params for r in rows}
    assert outcome.summary.kernels.sparsity == pytest.approx(row["sparsity"])
    assert 0.01 < row["sparsity"] < 0.99
    net = building.create_dense(config, (32, 32, 1), 10)
    net.set_weights(weights)
    pixels, labels = arrays.load("fashion_mnist_5k").limit(IMAGES).test(IMAGES)[0]
    right = net.predict(pixels, verbose=0).argmax(1) == labels.argmax(1)
    assert outcome.accuracy == row["accuracy"] == pytest.approx(right.mean())
    assert row["forward_difference"] <= pquant_twin.TOLERANCE
    assert len(row["seconds"]) == 2 and row["images_per_second"] > 0
    assert row["versions"]["pquant-ml"] == "0.1.0"


# Two steps before PQuantML prunes, beside a plain fit; then refusals, then the rules
# that are ours: where thresholds decay, how the epochs are shared.
STEPS = """
import json, sys
import numpy as np
from experiments import arrays, pquant_training as training, small_nets
from str_keras import building
from str_keras.config_files import from_dict

small_nets.register()
values, methods = json.loads(sys.argv[1])
config = building.resolve(from_dict(values), 32, 2)
batches = arrays.load("fashion_mnist_5k").limit(64).train(0, 0, 32)
plain = building.create(config, (32, 32, 1), 10, 2)
initial = [6**0.5 * w if w.ndim > 1 else w for w in plain.get_weights()]
plain.set_weights(initial)
plain.fit(batches, shuffle=False, verbose=0)
wanted = plain.get_weights()
for method in methods:
    net = building.create_dense(config, (32, 32, 1), 10)
    net.set_weights(initial)
    made = training.configure(method, {"fine_tuning": 0.25}, 12)
    model = training.wrap(net, made)
    images = batches[0][0]
    assert training.first_difference(net, model, images) <= 1e-6
    np.testing.assert_equal(net.get_weights(), initial)
    training.compile_as_ours(model, config, 0.5, 2)
    thresholds = [
        v for layer in training.pruned_layers(model)
        for v in layer.pruning_layer.trainable_variables
    ]
    before = [np.array(v) for v in thresholds]
    model.fit(batches, shuffle=False, verbose=0)
    after = [np.array(v) for v in thresholds]
    training.copy_back(model, net)
    moved = [np.abs(w - o).max() for w, o in zip(wanted, initial)]
    off = [np.abs(f - w).max() for f, w in zip(net.get_weights(), wanted)]
    share = made.training_parameters
    print(json.dumps({
        "off": max(float(o / m) for o, m in zip(off, moved)),
        "moved": float(min(moved)),
        "thresholds": [float(a.mean() / b.mean()) if b.any() else None
                       for a, b in zip(after, before)],
        "epochs": [share.pretraining_epochs, share.epochs, share.fine_tuning_epochs],
        "quantized": made.quantization_parameters.enable_quantization,
    }))
for method, knobs, epochs in (
    ("pquant_dst", {"sparsity": 0.9}, 12), ("pquant_cs", {"fine_tuning": 0.9}, 2),
):
    try:
        training.configure(method, knobs, epochs)
    except ValueError as error:
        print(error)
"""


@pytest.mark.parity
@pytest.mark.parametrize(
    ("architecture", "methods"),
    [
        ("mobilenetv1", ["pquant_autosparse"]),
        ("resnet10", ["pquant_dst", "pquant_cs"]),
    ],
)
def test_before_it_prunes_a_step_is_that_of_the_dense_net(architecture, methods):
    values = {**VALUES, "epochs": 1, "weight_decay": 0.01}
    values |= {"architecture": architecture}
    done = subprocess.run(
        [pquant_twin.python(), "-c", STEPS, json.dumps([values, methods])],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        cwd=outside.CHECKOUT,
    )
    assert done.returncode == 0, done.stderr
    *lines, knob, share = done.stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(methods)
    for row in rows:
        assert row["off"] <= 1e-3 and row["moved"] > 1e-4
        assert row["epochs"] == [0, 9, 3] and row["quantized"] is False
    # They decay at the learning rate, by the rule of our SGD, from -5: no gradient yet.
    for row in rows[: "pquant_autosparse" in methods]:
        assert len(row["thresholds"]) == 28
        assert np.ptp(row["thresholds"]) < 1e-5 and 0.9 < row["thresholds"][0] < 0.99
    assert "no such knob" in knob and "max_pruning_pct" in knob and "0.9" in knob
    assert "leaves an epoch" in share


@pytest.mark.parity
def test_a_loss_that_is_not_finite_is_told_apart():
    small_nets.register()
    values = from_dict({**VALUES, "architecture": "resnet10", "lr": 1e30})
    with pytest.raises(training.Diverged, match=r"PQuantML: The loss is not finite"):
        pquant_twin.train_with_pquant(values, "pquant_autosparse", {}, limit=IMAGES)


@pytest.mark.parity
def test_the_programs_error_is_told():
    with pytest.raises(RuntimeError, match=r"PQuantML failed: error: .*batch_size=32"):
        pquant_twin.train_with_pquant(
            from_dict(VALUES), "pquant_dst", {}, limit=BATCH // 2
        )


@pytest.mark.parametrize(
    ("method", "name", "words"),
    [
        ("gmp", "pquant_dst", "takes a configuration of --method=dense.*gmp"),
        ("dense", "pquant_pdp", "methods are pquant_autosparse.*pquant_pdp"),
    ],
)
def test_configurations_that_are_refused(method, name, words):
    values = {**VALUES, "method": method}
    values |= {"sparsity": 0.5} if method == "gmp" else {}
    with pytest.raises(ValueError, match=words):
        pquant_twin.train_with_pquant(from_dict(values), name, {})


def test_without_its_environment_the_mend_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(pquant_twin.PYTHON, str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match=r"run `make pquant`.* Received: .*python"):
        pquant_twin.train_with_pquant(from_dict(VALUES), "pquant_dst", {})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--config": None}, "--config is missing"),
        ({"--method": None}, "--method is missing"),
        ({"--output": None}, "--output is missing"),
        ({"--knobs": "{alpha"}, "is no JSON"),
        ({"--knobs": "[1]"}, "values by name"),
    ],
)
def test_bad_command_lines(changes, words, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(VALUES))
    given = {
        "--config": tmp_path / "config.json",
        "--method": "pquant_dst",
        "--output": tmp_path / "result.json",
        **changes,
    }
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    status, _, error = programs.run(pquant_twin, flags, capsys)
    assert status == 1 and error.startswith("error: ") and words in error
    assert error.count("\n") == 1 and not (tmp_path / "result.json").exists()


def test_what_it_trained_is_a_row_of_its_own(tmp_path, monkeypatch):
    kernel, head = np.zeros((4, 4, 1, 8)), np.ones((8, 10))
    kernel[0, 0] = 1
    weights = [kernel, *([np.ones(8)] * 2), *([np.zeros(8)] * 2), head]
    given = []

    def train(config, method, knobs, **options):
        given.append((config.method, config.threshold_decay, method, knobs, options))
        times = {"seconds": [2.0, 1.0], "images_per_second": 384.0}
        where = {"hardware": "that", "versions": {"pquant-ml": "2.0"}}
        return {"accuracy": 0.5, **times, **where}, weights

    monkeypatch.setattr(pquant_twin, "train_with_pquant", train)
    knobs = {"alpha": 0.5}
    with registered() as grid:
        cell = dataclasses.replace(
            grid.pquant_cell("pquant_dst", 0.9, 2, knobs), limit=384
        )
        options = runner.Options(["run"], tmp_path, tmp_path / "runs", threads=1)
        runner.Runner("tiny", [cell], options).run([cell])
        again = runner.Runner("tiny", [cell], options)
        assert again.is_done(cell, again.table.read())
        other = dataclasses.replace(cell, knobs=(("alpha", 0.4),))
        assert not again.is_done(other, again.table.read())
    options = {"data_dir": "", "limit": 384, "threads": 1}
    assert given == [("dense", None, "pquant_dst", knobs, options)]
    (row,) = records.Table(tmp_path / "tiny.csv").read().values()
    assert (row["method"], row["seed"], row["level"]) == ("pquant_dst", "2", "0.9")
    assert (row["nonzeros"], row["accuracy"]) == ("88", "0.5000")
    assert row["hardware"] == "that" and row["versions"] == "pquant-ml 2.0"
    assert json.loads(row["settings"])["knobs"] == knobs


@pytest.mark.parametrize(
    "suite, calibrated",
    [
        ("calibrate_pquant", "fashion_mobilenet"),
        ("calibrate_pquant_resnet", "fashion_resnet"),
    ],
)
def test_its_calibration_has_a_run_for_each_knob(suite, calibrated):
    cells = suites.create(suite)
    tried = pquant_recipes.TRIED[calibrated]
    assert set(tried) == set(pquant_twin.METHODS)
    assert len({cell.id for cell in cells}) == len(cells)
    assert len(cells) == sum(len(trials) for trials in tried.values())
    assert {(cell.config.seed, cell.level) for cell in cells} == {(0, None)}
    assert all(cell.by_pquant and cell.config.method == "dense" for cell in cells)
    assert len({cell.settings for cell in cells}) == len(cells)


def test_a_suite_has_what_is_calibrated_for_its_data():
    for suite, recipes in pquant_recipes.RECIPES.items():
        wanted = {(m, level) for m, levels in recipes.items() for level in levels}
        cells = [c for c in suites.create(f"{suite}_targets") if c.by_pquant]
        assert {(cell.method, cell.level) for cell in cells} == wanted
        assert len(cells) == 3 * len(wanted)
    for name in ("fashion_full_resnet", "fashion_full_mobilenet", "cifar_mobilenet"):
        cells = suites.create(f"{name}_targets")
        assert cells and not any(cell.by_pquant for cell in cells)
