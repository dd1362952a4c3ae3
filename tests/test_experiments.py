import contextlib
import csv
import dataclasses
import gzip
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from idx_files import write_fashion_mnist
from programs import run as run_program
from tiny_suite import registered

from experiments import (
    arrays,
    recipes,
    records,
    run,
    runner,
    suites,
    tfmot_twin,
    training,
)
from str_keras import budget, building, config_files, data
from str_keras.data import augment, fashion_mnist, loading, order
from str_keras.methods import METHODS
from str_keras.sparsifying import PRESETS

ROOT = pathlib.Path(run.__file__).parents[1]
SUITE = pathlib.Path(__file__).with_name("tiny_suite.py")
GRIDS = [
    name
    for name in suites.SUITES
    if not name.startswith("calibrate") and not name.endswith("_targets")
]


def rows_of(folder):
    with (folder / "tiny.csv").open(newline="") as file:
        return {row["id"].split("tiny_net-")[1]: row for row in csv.DictReader(file)}


def flags_of(folder, *more):
    places = (f"--results={folder / 'results'}", f"--output={folder / 'runs'}")
    return ["--suite=tiny", "--limit=384", *places, *more]


@pytest.fixture
def start(tmp_path):
    """Starts the program in processes of their own, which end with the test."""
    with contextlib.ExitStack() as processes:

        def start(*more, folder=tmp_path, before="", backend="tensorflow"):
            program = (
                f"import runpy; runpy.run_path({str(SUITE)!r}, run_name='__main__')"
            )
            process = subprocess.Popen(
                [sys.executable, "-c", before + program, *flags_of(folder, *more)],
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUITE.parent)]),
                    "KERAS_BACKEND": backend,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield start


# Data


@pytest.mark.parametrize("epoch", [0, 3])
def test_training_batches_are_those_of_the_pipeline(epoch):
    ours = arrays.load("fashion_mnist_5k")
    theirs = data.load("fashion_mnist_5k", seed=2)
    assert ours.image_shape == theirs.info.image_shape
    batches = ours.train(2, epoch, 128)
    assert len(batches) == theirs.steps_per_epoch(128) == 39
    for i, (images, labels) in enumerate(theirs.train(epoch, 128).as_numpy_iterator()):
        found, one_hot = batches[i]
        np.testing.assert_allclose(found, images, atol=1e-6)
        np.testing.assert_array_equal(one_hot.argmax(-1), labels)
        assert found.dtype == one_hot.dtype == np.float32
    np.testing.assert_array_equal(one_hot.sum(-1), 1)


def test_test_batches_are_those_of_the_pipeline():
    theirs = data.load("fashion_mnist_5k").evaluation(300).as_numpy_iterator()
    batches = arrays.load("fashion_mnist_5k").test(300)
    assert len(batches) == 7 and len(batches[6][0]) == 200
    for i, (images, labels) in enumerate(theirs):
        np.testing.assert_allclose(batches[i][0], images, atol=1e-6)
        np.testing.assert_array_equal(batches[i][1].argmax(-1), labels)


def test_order_is_that_of_the_pipeline():
    expected = order.permutation(1000, order.epoch_keys(5, 7)[0])[:960]
    np.testing.assert_array_equal(arrays.epoch_order(5, 7, 1000, 64), expected)


@pytest.mark.parametrize("name", arrays.SOURCES)
def test_constants_are_those_of_the_pipeline(name):
    source = arrays.SOURCES[name]
    assert (source.mean, source.std) == loading._STATISTICS[name]


def test_crops_and_flips_are_those_of_the_pipeline():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    draws = random.random((40, 3), dtype=np.float32)
    expected = augment.crop_flip(images, draws).numpy()
    np.testing.assert_array_equal(arrays.crop_flip(images, draws), expected)


@pytest.fixture
def cifar10(tmp_path):
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "cifar10.npz",
        train_images=random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8),
        train_labels=np.arange(64) % 10,
        test_images=random.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
        test_labels=np.arange(20) % 10,
    )
    return arrays.load("cifar10", tmp_path)


def test_color_images_are_augmented_by_seed_and_epoch(cifar10):
    def epoch(seed, number):
        images, labels = cifar10.train(seed, number, 64)[0]
        return images[labels.argmax(-1).argsort(kind="stable")]

    np.testing.assert_array_equal(epoch(1, 2), epoch(1, 2))
    assert (epoch(1, 2) != epoch(1, 3)).any() and (epoch(1, 2) != epoch(2, 2)).any()
    still = cifar10.normalize(cifar10.arrays["test_images"])
    np.testing.assert_array_equal(cifar10.test(20)[0][0], still)


