"""The training entry point on a few real images: files, resume, faults, replicas."""

import contextlib
import csv
import io
import json
import re
import shutil
import signal
import subprocess

import keras
import numpy as np
import programs
import pytest
from tiny_training import CLASSES, PER_CLASS, tiny, write_images

import str_keras as stk
from str_keras import checkpoint, monitoring, run_directory, train, training
from str_keras.config import TrainConfig
from str_keras.config_files import from_dict
from str_keras.files import written_aside
from str_keras.run_directory import best_epoch

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="training uses tf.distribute"
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def config(folder):
    stk.models.ARCHITECTURES["tiny"] = tiny
    yield TrainConfig(
        architecture="tiny",
        dataset=f"folder:{folder}",
        image_size=32,
        augment="crop_flip",
        epochs=3,
        batch_size=32,
        lr=0.05,
        warmup_epochs=1,
        weight_decay=5e-4,
        threshold_decay=0.5,
        s_init=-8.0,
    )
    del stk.models.ARCHITECTURES["tiny"]


@pytest.fixture(scope="session")
def undisturbed(config, tmp_path_factory):
    """A whole run, its folder and what it printed."""
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    return training.train_and_evaluate(config, run_dir, command="the command"), run_dir


@pytest.fixture(scope="session")
def led(config):
    """Led to a target: a ramp of thresholds, and a watch of the loss at the end."""
    return with_(
        config,
        s_init=None,
        threshold_decay=None,
        target_sparsity=0.6,
        smooth_schedule=True,
        prune_end=0.8,
        batch_size=4,
        epochs=2,
    )


@pytest.fixture(scope="session")
def led_run(led, tmp_path_factory):
    """A whole run, its folder and what it printed."""
    run_dir = tmp_path_factory.mktemp("led") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        result = training.train_and_evaluate(led, run_dir)
    return result, run_dir, said.getvalue()


def with_(config, **changes):
    return from_dict({**config.to_dict(), **changes})


def arrays(model):
    return [np.array(v) for v in model.weights]


