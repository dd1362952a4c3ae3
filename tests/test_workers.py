"""Two workers on loopback, each a process of its own, against one that trains alone."""

import csv
import re
import signal

import keras
import numpy as np
import pytest
from tiny_training import write_images
from workers import Fault, Team

from str_keras import checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="training uses tf.distribute"
    ),
]
STEPS = 12
"""Of a training below: 96 images, 16 a step, twice."""


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    started = Team(tmp_path_factory.mktemp("team"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Flags of one process. Of the last test images one worker gets none."""
    images = write_images(tmp_path_factory.mktemp("images"))
    for path in sorted((images / "test").rglob("*.png"))[33:]:
        path.unlink()
    return [
        "--architecture=tiny",
        f"--dataset=folder:{images}",
        "--image_size=32",
        "--augment=crop_flip",
        "--epochs=2",
        "--batch_size=16",
        "--lr=0.05",
        "--warmup_epochs=1",
        "--smooth_schedule",
        "--weight_decay=5e-4",
        "--threshold_decay=0.5",
        "--s_init=-8",
        "--synchronized_batch_norm",
        "--deterministic",
    ]


@pytest.fixture(scope="module")
def both(alone):
    """Flags of two workers."""
    return [[*alone, "--strategy=multi_worker_mirrored"]] * 2


@pytest.fixture(scope="module")
def whole(team, both, tmp_path_factory):
    """What two workers end with that nothing happens to, and their directory."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    ended = team.run(run_dir, both)
    assert [one.status for one in ended] == [0, 0], ended[0].err + ended[1].err
    return ended, run_dir


def arrays(ended):
    with np.load(ended.weights) as file:
        return [file[name] for name in file.files]


def table(path):
    """Rows without what depends on the time of day."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def assert_same(left, right, tolerance=0.0):
    for a, b in zip(arrays(left), arrays(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def last_line(ended):
    return ended.err.strip().splitlines()[-1]


def with_(flags, *more):
    return [[*own, *more] for own in flags]


def test_two_workers_equal_one(team, alone, whole, tmp_path):
    """Weights, and by the tables rate, loss, evaluation and sparsity of each epoch."""
    workers, run_dir = whole
    assert_same(*workers)
    (one,) = team.run(tmp_path / "run", [alone])
    assert one.status == 0, one.err
    assert_same(workers[0], one, 1e-5)
    rows = zip(
        table(run_dir / "metrics.csv"), table(tmp_path / "run/metrics.csv"), strict=True
    )
    for ours, theirs in rows:
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert float(value) == pytest.approx(float(theirs[name]), 1e-5, 1e-5)
    # The global batch leads: the same forecast.
    forecasts = [end.out.split("epoch 1/")[0] for end in (workers[0], one)]
    assert "Lambda" in forecasts[0] and forecasts[0] == forecasts[1]
    loaded = checkpoint.load_model(run_dir / "last.keras")
    for a, b in zip(loaded.get_weights(), arrays(workers[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    # The chief alone writes and tells.
    assert workers[1].out == ""
    kept = {path.name for path in run_dir.iterdir()}
    assert kept == {path.name for path in (tmp_path / "run").iterdir()}
    assert len(list((run_dir / "events").iterdir())) == 1


@pytest.mark.long
@pytest.mark.parametrize("worker", [0, 1], ids=["the chief", "another"])
def test_the_loss_of_a_worker_ends_the_others(team, both, whole, tmp_path, worker):
    """With the checkpoint of the epoch before; both then go on to the same end."""
    run_dir = tmp_path / "run"
    ended = team.run(run_dir, both, Fault(worker, STEPS // 2 + 2))
    assert ended[worker].status == -signal.SIGKILL
    left = ended[1 - worker]
    assert left.status == 75
    assert re.search(
        r"Another worker is gone.*all 2 workers again: --resume goes on from the last "
        "checkpoint, which is whole",
        last_line(left),
    )
    checkpoint.check(run_dir / "last.keras")
    assert len(table(run_dir / "metrics.csv")) == 1
    again = team.run(run_dir, with_(both, "--resume"))
    for one in again:
        assert one.status == 0, one.err
        assert_same(one, whole[0][0])
    for name in ("metrics.csv", "layers.csv", "budget.csv"):
        assert table(run_dir / name) == table(whole[1] / name)


@pytest.mark.long
@pytest.mark.parametrize("worker", [0, 1], ids=["the chief", "another"])
def test_a_signal_to_one_worker_ends_all_after_the_same_step(
    team, both, whole, tmp_path, worker
):
    run_dir = tmp_path / "run"
    ended = team.run(run_dir, both, Fault(worker, STEPS // 2 + 2, signal.SIGTERM))
    for one in ended:
        assert one.status == 75, one.err
        assert "stopped after step 2 of epoch 2/2; --resume goes on" in last_line(one)
    again = team.run(run_dir, with_(both, "--resume"))
    for one in again:
        assert one.status == 0, one.err
        assert_same(one, whole[0][0])
    for name in ("metrics.csv", "layers.csv", "budget.csv"):
        assert table(run_dir / name) == table(whole[1] / name)


@pytest.mark.long
def test_workers_take_the_checkpoint_before_a_damaged_one(team, both, whole, tmp_path):
    run_dir = tmp_path / "run"
    team.run(run_dir, both, Fault(1, STEPS, signal.SIGTERM))
    content = bytearray((run_dir / "last.keras").read_bytes())
    content[len(content) // 2] ^= 4
    (run_dir / "last.keras").write_bytes(content)
    for one in team.run(run_dir, with_(both, "--resume")):
        assert one.status == 0, one.err
        assert "going on from the checkpoint before, previous.keras" in one.err
        assert_same(one, whole[0][0])


@pytest.mark.long
def test_workers_that_do_not_go_together_all_end(team, both, whole, tmp_path):
    run_dir = tmp_path / "run"
    for one in team.run(run_dir, [both[0], [*both[1], "--lr=0.1"]]):
        assert one.status == 1
        assert "The workers differ in the configuration" in last_line(one)
    assert not run_dir.exists()
    chief, other = team.run(whole[1], both)
    assert chief.status == other.status == 1
    assert "The run directory exists" in last_line(chief)
    assert "Worker 0 cannot start, and says why" in last_line(other)
    for one in team.run(run_dir, with_(both, "--steps_per_execution=2")):
        assert one.status == 1
        assert re.search(r"leave --steps_per_execution out.*replicas=2", last_line(one))


@pytest.mark.long
@pytest.mark.parametrize(
    "flags",
    [
        ["--target_sparsity=0.6", "--prune_end=0.8"],
        ["--method=gmp", "--sparsity=0.7"],
        ["--precision=mixed_bfloat16"],
        ["--precision=mixed_float16"],
    ],
    ids=lambda flags: flags[0],
)
def test_two_workers_equal_one_in_other_trainings(team, alone, both, tmp_path, flags):
    """In 16 bits each other: a batch's halves have other sums there than the whole."""
    learned = ("--threshold_decay", "--s_init")
    own = [flag for flag in alone if not flag.startswith(learned)]
    rest = [[*own, *flags, "--strategy=multi_worker_mirrored"]] * 2
    workers = team.run(tmp_path / "two", rest)
    assert [one.status for one in workers] == [0, 0], workers[0].err + workers[1].err
    assert_same(*workers)
    if "mixed" not in flags[0]:
        (one,) = team.run(tmp_path / "one", [[*own, *flags]])
        assert_same(workers[0], one, 1e-5)