def test_cifar10_of_tfds_is_kept_as_a_file(tmp_path, monkeypatch, cifar10):
    class Prepared:
        info = data.DatasetInfo("cifar10", 10, (), 64, 20, (32, 32, 3), "")

        def raw(self, split, count):
            found = cifar10.arrays
            assert len(found[f"{split}_labels"]) == count
            return found[f"{split}_images"], found[f"{split}_labels"]

    monkeypatch.setattr(arrays, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(data, "load", lambda name, data_dir: Prepared())
    first = arrays.load("cifar10").arrays
    monkeypatch.delattr(data, "load")
    again = arrays.load("cifar10").arrays
    for name, values in first.items():
        np.testing.assert_array_equal(again[name], values)


def test_full_fashion_mnist(tmp_path):
    write_fashion_mnist(tmp_path, 44, 23)
    images = arrays.load("fashion_mnist", tmp_path).arrays
    full = fashion_mnist.read_folder(tmp_path)
    for split, count in (("train", 44), ("test", 23)):
        assert images[f"{split}_images"].shape == (count, 32, 32, 1)
        inner = images[f"{split}_images"][:, 2:-2, 2:-2]
        np.testing.assert_array_equal(inner, full[split][0])
        np.testing.assert_array_equal(images[f"{split}_labels"], full[split][1])
    damaged = tmp_path / "t10k-labels-idx1-ubyte.gz"
    damaged.write_bytes(gzip.compress(b"\0\0\x08\x01"))
    with pytest.raises(ValueError, match=r"idx file is damaged.*t10k-labels"):
        arrays.load("fashion_mnist", tmp_path)


def test_bad_data_are_refused(tmp_path, cifar10):
    with pytest.raises(ValueError, match=r"in memory are .*Received: 'mnist'"):
        arrays.load("mnist")
    with pytest.raises(ValueError, match=r"take smaller batches.*batch_size=65"):
        cifar10.train(0, 0, 65)
    np.savez(tmp_path / "cifar10.npz", **{**cifar10.arrays, "test_labels": [1, 2]})
    with pytest.raises(ValueError, match=r"cifar10 \(test\).*2 labels"):
        arrays.load("cifar10", tmp_path)


# Suites


def test_lambda_rule_by_hand():
    recipe = config_files.from_dict(
        {
            "schedule": "constant",
            "warmup_epochs": 0,
            "epochs": 3,
            "lr": 0.1,
            "momentum": 0.875,
            "threshold_decay": 0.02,
        }
    )
    # 0.02 * (3 epochs * 10 steps * 0.1) / 0.125
    assert recipes.total_decay(recipe, 10) == pytest.approx(0.48)
    twice = config_files.from_dict({**recipe.to_dict(), "epochs": 6, "lr": 0.3})
    assert recipes.carry_over(0.02, recipe, 10, twice, 20) == pytest.approx(0.02 / 12)


def test_lambda_of_the_papers_recipe():
    paper = config_files.TrainConfig()
    assert recipes.decay_sum(paper, 5005) == pytest.approx(522_762, rel=1e-5)
    assert recipes.total_decay(paper, 5005) == pytest.approx(11.771, rel=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_suites_are_complete_grids_in_order(name):
    cells = suites.create(name)
    ids = [cell.id for cell in cells]
    spared = 6 * ("mobilenet" in name)
    assert len(ids) == len(set(ids)) == 3 + 8 * 5 * 3 + 2 * 2 * 3 + spared
    variants = {cell.variant for cell in cells} - {""}
    assert variants == {
        "tfmot",
        "tfmot_masked",
        *["gmp_depthwise_dense"] * bool(spared),
    }
    led = {"str_filter", "st3", "st3_sigma", "feather", "autosparse", "lats"}
    assert {cell.method for cell in cells} == {*METHODS} - led | variants
    assert [cell.method for cell in cells[:9:3]] == ["dense", "str", "gmp"]
    assert {cell.level for cell in cells[3:24]} == {0.9}
    for cell in cells:
        if cell.depends_on:
            assert ids.index(cell.depends_on) < ids.index(cell.id)
            assert f"-{100 * cell.level:g}-seed{cell.config.seed}" in cell.depends_on


@pytest.mark.parametrize("name", ["fashion_mobilenet", "fashion_resnet"])
def test_suites_of_targets_are_led_to_their_levels(name):
    """Each preset at each level and seed, by nothing but the name of the sparsity."""
    cells = suites.create(f"{name}_targets")
    assert len({cell.id for cell in cells}) == len(cells)
    led = [cell for cell in cells if cell.config.target is not None]
    assert {cell.config.method for cell in led} == set(PRESETS)
    for cell in led:
        assert cell.config.target_sparsity == cell.level
        assert cell.config.threshold_decay is None and cell.config.s_init is None
    curve = [cell for cell in led if cell.method in suites.CURVE]
    assert {cell.config.mac_pressure for cell in curve} in (set(), {0.5, 1.0})
    led = [cell for cell in led if cell not in curve]
    keys = {(cell.method, cell.level, cell.config.seed) for cell in led}
    methods, levels = {cell.method for cell in led}, {cell.level for cell in led}
    assert len(keys) == len(methods) * len(levels) * 3 and len(levels) == 5
    assert any(cell.by_tfmot for cell in cells)


@pytest.mark.parametrize("name", ["fashion_mobilenet", "cifar_mobilenet"])
def test_what_spares_depthwise_kernels_has_the_sparsity_all_the_same(name):
    for cell in suites.create(name):
        if cell.config.method == "gmp" and cell.variant and cell.config.seed == 0:
            recipe = dataclasses.replace(cell.config, stem="small")
            channels = len(arrays.SOURCES[recipe.dataset].mean)
            model = building.create(recipe, (32, 32, channels), 10, 39)
            model.set_rates(model.rates)
            found = budget.summary(model)
            assert found.kernels.sparsity == pytest.approx(cell.level, abs=1e-4)
            dense = {row.path.split("/")[0] for row in found.rows if not row.sparsity}
            assert {"conv1", "block1_depthwise", "block13_depthwise"} <= dense
            assert not any("pointwise" in path for path in dense)


def test_suites_of_one_calibration_have_the_same_lambda():
    def lambdas(name, **options):
        found = {}
        for cell in suites.create(name, **options):
            if cell.config.method == "str":
                steps = arrays.SOURCES[cell.config.dataset].num_train // 128
                found[cell.level] = recipes.total_decay(cell.config, steps)
        return found

    expected = lambdas("fashion_mobilenet")
    assert sorted(expected) == sorted(suites.LEVELS)
    assert sorted(expected.values()) == [expected[x] for x in sorted(expected)]
    for found in (
        lambdas("fashion_full_mobilenet"),
        lambdas("fashion_mobilenet", epochs=3),
    ):
        assert found == pytest.approx(expected, rel=1e-3)
    resnet = lambdas("fashion_resnet")
    assert lambdas("cifar_resnet") == pytest.approx(resnet, rel=1e-3)
    assert lambdas("fashion_full_resnet") == pytest.approx(resnet, rel=1e-3)


def test_hardware_counts_the_cores_that_may_be_used():
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        of = f"of {os.cpu_count()} cores"
        assert records.hardware(None).endswith(f", 1 {of}")
        assert records.hardware(8).endswith(f", 1 {of}")
    finally:
        os.sched_setaffinity(0, usable)
    assert records.hardware(None).endswith(f", {len(usable)} {of}")


def test_paper_suites_are_commands(capsys):
    status, out, _ = run_program(run, ["--suite=imagenet_resnet50"], capsys)
    lines = out.splitlines()[1:]
    assert status == 0 and len(lines) > 16
    few = run_program(run, ["--suite=imagenet_resnet50", "--only=gmp_9"], capsys)[1]
    assert few.splitlines()[1:] == [x for x in lines if "gmp_9" in x] != []
    for line in lines:
        name = line.split("--config=")[1].split()[0]
        assert config_files.find(name).is_file()


def test_small_net_is_what_it_says():
    from experiments.small_nets import ResNet10

    counted = budget.summary(ResNet10((32, 32, 1)))
    assert counted.kernels.params == 307_088
    assert {row.path.split("/")[0] for row in counted.rows} >= {"conv1", "fc"}


# Runs


@pytest.mark.slow
def test_a_suite_runs_and_is_skipped_the_second_time(tmp_path, capsys):
    results = tmp_path / "results"
    with registered():
        status, out, err = run_program(run, flags_of(tmp_path), capsys)
        assert status == 0, err
        assert "0 of 4 runs are done" in out and "[4/4]" in out
        rows = rows_of(results)
        before = (results / "tiny.csv").read_bytes()
        assert "4 of 4" in run_program(run, flags_of(tmp_path), capsys)[1]
        listed = run_program(run, flags_of(tmp_path, "--list"), capsys)[1]
    assert (results / "tiny.csv").read_bytes() == before
    assert listed.count("finished") == 4
    assert set(rows) == {
        "dense-seed0",
        "str-90-seed0",
        "gmp-90-seed0",
        "budget_dnw-90-seed0",
    }
    assert not any((tmp_path / "runs").glob("*/*"))  # no checkpoint is left
    params = 4 * 4 * 8 + 8 * 10
    for name, row in rows.items():
        assert tuple(row) == records.COLUMNS
        empty = {column for column, value in row.items() if not value}
        may_be = {"alpha", "level", "threshold_decay", "s_init", "git_revision"}
        assert empty <= may_be, name
        assert row["command"] == (
            "KERAS_BACKEND=tensorflow python -m experiments.run --suite=tiny "
            f"--limit=384 '--only=^{row['id']}$'"
        )
        assert 0 <= float(row["accuracy"]) <= 1 and row["status"] == "finished"
        measured = budget.Budget.read(results / "budgets" / f"{row['id']}.csv")
        assert len(measured.rates) == 2
        assert float(row["sparsity"]) == pytest.approx(
            1 - int(row["nonzeros"]) / params, abs=1e-6
        )
    assert int(rows["dense-seed0"]["nonzeros"]) == params
    assert int(rows["gmp-90-seed0"]["nonzeros"]) == 13 + 8
    assert rows["budget_dnw-90-seed0"]["nonzeros"] == rows["str-90-seed0"]["nonzeros"]
    history = (results / "history" / f"{rows['str-90-seed0']['id']}.csv").read_text()
    lines = list(csv.DictReader(history.splitlines()))
    assert [int(line["epoch"]) for line in lines] == [1, 1, 2, 2, 3, 3]
    assert all(float(line["threshold"]) > 0 for line in lines)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, start):
    flags = ("--only=gmp", "--epochs=40", "--checkpoint_seconds=0", "--threads=1")
    whole = start(*flags, folder=tmp_path / "whole")
    killed = start(*flags)
    while not list(tmp_path.glob("runs/*/last.keras")):
        assert killed.poll() is None, killed.stdout.read()
        time.sleep(0.05)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    again = start(*flags)
    for process in (whole, again):
        out = process.communicate(timeout=300)[0]
        assert process.returncode == 0, out
    assert "goes on after epoch" in out
    (row,) = rows_of(tmp_path / "results").values()
    (expected,) = rows_of(tmp_path / "whole" / "results").values()
    for column in ("accuracy", "sparsity", "nonzeros", "settings"):
        assert row[column] == expected[column]


def make_run(cell, folder, **options):
    images = arrays.load("fashion_mnist_5k").limit(384)
    return training.Run(cell.config, images, folder, **options)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [(), ("last",), ("last", "previous")])