def assert_same_weights(model, other):
    for a, b in zip(arrays(model), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same_optimizer(model, other):
    pairs = zip(model.optimizer.variables, other.optimizer.variables, strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(np.array(a), np.array(b))


def last_line(said):
    """What a training says of its end."""
    (line,) = [x for x in said.splitlines() if x.startswith("largest rise of the loss")]
    return line


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(rows):
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


@pytest.mark.slow
def test_a_run_leaves_its_files(undisturbed, config):
    _, run_dir = undisturbed
    names = {path.name for path in run_dir.iterdir()}
    assert names == {
        "best.keras",
        "budget.csv",
        "config.json",
        "events",
        "last.keras",
        "layers.csv",
        "metrics.csv",
        "previous.keras",
        "summary.json",
    }
    record = json.loads((run_dir / "config.json").read_text())
    # What follows from the images is written out.
    assert from_dict(record["config"]) == with_(
        config, stem="small", image_size=32, g="sigmoid"
    )
    assert record["command"] == "the command"
    assert record["versions"]["keras"] == keras.__version__
    rows = read_csv(run_dir / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["3", "6", "9"]
    np.testing.assert_allclose(float(rows[0]["learning_rate"]), 0.05, rtol=1e-6)
    # The tables and the checkpoint tell of the same model.
    last = stk.strip(checkpoint.load_model(run_dir / "last.keras"))
    kernels = [np.array(v) for v in last.weights if len(v.shape) > 1]
    zeros = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
    assert 0 < zeros < 1
    np.testing.assert_allclose(float(rows[-1]["sparsity"]), zeros, atol=1e-9)
    budget = read_csv(run_dir / "budget.csv")
    nonzeros = [np.count_nonzero(kernel) for kernel in kernels]
    assert [int(row["nonzeros"]) for row in budget] == nonzeros
    layers = [r for r in read_csv(run_dir / "layers.csv") if r["epoch"] == "3"]
    for layer, row in zip(layers, budget, strict=True):
        assert layer["path"] == row["path"]
        assert float(layer["sparsity"]) == pytest.approx(float(row["sparsity"]))
        assert float(layer["threshold"]) == pytest.approx(float(row["threshold"]))
    # Evaluated anew, the checkpoint has the accuracy of the table.
    x, y = stk.data.load(config.dataset, image_size=32).raw("test", 48)
    normalize = stk.data.load(config.dataset, image_size=32).preprocessing.normalize
    right = (last.predict(normalize(x), verbose=0).argmax(-1) == y).mean()
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(right)


@pytest.mark.slow
def test_events_hold_the_scalars_of_each_layer(undisturbed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run_dir = undisturbed
    events = EventAccumulator(str(run_dir / "events"), size_guidance={"tensors": 0})
    events.Reload()
    tags = events.Tags()["tensors"]
    rows = read_csv(run_dir / "layers.csv")
    assert {f"sparsity/{row['path']}" for row in rows} <= set(tags)
    assert {f"threshold/{row['path']}" for row in rows} <= set(tags)
    assert "val_accuracy" in tags and "loss" in tags
    assert [event.step for event in events.Tensors("sparsity")] == [1, 2, 3]


@pytest.fixture
def interruptible():
    """Python's own handler: what a shell starts in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


MOMENTS = {
    "in the first step": (signal.SIGINT, 1, 0),
    "at the end of an epoch": (signal.SIGINT, 24, 1),
    "where no time is left to evaluate": (signal.SIGTERM, 24, 0),
    "while the loss is watched": (signal.SIGTERM, 46, 1),
}
"""A signal, the step, of 48, after which it comes, and the lines there are then."""


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_and_resume_end_as_the_undisturbed_run(
    moment, led_run, led, tmp_path, monkeypatch, capsys
):
    """Bit for bit: weights, optimizer, tables, the line about the loss at the end."""
    expected, expected_dir, said = led_run
    number, step, finished = MOMENTS[moment]
    plain = monitoring.SparsityProbe.on_train_batch_end

    def interrupt(self, batch, logs=None):
        plain(self, batch, logs)
        if int(self.model.optimizer.iterations) == step:
            signal.raise_signal(number)

    run_dir = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(monitoring.SparsityProbe, "on_train_batch_end", interrupt)
        with pytest.raises(training.Interrupted, match="--resume goes on") as stop:
            training.train_and_evaluate(led, run_dir)
    assert stop.value.terminated == (number == signal.SIGTERM)
    assert signal.getsignal(number) is before
    tables = [read_csv(path) for path in run_dir.glob("metrics.csv")]
    assert sum(map(len, tables)) == finished
    capsys.readouterr()
    result = training.train_and_evaluate(led, run_dir, resume=True)
    assert_same_weights(result.model, expected.model)
    assert_same_optimizer(result.model, expected.model)
    for name in ("metrics.csv", "layers.csv"):
        assert without_times(read_csv(run_dir / name)) == without_times(
            read_csv(expected_dir / name)
        )
    assert all(float(row["seconds"]) > 0 for row in read_csv(run_dir / "metrics.csv"))
    assert last_line(capsys.readouterr().out) == last_line(said)


@pytest.mark.slow
def test_sigterm_in_an_evaluation_ends_it(led_run, led, tmp_path, monkeypatch):
    """It may take longer than there is time; the steps before are not lost."""
    expected, _, _ = led_run
    batches = []
    plain = monitoring.Interruption.on_test_batch_end

    def interrupt(self, batch, logs=None):
        batches.append(batch)
        if len(batches) == 2:
            signal.raise_signal(signal.SIGTERM)
        plain(self, batch, logs)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(monitoring.Interruption, "on_test_batch_end", interrupt)
        with pytest.raises(training.Interrupted, match="after step 24 of epoch 1/2"):
            training.train_and_evaluate(led, run_dir)
    assert batches == [0, 1]  # of twelve
    assert not (run_dir / "metrics.csv").exists()
    result = training.train_and_evaluate(led, run_dir, resume=True)
    assert_same_weights(result.model, expected.model)
    for ours, theirs in zip(result.metrics, expected.metrics, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
            assert ours[name] == theirs[name]


@pytest.mark.slow
def test_a_run_killed_between_table_and_checkpoint_resumes(
    undisturbed, config, tmp_path, monkeypatch
):
    expected, expected_dir = undisturbed
    save = checkpoint.save

    def killed(model, path, progress, previous=None):
        if progress.epoch == 2:
            raise MemoryError("killed")
        save(model, path, progress, previous)

    run_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", killed)
        with pytest.raises(MemoryError):
            training.train_and_evaluate(config, run_dir)
    assert len(read_csv(run_dir / "metrics.csv")) == 2
    result = training.train_and_evaluate(config, run_dir, resume=True)
    assert_same_weights(result.model, expected.model)
    for name in ("metrics.csv", "layers.csv"):
        assert without_times(read_csv(run_dir / name)) == without_times(
            read_csv(expected_dir / name)
        )
    assert not list(run_dir.glob(".*"))  # nothing written aside is left


@pytest.mark.slow
@pytest.mark.parametrize("method", [{}, {"method": "gmp", "sparsity": 0.7}])
def test_two_devices_with_synchronized_batch_norm_equal_one(
    config, tmp_path, monkeypatch, mirrored, method
):
    """Also the checkpoint that two devices write and go on from."""
    config = with_(config, synchronized_batch_norm=True, epochs=2, **method)
    one = training.train_and_evaluate(config, tmp_path / "one")
    # The session's strategy: a second MirroredStrategy breaks collectives.
    monkeypatch.setattr(training, "create_strategy", lambda name: mirrored)
    two = training.train_and_evaluate(config, tmp_path / "two")
    for a, b in zip(arrays(one.model), arrays(two.model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5)
    loaded = checkpoint.load_model(tmp_path / "two" / "last.keras")
    assert_same_weights(loaded, two.model)


@pytest.mark.slow
def test_mixed_precision_trains_dense_and_logs_no_sparsity(config, tmp_path):
    config = with_(config, method="dense", precision="mixed_float16", epochs=1)
    result = training.train_and_evaluate(config, tmp_path / "run")
    assert keras.config.dtype_policy().name == "float32"
    assert result.summary.kernels.sparsity < 1e-3
    assert result.metrics[0]["sparsity"] == 0
    assert read_csv(tmp_path / "run" / "layers.csv") == []


@pytest.mark.slow
def test_images_are_shown_in_the_channels_asked_for(config, tmp_path):
    """Gray ones as color by --channels=3, and here color ones as gray."""
    result = training.train_and_evaluate(
        with_(config, channels=1, epochs=1), tmp_path / "run"
    )
    assert result.model.input_shape == (None, 32, 32, 1)
    assert result.summary.rows[0].shape[-2] == 1
    found = run_directory.dataset_of_run(tmp_path / "run" / "last.keras")
    assert found["channels"] == 1


@pytest.mark.slow
def test_a_policy_that_this_net_gains_nothing_from_is_told(config, tmp_path, capsys):
    """What it prunes runs dense too, where the net has not the form."""
    chosen = with_(config, policy="latency", epochs=1)
    rows = training.train_and_evaluate(chosen, tmp_path / "run").summary.rows
    assert [row.path for row in rows if not row.reason] == ["block1_pointwise/kernel"]
    said = "tiny does not have the form for sparse kernels: conv1: "
    lines = capsys.readouterr().out.splitlines()
    (line,) = [x for x in lines if x.startswith("hint: --policy=latency")]
    assert said in line


@pytest.mark.slow
def test_xla_compiles_the_step(config, tmp_path):
    result = training.train_and_evaluate(
        with_(config, xla=True, epochs=1), tmp_path / "run"
    )
    assert np.isfinite(result.metrics[0]["loss"])


@pytest.mark.slow
def test_a_loss_of_nan_stops_with_step_and_checkpoint(config, tmp_path):
    with pytest.raises(monitoring.Diverged, match=r"at step \d+ .*no checkpoint yet"):
        training.train_and_evaluate(with_(config, lr=1e30), tmp_path / "run")


@pytest.mark.slow
def test_weights_of_nan_after_the_last_step_are_not_saved(
    config, tmp_path, monkeypatch
):
    """The last loss was finite: it was computed before the last update."""
    check = monitoring.StopOnNan.on_train_batch_end

    def spoil(self, batch, logs=None):
        check(self, batch, logs)
        kernel = self.model.trainable_weights[0]
        kernel.assign(np.full(kernel.shape, np.nan if batch == 2 else kernel))

    monkeypatch.setattr(monitoring.StopOnNan, "on_train_batch_end", spoil)
    with pytest.raises(monitoring.Diverged, match=r"weight .* is not finite at step"):
        training.train_and_evaluate(with_(config, epochs=1), tmp_path / "run")
    assert not (tmp_path / "run" / "last.keras").exists()


@pytest.mark.slow
def test_a_label_out_of_range_is_named(config, tmp_path):
    """TFDS gives -1 to what has no label."""
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    pixels = np.zeros((40, 40, 3), np.uint8)
    examples = [(i, {"image": pixels, "label": i % 3 - (i == 6)}) for i in range(8)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="unlabeled",
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {"image": image, "label": tfds.features.ClassLabel(num_classes=3)}
        ),
        split_datasets={"train": examples, "test": examples[:2]},
        data_dir=tmp_path,
    )
    bad = with_(config, dataset="unlabeled", data_dir=str(tmp_path), batch_size=8)
    said = r"^unlabeled \(train\): label out of 0 to 2: .*Received: label=-1$"
    with pytest.raises(ValueError, match=said):
        training.train_and_evaluate(bad, tmp_path / "run")


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy of the images, to be spoiled."""
    return shutil.copytree(folder, tmp_path / "images")


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_named(config, own_folder, tmp_path):
    """Both ends are those of an image; what lies between is found on the way."""
    image = next((own_folder / "train" / "Trouser").glob("*.png"))
    whole = bytearray(image.read_bytes())
    whole[60:-20] = bytes(len(whole) - 80)
    image.write_bytes(whole)
    spoiled = with_(config, dataset=f"folder:{own_folder}")
    with pytest.raises(ValueError, match=f"Cannot read an image: .*{image}"):
        training.train_and_evaluate(spoiled, tmp_path / "run")
    skipping = with_(spoiled, corrupt_images="skip", batch_size=8, epochs=1)
    result = training.train_and_evaluate(skipping, tmp_path / "skipping")
    assert result.metrics[0]["step"] == (CLASSES * PER_CLASS - 1) // 8
    record = json.loads((tmp_path / "skipping" / "config.json").read_text())
    assert record["data"]["train, left out"] == "1 images"


def test_a_data_set_that_changed_is_refused(config, own_folder, tmp_path):
    resolved = with_(config, dataset=f"folder:{own_folder}", stem="small", g="sigmoid")
    run = run_directory.RunDirectory(tmp_path / "run")
    run.path.mkdir()
    run.create(resolved, "", stk.data.load(resolved.dataset).fingerprint())
    image = next((own_folder / "train" / "Trouser").glob("*.png"))
    shutil.copy(image, image.with_name("more.png"))
    message = r"another run\. Received: train/Trouser: 33 files, .* \(was 32 files, "
    with pytest.raises(ValueError, match=message):
        training.train_and_evaluate(resolved, run.path, resume=True)


@pytest.mark.slow
def test_a_dead_layer_is_named_at_once(config, tmp_path, capsys):
    config = with_(config, s_init=3.0, epochs=1, skip=["re:block", "conv1"])
    training.train_and_evaluate(config, tmp_path / "run")
    captured = capsys.readouterr()
    assert "every weight of fc/kernel is zero since step 0" in captured.err
    assert captured.err.count("every weight of") == 1
    assert "warning: " in captured.out  # the forecast saw it coming


def test_best_is_the_most_accurate_of_the_sparse_epochs():
    """Neither an early, still dense epoch nor one that the sparsity left behind."""
    accuracies = [0.90, 0.80, 0.82, 0.81, 0.83, "", 0.99, 0.70]
    sparsities = [0.0, 0.5, 0.9, 0.903, 0.901, 0.904, 0.5, 0.95]
    rows = [
        {"val_accuracy": a, "sparsity": s}
        for a, s in zip(accuracies, sparsities, strict=True)
    ]
    best = [best_epoch(rows[: i + 1]) for i in range(len(rows))]
    assert best == [0, 1, 2, 2, 4, 4, 4, 7]
    # A slow ramp: within half a point of what is reached, at every epoch.
    ramp = [
        {"val_accuracy": 0.9 - 0.005 * i, "sparsity": 0.5 + 0.004 * i}
        for i in range(20)
    ]
    assert 20 - best_epoch(ramp) <= 2
    assert best_epoch([]) is None


# The command line: one clear line and exit status 1.


@pytest.fixture
def command(capsys):
    """Runs the program with flags; gives its exit status and what it printed."""

    def call(*arguments):
        return programs.run(train, arguments, capsys)

    return call


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("terminated", [False, True])
@pytest.mark.parametrize("in_steps", [False, True])
def test_signals_have_statuses_of_their_own(
    terminated, in_steps, command, tmp_path, monkeypatch
):
    """In the steps the trainer ends with a checkpoint; elsewhere there is nothing."""

    def train_until_signal(*_):
        if in_steps:
            raise training.Interrupted("stopped; --resume goes on", terminated)
        signal.raise_signal(signal.SIGTERM if terminated else signal.SIGINT)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(training, "train_and_evaluate", train_until_signal)
    status, _, err = command(f"--run_dir={tmp_path / 'run'}")
    assert status == (75 if terminated else 130)
    assert ("--resume" in err) == (in_steps or terminated)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--architecture=vgg"], r"resnet50.*'vgg'"),
        (["--dataset=cifar1000"], r"cifar1000"),
        (["--dataset=folder:nowhere"], r"nowhere"),
        (["--channels=2"], r"--channels is one of 0, 1, 3\..*channels=2"),
        (["--strategy=horovod"], r"--strategy is one of auto.*'horovod'"),
        (["--strategy=multi_worker_mirrored"], r"TF_CONFIG"),
        (["--lr=nan"], r"--lr must be a finite number.*lr=nan"),
        (["--lr=fast"], r"--lr.*fast"),
        (["--momentum=1"], r"--momentum"),
        (["--batch_size=0"], r"--batch_size"),
        (["--batch_size=5001"], r"larger than the 5000 training images"),
        (["--epochs=3", "--warmup_epochs=4"], r"--warmup_epochs"),
        (["--skip=re:("], r"no regular expression"),
        (["--skip=nothing"], r"No layer has this name"),
        (["--g=softplus"], r"softplus"),
        (["--s_init=inf"], r"--s_init"),
        (["--config=unknown"], r"config='unknown'"),
        (["--learning_rate=1"], r"learning_rate"),
        (["train"], r"all options are flags"),
        (["--weights=missing.keras"], r"missing.keras"),
        (["--resume"], r"no run to resume"),
        (["--resume", "--config=quickstart"], r"leave --config out"),
        (["--stem=small", "--image_size=128"], r"small"),
    ],
)
def test_bad_flags_get_one_line(arguments, message, command, tmp_path):
    import re

    status, _, err = command(f"--run_dir={tmp_path / 'run'}", *arguments)
    assert status == 1
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert re.search(message, lines[0])
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_by_the_replicas(
    command, tmp_path, monkeypatch, mirrored
):
    monkeypatch.setattr(training, "create_strategy", lambda name: mirrored)
    status, _, err = command(f"--run_dir={tmp_path / 'run'}", "--batch_size=33")
    assert status == 1 and "batch_size=33, replicas=2" in err


def test_run_directories_that_cannot_be_used(command, tmp_path):
    assert "--run_dir is missing" in command()[2]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("x")
    status, _, err = command(f"--run_dir={tmp_path / 'full'}")
    assert status == 1 and "--resume" in err
    status, _, err = command(f"--run_dir={tmp_path / 'full' / 'note' / 'run'}")
    assert status == 1 and err.startswith("error: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = 2\nepoch = 3", "near it: epochs"),
        ("epochs = [", "cannot be read"),
        ("epochs = " + "[" * 10_000, "cannot be read"),
        ("lr = 'x'", "lr wants float"),
        ("epochs = 2.5", "epochs wants int"),
        ("skip = [1]", "skip wants a list of text"),
    ],
)
def test_bad_configuration_files(text, message, command, tmp_path):
    (tmp_path / "bad.toml").write_text(text)
    status, _, err = command(
        f"--run_dir={tmp_path / 'run'}", f"--config={tmp_path / 'bad.toml'}"
    )
    assert status == 1 and message in err


