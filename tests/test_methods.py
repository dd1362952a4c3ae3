"""The baselines under the training command: what each prunes, when, what it refuses."""

import csv
import json
import math
import signal

import keras
import numpy as np
import programs
import pytest
from tiny_training import tiny

import str_keras as stk
from str_keras import building, train, training
from str_keras.checkpoint import load_model
from str_keras.config import TrainConfig, check_used
from str_keras.config_files import from_dict
from str_keras.methods import LEARNED, METHODS
from str_keras.model import find_thresholded

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="training uses tf.distribute"
)
SIZES = {
    "conv1/kernel": 72,
    "block1_depthwise/kernel": 72,
    "block1_pointwise/kernel": 128,
    "fc/kernel": 160,
}
SHARE = 0.75
KEPT = {path: round(size * (1 - SHARE)) for path, size in SIZES.items()}
BUDGET = {
    "conv1/kernel": 0.0,
    "block1_depthwise/kernel": 0.25,
    "block1_pointwise/kernel": 0.5,
    "fc/kernel": 0.9,
}
AT_BUDGET = {path: round(SIZES[path] * (1 - rate)) for path, rate in BUDGET.items()}


def erk():
    """Densities by the formula of RigL with the capped layers found by hand.

    Sums 3+3+1+8 = 15, 3+3+8+1 = 15, 1+1+8+16 = 26, 16+10 = 26; kept in all
    432 / 4 = 108, so the factor is 108 / 82 and no density exceeds 1.
    """
    factor = 0.25 * sum(SIZES.values()) / (15 + 15 + 26 + 26)
    sums = dict(zip(SIZES, (15, 15, 26, 26), strict=True))
    return {path: round(factor * sums[path]) for path in SIZES}


@pytest.fixture(scope="module")
def config():
    stk.models.ARCHITECTURES["tiny_methods"] = tiny
    yield TrainConfig(
        architecture="tiny_methods",
        epochs=5,
        batch_size=500,
        lr=0.05,
        warmup_epochs=1,
        weight_decay=5e-4,
        threshold_decay=0.15,
        s_init=-8.0,
    )
    del stk.models.ARCHITECTURES["tiny_methods"]


@pytest.fixture(scope="module")
def budget_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "budget.csv"
    stk.budget.Budget("mine", BUDGET).to_csv(path)
    return str(path)


def with_(config, **changes):
    return from_dict({**config.to_dict(), **changes})


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def options(method, budget_file):
    if method.startswith("budget"):
        return {"budget": budget_file}
    if method in ("st3", "st3_sigma", "feather", "lats"):
        return {"target_sparsity": SHARE}
    return {} if method in ("dense", *LEARNED) else {"sparsity": SHARE}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_each_method_prunes(method, config, budget_file, tmp_path):
    chosen = with_(config, method=method, **options(method, budget_file))
    result = training.train_and_evaluate(chosen, tmp_path / "run")
    counted = {row.path: row.nonzeros for row in result.summary.rows}
    wanted = {
        "dense": SIZES,
        "erk_rigl_static": erk(),
        "budget_gmp": AT_BUDGET,
        "budget_dnw": AT_BUDGET,
    }.get(method, KEPT)
    if chosen.learns_thresholds:
        found = [np.array(t.threshold()) for t in find_thresholded(result.model)]
        thresholds = np.unique(np.concatenate([t.reshape(-1) for t in found]))
        if method == "str_filter":  # 42 of them; equal ones are of dead filters
            assert len(thresholds) > 20
        else:
            assert len(thresholds) == (1 if method == "str_global" else 4)
        assert all(0 < n < SIZES[path] for path, n in counted.items())
    elif chosen.target is not None:
        total = sum(SIZES.values())
        assert sum(counted.values()) == pytest.approx(total * (1 - SHARE), abs=1)
    else:
        assert counted == wanted
    assert result.metrics[-1]["loss"] < result.metrics[0]["loss"]
    table = rows(tmp_path / "run" / "layers.csv")
    if method == "dense":
        assert table == []
        return
    # 50 steps, ramp over 10..40: the first epoch is dense, the last has the rates.
    at_once = method in ("dnw", "budget_dnw", "erk_rigl_static")
    seen = {e: {} for e in range(1, 6)}
    for row in table:
        seen[int(row["epoch"])][row["path"]] = float(row["sparsity"])
    if chosen.target is None and not chosen.learns_thresholds:
        for path in seen[1]:
            final = 1 - wanted[path] / SIZES[path]
            assert seen[1][path] == pytest.approx(final if at_once else 0.0)
            assert seen[5][path] == pytest.approx(final)
            half = 0.0 if method == "uniform_oneshot" else None
            assert half is None or seen[2][path] == half
    # The saved model is the trained one, and its plain form has the zeros.
    loaded = load_model(tmp_path / "run" / "last.keras")
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype("float32")
    np.testing.assert_array_equal(loaded(x), result.model(x))
    plain = stk.summary(stk.strip(loaded))
    assert {row.path: row.nonzeros for row in plain.rows} == counted


def test_gmp_rises_by_the_cubic(config, budget_file):
    """With the paper's 100 epochs: once an epoch, from 20 to 80."""
    ramp = building.create_ramp(
        with_(config, method="gmp", sparsity=0.9, epochs=100), 5005
    )
    assert ramp is not None
    assert (ramp.begin, ramp.end, ramp.frequency) == (20 * 5005, 80 * 5005, 5005)
    for method in ("dense", "str", "dnw", "erk_rigl_static", "budget_dnw"):
        chosen = with_(config, method=method, **options(method, budget_file))
        assert building.create_ramp(chosen, 10) is None
    once = building.create_ramp(
        with_(config, method="uniform_oneshot", sparsity=0.9, epochs=10), 10
    )
    assert once is not None and once.begin == once.end == 50