def test_a_run_that_has_no_time_goes_on_to_the_same_end(tmp_path, damaged):
    """Also with the checkpoint before, or anew where none is whole."""
    with registered(decay=0.03) as grid:
        cell = grid.cell("str_global", 0.9, 1)
        expected = make_run(cell, tmp_path / "whole").train("whole")
        answers = iter([True, True, False])
        stopped = make_run(
            cell,
            tmp_path,
            checkpoint_seconds=0.0,
            may_go_on=lambda seconds: next(answers),
        )
        with pytest.raises(training.OutOfTime, match="after epoch 2"):
            stopped.train("part")
        for name in ("last", "previous"):
            file = tmp_path / f"{name}.keras"
            kept = file.read_bytes()
            file.write_bytes(kept[:-1] if name in damaged else kept)
        found = make_run(cell, tmp_path).train("part")
    assert found.accuracy == expected.accuracy
    assert found.summary == expected.summary
    assert found.history == expected.history and len(found.history) == 6


@pytest.mark.slow
def test_a_checkpoint_of_other_settings_is_not_taken(tmp_path):
    with registered() as grid:
        stopped = make_run(
            grid.cell("dense", None, 0), tmp_path, may_go_on=lambda seconds: False
        )
        with pytest.raises(training.OutOfTime):
            stopped.train("part")
        other = make_run(grid.cell("dense", None, 1), tmp_path)
        model, log = other._start()
    assert not log.seconds
    assert model.optimizer.iterations == 0 and not (tmp_path / "last.keras").exists()