def test_flags_win_over_the_configuration_file(command, tmp_path, monkeypatch):
    (tmp_path / "some.toml").write_text('epochs = 7\nlr = 1\nskip = ["fc"]\n')
    seen = []

    def stop(config, *_):
        seen.append(config)
        raise ValueError("enough")

    monkeypatch.setattr(training, "train_and_evaluate", stop)
    command(f"--run_dir={tmp_path}", f"--config={tmp_path / 'some.toml'}", "--epochs=9")
    assert (seen[0].epochs, seen[0].lr, seen[0].skip) == (9, 1.0, ("fc",))


@pytest.mark.slow
def test_a_finished_run_resumes_to_the_same_result(undisturbed, config):
    expected, run_dir = undisturbed
    before = (run_dir / "metrics.csv").read_text()
    again = training.train_and_evaluate(config, run_dir, resume=True)
    assert again.metrics == expected.metrics  # numbers, not the strings of the file
    assert again.summary == expected.summary
    assert (run_dir / "metrics.csv").read_text() == before


@pytest.mark.slow
def test_resume_with_other_flags_is_refused(undisturbed, command):
    _, run_dir = undisturbed
    status, _, err = command(f"--run_dir={run_dir}", "--resume", "--lr=0.9")
    assert status == 1
    # The base is the run's own configuration: only the changed value is named.
    assert "lr=0.9 (was 0.05)" in err and "epochs" not in err


