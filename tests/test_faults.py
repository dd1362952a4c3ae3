"""Trainings that are killed, terminated, out of room, or whose files are spoiled.

Whatever happens, --resume finds a checkpoint that is whole and ends, bit for bit, as
the run that nothing happened to: weights, optimizer, tables.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import zipfile

import h5py
import keras
import numpy as np
import pytest
from faults import Fault, Trainings
from tiny_training import write_images

from str_keras import checkpoint, cli
from str_keras.run_directory import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow", reason="training uses tf.distribute"
    ),
]
KILL, TERM = signal.SIGKILL, signal.SIGTERM


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    started = Trainings(tmp_path_factory.mktemp("printed"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Thresholds are led to a target, by a ramp and a watch of the loss at its end."""
    images = write_images(tmp_path_factory.mktemp("images"))
    return [
        "--architecture=tiny",
        f"--dataset=folder:{images}",
        "--image_size=32",
        "--augment=crop_flip",
        "--epochs=3",
        "--batch_size=8",
        "--lr=0.05",
        "--warmup_epochs=1",
        "--smooth_schedule",
        "--weight_decay=5e-4",
        "--target_sparsity=0.6",
        "--prune_end=0.8",
        "--deterministic",
    ]


@pytest.fixture(scope="module")
def whole(trainings, flags, tmp_path_factory):
    """The run that nothing happens to, and its directory."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    ended = trainings.run(run_dir, flags)
    assert ended.status == 0, ended.err
    return ended, run_dir


def arrays(path):
    """All that a .keras file keeps, by name: weights, optimizer."""
    found = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with (
        zipfile.ZipFile(path) as archive,
        archive.open("model.weights.h5") as member,
        h5py.File(member) as file,
    ):
        file.visititems(keep)
    return found


def table(path):
    """Rows without what depends on the time of day."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in times} for row in rows]


def loss_line(ended):
    (line,) = [x for x in ended.out.splitlines() if x.startswith("largest rise")]
    return line


def assert_same_end(ended, run_dir, whole):
    expected, expected_dir = whole
    assert ended.status == 0, ended.err
    assert loss_line(ended) == loss_line(expected)
    checkpoint.check(run_dir / "previous.keras")  # amid an epoch, if a signal cut one
    for name in ("last.keras", "best.keras"):
        ours, theirs = arrays(run_dir / name), arrays(expected_dir / name)
        assert ours.keys() == theirs.keys()
        assert any(key.startswith("optimizer") for key in ours)
        for key in ours:
            np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    for name in ("metrics.csv", "layers.csv", "budget.csv"):
        assert table(run_dir / name) == table(expected_dir / name)
    assert (run_dir / "summary.json").read_text() == (
        expected_dir / "summary.json"
    ).read_text()
    kept = {path.name for path in run_dir.iterdir()}
    assert kept == {path.name for path in expected_dir.iterdir()}


def go_on(trainings, run_dir, flags, fault=None):
    """Resumes, or starts anew if not even the configuration was written."""
    started = (run_dir / "config.json").is_file()
    return trainings.run(run_dir, ["--resume"] if started else flags, fault)


def spoil(path, place=0.5):
    """Flips a bit."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def cut(path):
    """Leaves half of it, as a file system may after the power failed."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def epochs_of(run_dir):
    """Of the last checkpoint, which is whole, as (epochs, steps); or (0, 0)."""
    path = run_dir / "last.keras"
    if not path.is_file():
        return 0, 0
    checkpoint.check(path)
    with zipfile.ZipFile(path) as archive:
        progress = json.loads(archive.read("str_keras_progress.json"))
    return progress["epoch"], progress["step"]


ASIDE, ASIDE_TOUCHES = "last.keras aside", 9
"""A checkpoint while it is written, and how often an epoch touches it."""
IN_THE_SECOND = Fault(14, ASIDE, signal=KILL)
AFTER_THE_LAST = Fault(1, "budget.csv", signal=KILL)