@pytest.mark.slow
def test_a_diverged_run_is_a_row_and_its_dependents_wait(tmp_path, capsys):
    flags = flags_of(tmp_path, "--only=str|budget")
    with registered(lr=1e30):
        status, out, err = run_program(run, flags, capsys)
        assert status == 0, err
        assert "diverged: the loss is nan in epoch 1" in out
        assert "1 runs wait for others" in out
        assert "1 of 2 runs are done" in run_program(run, flags, capsys)[1]
        assert "epoch 1" in run_program(run, [*flags, "--retry"], capsys)[1]
    (row,) = rows_of(tmp_path / "results").values()
    assert row["status"].startswith("diverged") and row["accuracy"] == ""


@pytest.mark.slow
def test_jax_needs_no_tensorflow(tmp_path, start):
    blocked = "import sys; sys.modules['tensorflow'] = None; "
    process = start("--only=dense|str|dnw", before=blocked, backend="jax")
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out
    rows = rows_of(tmp_path / "results").values()
    assert [row["status"] for row in rows] == ["finished"] * 3, out
    assert all(row["backend"] == "jax" for row in rows)


def test_time_that_is_up_is_said(tmp_path, capsys):
    with registered():
        flags = flags_of(tmp_path, "--minutes=0")
        status, out, _ = run_program(run, flags, capsys)
    assert status == 0 and "The time is up; 4 runs are left" in out