def test_damaged_checkpoints_are_refused(tmp_path):
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ValueError, match="truncated"):
        checkpoint.load_model(tmp_path / "cut.keras")
    with pytest.raises(ValueError, match="does not end with a checksum"):
        checkpoint.load(tmp_path / "cut.keras")
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "plain.keras")
    with pytest.raises(ValueError, match="no training to go on with"):
        checkpoint.load(tmp_path / "plain.keras")


def test_a_file_written_aside_is_whole_or_absent(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with pytest.raises(RuntimeError), written_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with written_aside(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_revision_says_what_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True)

    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/table.csv"):
        (tmp_path / name).write_text("1")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=a")
    monkeypatch.setattr(run_directory, "__file__", str(tmp_path / "code.py"))
    commit = run_directory.git_revision()
    assert re.fullmatch("[0-9a-f]{40}", commit)
    (tmp_path / "results" / "table.csv").write_text("2")
    assert run_directory.git_revision() == f"{commit}-dirty"
    assert run_directory.git_revision(ignore=["results"]) == commit
    (tmp_path / "code.py").write_text("2")
    assert run_directory.git_revision(ignore=["results"]) == f"{commit}-dirty"
    monkeypatch.setattr(run_directory, "__file__", str(tmp_path / "none" / "code.py"))
    assert run_directory.git_revision() is None