@pytest.mark.slow
def test_a_pruned_training_goes_on_as_if_undisturbed(config, tmp_path, monkeypatch):
    chosen = with_(config, method="gmp", sparsity=SHARE)
    whole = training.train_and_evaluate(chosen, tmp_path / "whole")
    from str_keras import monitoring

    end = monitoring.Interruption.on_train_batch_end

    def interrupt(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 23:  # amid the ramp and the epoch
            signal.raise_signal(signal.SIGTERM)
        end(self, batch, logs)

    monkeypatch.setattr(monitoring.Interruption, "on_train_batch_end", interrupt)
    with pytest.raises(training.Interrupted):
        training.train_and_evaluate(chosen, tmp_path / "cut")
    monkeypatch.undo()
    again = training.train_and_evaluate(chosen, tmp_path / "cut", resume=True)
    for a, b in zip(whole.model.weights, again.model.weights, strict=True):
        np.testing.assert_array_equal(np.array(a), np.array(b))
    assert rows(tmp_path / "whole" / "layers.csv") == rows(
        tmp_path / "cut" / "layers.csv"
    )


def test_a_published_budget_is_taken_by_name(config):
    chosen = with_(
        config, method="budget_gmp", budget="resnet50@90.23", architecture="resnet50"
    )
    chosen = building.resolve(chosen, 32, 10)
    model = building.create(chosen, (32, 32, 3), 1000, 10)
    sparsity = stk.summary(model).kernels.sparsity
    assert sparsity == pytest.approx(0.9023, abs=1e-4)
    assert math.isclose(model.rates[0], 0.5980)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--method=gmp"], "wants --sparsity"),
        (["--method=st3"], "wants --target_sparsity"),
        (["--method=st3", "--sparsity=0.9"], "--target_sparsity"),
        (["--method=gmp", "--sparsity=0.9", "--target_macs=0.5"], "give one of them"),
        (["--method=dense", "--target_sparsity=0.9"], "a target is for str, str_fil"),
        (["--target_sparsity=95"], "below 1 (90 % is 0.9)"),
        (["--target_sparsity=0.9", "--backward=half"], "Unknown backward"),
        (["--target_sparsity=0.9", "--threshold=top"], "one of learned"),
        (["--method=str", "--min_density=0.1"], "on the way to a target"),
        (["--method=dense", "--skip=fc"], "--skip has no effect with --method=dense"),
        (["--architecture=resnet18", "--alpha=0.5"], "width of mobilenetv1 alone"),
        (
            ["--method=dense", "--s_init=-5"],
            "--s_init has no effect with --method=dens",
        ),
        (
            ["--threshold=quantile(global)", "--target_sparsity=0.9", "--g=exp"],
            "--g has no effect with --method=str and --threshold=quantile(global)",
        ),
        (
            ["--method=lats", "--target_sparsity=0.9", "--prune_end=0.5"],
            "has a course to the last step",
        ),
        (
            ["--method=dnw", "--sparsity=0.9", "--prune_end=0.5"],
            "prunes from the first step on",
        ),
        (
            ["--method=st3", "--threshold=learned", "--target_sparsity=0.9"],
            "name another, such as feather",
        ),
        (["--method=str", "--prune_end=0.5"], "on the way to a target only"),
        (["--method=str", "--sparsity=0.9"], "--threshold_decay"),
        (["--method=dense", "--sparsity=0.9"], "a dense net has none"),
        (["--method=gmp", "--sparsity=90"], "sparsity"),
        (["--method=budget_gmp"], "wants --budget"),
        (["--method=dnw", "--sparsity=0.5", "--budget=x.csv"], "does not take --bud"),
        (["--method=budget_gmp", "--budget=none.csv"], "No such file"),
        (["--method=budget_gmp", "--budget=none.CSV"], "No such file"),
        (["--method=budget_gmp", "--budget=resnet50@12"], "resnet50@79.55"),
        (["--method=budget_dnw", "--budget=resnet50@90.23"], "layer1_0_conv1"),
        (
            ["--method=gmp", "--sparsity=0.5", "--prune_begin=0.9"],
            "prune_end",
        ),
        (["--method=rigl"], "uniform_oneshot"),
        (["--method=str_global", "--granularity=filter"], "granularity"),
    ],
)
def test_one_line_for_what_does_not_fit(flags, words, tmp_path, capsys):
    arguments = [
        *flags,
        f"--run_dir={tmp_path / 'run'}",
        "--epochs=1",
        "--warmup_epochs=0",
    ]
    status, _, error = programs.run(train, arguments, capsys)
    assert status == 1
    assert words in error.splitlines()[-1], error
    assert error.splitlines()[-1].startswith("error: ")


def test_settings_of_learned_thresholds_go_where_thresholds_are_learned(config):
    """Also of another method whose thresholds are learned by --threshold."""
    lent = with_(config, method="feather", threshold="learned", target_sparsity=0.9)
    check_used(with_(lent, operator="soft", s_init=-5.0), ["s_init", "operator"])


def test_the_config_of_a_run_holds_the_method(config):
    chosen = with_(config, method="dnw", sparsity=0.5)
    assert from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