@pytest.mark.slow
def test_what_fails_is_a_row_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    def broken(self, title):
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(training.Run, "train", broken)
    with registered():
        status, out, _ = run_program(run, flags_of(tmp_path, "--only=gmp|str"), capsys)
    assert status == 1 and "[2/2]" in out
    found = {row["status"] for row in rows_of(tmp_path / "results").values()}
    assert found == {"failed: RuntimeError: no memory"}
    monkeypatch.undo()
    with registered():  # what was missing may be there now
        status, out, _ = run_program(run, flags_of(tmp_path, "--only=gmp|str"), capsys)
    assert status == 0 and "0 of 2 runs are done" in out
    found = {row["status"] for row in rows_of(tmp_path / "results").values()}
    assert found == {"finished"}


@pytest.mark.parametrize("name", ["tfmot", "tfmot_masked"])
def test_what_tfmot_trained_is_a_row_of_its_own(name, tmp_path, capsys, monkeypatch):
    """How it trains is of test_tfmot_twin; here what becomes of it."""
    kernel, head = np.zeros((4, 4, 1, 8)), np.ones((8, 10))
    kernel[0, 0] = 1
    weights = [kernel, *([np.ones(8)] * 2), *([np.zeros(8)] * 2), head]
    given = []

    def train(config, **options):
        given.append((config.method, config.sparsity, options))
        times = {"seconds": [2.0, 1.0], "images_per_second": 384.0}
        where = {"hardware": "that", "versions": {"tf_keras": "2.0"}}
        return {"accuracy": 0.5, **times, **where}, weights

    monkeypatch.setattr(tfmot_twin, "train_with_tfmot", train)
    with registered() as grid:
        cell = dataclasses.replace(grid.tfmot_cell(0.9, 2, name), limit=384)
        options = runner.Options(["run"], tmp_path, tmp_path / "runs", threads=1)
        runner.Runner("tiny", [cell], options).run([cell])
        again = runner.Runner("tiny", [cell], options)
        assert again.is_done(cell, again.table.read())
        late = dataclasses.replace(options, results=tmp_path / "late", minutes=0.01)
        late = runner.Runner("tiny", [cell], late)
        late.whole_run = 3.0
        late.run([cell])
    assert "would take too long; 1 runs are left" in capsys.readouterr().out
    options = {"data_dir": "", "limit": 384, "threads": 1}
    options["mask_gradients"] = name == "tfmot_masked"
    assert given == [("gmp", 0.9, options)]
    (row,) = rows_of(tmp_path).values()
    assert (row["method"], row["seed"], row["level"]) == (name, "2", "0.9")
    assert (row["nonzeros"], row["accuracy"]) == ("88", "0.5000")
    assert row["seconds"] == "3.0" and row["versions"] == "tf_keras 2.0"
    assert row["hardware"] == "that" and row["command"].startswith("run '--only=^fash")