def test_killed_in_a_checkpoint_a_run_ends_as_the_whole_one(
    trainings, flags, whole, tmp_path
):
    run_dir = tmp_path / "run"
    killed = trainings.run(run_dir, flags, IN_THE_SECOND)
    assert killed.status == -KILL and killed.touches[-1] == f"open {ASIDE}"
    assert epochs_of(run_dir) == (1, 0) and list(run_dir.glob(".last.*.keras"))
    assert_same_end(trainings.run(run_dir, ["--resume"]), run_dir, whole)


def left_of(whole, epochs):
    """Touches of the whole run after so many checkpoints."""
    touches = whole[0].touches
    ends = [i for i, text in enumerate(touches, 1) if text.endswith("to last.keras")]
    return touches[[0, *ends][epochs] :]


def kinds_of(draw, whole, epochs):
    """Six random moments of what is left of a run, by kind."""
    ended, run_dir = whole
    touch = draw.randint(1, len(left_of(whole, epochs)))
    writes = max(1, 3 - epochs) * ASIDE_TOUCHES
    first = 1 + ASIDE_TOUCHES * draw.randrange(writes // ASIDE_TOUCHES)
    size = (run_dir / "last.keras").stat().st_size
    return {
        "at any touch": Fault(touch, signal=KILL),
        "soon after any touch": Fault(touch, delay=draw.uniform(0, 0.1), signal=KILL),
        "in a checkpoint": Fault(draw.randint(1, writes), ASIDE, signal=KILL),
        "at any time": Fault(after=draw.uniform(0, ended.seconds), signal=KILL),
        "at a byte of a checkpoint": Fault(
            first, ASIDE, file_size=draw.randrange(8000, size), signal=signal.SIGXFSZ
        ),
        "SIGTERM at any time": Fault(
            touch=1, delay=draw.uniform(0, ended.seconds), signal=TERM
        ),
    }


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_kills_at_random_moments(trainings, flags, whole, tmp_path, seed):
    """Four by SIGKILL, one amid the bytes of a checkpoint, and one SIGTERM, in turn."""
    draw = random.Random(seed)
    kinds = list(kinds_of(draw, whole, 0))
    draw.shuffle(kinds)
    run_dir, reached = tmp_path / "run", (0, 0)
    while kinds:
        fault = kinds_of(draw, whole, reached[0])[kinds[0]]
        ended = go_on(trainings, run_dir, flags, fault)
        if ended.status == 0:  # over before the moment came: another one, of a new run
            assert_same_end(ended, run_dir, whole)
            shutil.rmtree(run_dir)
            reached = (0, 0)
            continue
        wanted = cli.TERMINATED if fault.signal == TERM else -fault.signal
        assert ended.status == wanted, ended.err
        now = epochs_of(run_dir)
        assert now >= reached
        reached = now
        last = [*ended.touches, "nothing"][-1]
        print(f"{kinds.pop(0)}: after {last}; goes on from {reached}")
    assert_same_end(go_on(trainings, run_dir, flags), run_dir, whole)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_terminations_at_random_moments(trainings, flags, whole, tmp_path, seed):
    draw = random.Random(seed)
    run_dir = tmp_path / "run"
    ends = []
    for _ in range(4):
        delay = draw.uniform(0, 0.8 * whole[0].seconds)
        fault = Fault(1, delay=delay, signal=TERM)
        ended = go_on(trainings, run_dir, flags, fault)
        assert ended.status in (cli.TERMINATED, 0), ended.err
        ends.append(ended.status)
        print(f"status {ended.status}: goes on from {epochs_of(run_dir)}")
    assert cli.TERMINATED in ends
    assert_same_end(go_on(trainings, run_dir, flags), run_dir, whole)


@pytest.fixture(scope="module")
def late(trainings, flags, tmp_path_factory):
    """The directory of a run that was killed after its last checkpoint."""
    run_dir = tmp_path_factory.mktemp("late") / "run"
    assert trainings.run(run_dir, flags, AFTER_THE_LAST).status == -KILL
    assert epochs_of(run_dir) == (3, 0)
    return run_dir


DAMAGES = {
    "its first bit": lambda path: spoil(path, 0.0),
    "a bit amid it": lambda path: spoil(path, 0.6),
    "a bit of the checksum": lambda path: spoil(path, 1 - 1e-9),
    "cut short": cut,
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.long
@pytest.mark.parametrize("damage", DAMAGES)
def test_for_a_damaged_checkpoint_the_one_before_is_taken(
    trainings, late, whole, tmp_path, damage
):
    run_dir = shutil.copytree(late, tmp_path / "run")
    DAMAGES[damage](run_dir / "last.keras")
    ended = trainings.run(run_dir, ["--resume"])
    said = "going on from the checkpoint before, previous.keras, after epoch 2"
    assert said in ended.err
    assert_same_end(ended, run_dir, whole)


@pytest.mark.long
def test_two_damaged_checkpoints_are_an_error(trainings, late, tmp_path):
    run_dir = shutil.copytree(late, tmp_path / "run")
    for name in ("last.keras", "previous.keras"):
        spoil(run_dir / name)
    line = error_of(trainings.run(run_dir, ["--resume"]))
    assert "No checkpoint of the run is whole" in line


def error_of(ended):
    """The one line of an error."""
    assert ended.status == 1, ended
    (line,) = [x for x in ended.err.splitlines() if x.startswith("error: ")]
    assert ended.err.splitlines()[-1] == line
    return line


@pytest.mark.long
@pytest.mark.parametrize(
    ("touch", "of"), [(1, "config.json"), (1, "best.keras aside"), (10, ASIDE)]
)
def test_what_cannot_be_written_leaves_a_run_to_go_on_with(
    trainings, flags, whole, tmp_path, touch, of
):
    """From some moment on no file may have more than 10 kB: no checkpoint fits."""
    run_dir = tmp_path / "run"
    ended = trainings.run(run_dir, flags, Fault(touch, of, file_size=10_000))
    line = error_of(ended)
    assert "The checkpoint cannot be written: File too large. Make room; " in line
    first = touch == 1
    good = "there is no checkpoint yet" if first else "--resume goes on from the last"
    assert good in line and line.endswith(f"run_dir={run_dir}")
    assert (epochs_of(run_dir) == (0, 0)) == first
    assert not list(run_dir.glob(".*"))
    assert_same_end(trainings.run(run_dir, ["--resume"]), run_dir, whole)


@pytest.fixture
def disk(tmp_path):
    """Mounts a small disk anew with options; only root may."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(where)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting a small disk is not allowed here")

    mount("size=10m")
    yield where, mount
    subprocess.run(["umount", "--lazy", str(where)], check=True)


@pytest.mark.long
def test_a_full_disk(trainings, flags, whole, disk):
    """Room for three and a half checkpoints: a fourth, written aside, does not fit."""
    where, mount = disk
    size = (whole[1] / "last.keras").stat().st_size
    mount(f"remount,size={int(3.5 * size) + 40_000}")
    run_dir = where / "run"
    line = error_of(trainings.run(run_dir, flags))
    assert "cannot be written: No space left on device. Make room; --resume" in line
    assert epochs_of(run_dir) in ((1, 0), (2, 0))
    mount("remount,size=10m")
    assert_same_end(trainings.run(run_dir, ["--resume"]), run_dir, whole)


@pytest.mark.long
def test_a_read_only_disk(trainings, flags, whole, disk):
    where, mount = disk
    run_dir = where / "run"
    trainings.run(run_dir, flags, IN_THE_SECOND)
    mount("remount,ro")
    line = error_of(trainings.run(run_dir, ["--resume"]))
    assert "cannot be written: Read-only file system. See to it that it can; " in line
    assert f"no permission to write to {where}" in error_of(
        trainings.run(where / "other", flags)
    )
    mount("remount,rw")
    assert_same_end(trainings.run(run_dir, ["--resume"]), run_dir, whole)


@pytest.mark.long
def test_a_second_process_is_refused(trainings, flags, whole, tmp_path):
    run_dir = tmp_path / "run"
    trainings.run(run_dir, flags, IN_THE_SECOND)
    with RunDirectory(run_dir).locked():
        line = error_of(trainings.run(run_dir, ["--resume"]))
        assert f"pid={os.getpid()}, host={os.uname().nodename}" in line
    # The lock of the killed one did not outlive it, nor does ours.
    assert_same_end(trainings.run(run_dir, ["--resume"]), run_dir, whole)