def test_without_its_data_a_suite_ends(tmp_path, capsys):
    flags = ["--suite=cifar_mobilenet", f"--data_dir={tmp_path / 'none'}"]
    places = [f"--results={tmp_path / 'results'}", f"--output={tmp_path / 'runs'}"]
    status, _, err = run_program(run, [*flags, *places], capsys)
    assert status == 1 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert not list((tmp_path / "results").glob("*.csv"))


def test_another_process_has_the_run(tmp_path):
    """Also one whose checkpoints are elsewhere: the table is what both write."""
    with registered() as grid:
        cell = grid.cell("dense", None, 0)
        options = [
            runner.Options([], tmp_path / "results", tmp_path / output)
            for output in ("runs", "others")
        ]
        first, second = (runner.Runner("tiny", [cell], each) for each in options)
        with records.locked(first.options.results / cell.id):
            assert not second._claim(cell, [cell])


def test_runners_with_other_checkpoints_lose_no_rows(tmp_path):
    code = (
        "import pathlib, sys; from experiments import records, runner\n"
        "results, output = map(pathlib.Path, sys.argv[1:])\n"
        "table = runner.Runner('x', [], runner.Options([], results, output)).table\n"
        "empty = dict.fromkeys(records.COLUMNS, '')\n"
        "for i in range(40): table.add(empty | {'id': f'{output.name}{i}'})\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "results", tmp_path / output],
            cwd=ROOT,
        )
        for output in ("a", "b")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(records.Table(tmp_path / "results" / "x.csv").read()) == 80


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], r"--suite is missing: fashion_mobilenet"),
        (["--suite=fashion"], "--suite is one of fashion_mobilenet.*'fashion'"),
        (["--suite=fashion_mobilenet", "--only=nothing"], "No run.*only='nothing'"),
        (["--suite=fashion_mobilenet", "--only=("], "no regular expression"),
        (["--suite=fashion_mobilenet", "--limit=9"], "name a folder.*--results"),
        (["--suite=fashion_mobilenet", "--seeds=a"], "--seeds are numbers.*'a'"),
        (["--suite=fashion_mobilenet", "--seeds=7"], r"No run.*seeds=\['7'\]"),
        (["--suite=fashion_mobilenet", "--minutes=-5"], r"minutes.*-5"),
        (["--suite=fashion_mobilenet", "--minutes=nan"], "--minutes.*=nan"),
        (["--suite=fashion_mobilenet", f"--results={__file__}"], "--results is a f"),
        (
            ["--suite=fashion_mobilenet", "--limit=9", "--results=none"],
            "step takes 128.*limit=9",
        ),
        (["--suite=imagenet_resnet50", "--only=nothing"], "No run.*only='nothing'"),
        (["--suite=imagenet_resnet50", "--seeds=1"], r"leave --seeds out.*\['1'\]"),
    ],
)
def test_bad_flags_are_one_line(flags, message, capsys):
    status, _, err = run_program(run, flags, capsys)
    assert status == 1 and err.startswith("error: ") and len(err.splitlines()) == 1
    assert re.search(message, err)


def test_a_table_of_other_columns_is_left_alone(tmp_path):
    path = tmp_path / "suite.csv"
    path.write_text("id,accuracy\na,0.5\n")
    with pytest.raises(ValueError, match="columns of this program"):
        records.Table(path).add(dict.fromkeys(records.COLUMNS, 1))
    assert path.read_text() == "id,accuracy\na,0.5\n"


def test_a_table_keeps_one_row_of_an_id(tmp_path):
    table = records.Table(tmp_path / "suite.csv")
    for name, status in (("a", "diverged"), ("b", "finished"), ("a", "finished")):
        table.add(dict.fromkeys(records.COLUMNS, "") | {"id": name, "status": status})
    rows = table.read()
    assert list(rows) == ["a", "b"]
    assert [row["status"] for row in rows.values()] == ["finished", "finished"]


def test_settings_tell_runs_apart():
    cells = suites.create("fashion_mobilenet")
    assert len({cell.settings for cell in cells}) == len(cells)
    transferred = next(cell for cell in cells if cell.depends_on)
    source = next(cell for cell in cells if cell.id == transferred.depends_on)
    assert json.loads(transferred.settings)["budget_of"] == json.loads(source.settings)
    dense = cells[0].config
    assert building.resolve(dense, 32, 39).s_init is None
