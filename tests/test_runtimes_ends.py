"""What goes into a file and comes out of it: odd files, and guests that outlive us."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import runtime_files
import tensorflow as tf

from str_keras import export
from str_keras.export import runtimes
from str_keras.export.runtimes import Outcome, command
from str_keras.export.runtimes.ends import End, read_ends
from str_keras.export.runtimes.guest import run_guest
from str_keras.export.runtimes.installed import Program
from str_keras.export.runtimes.judging import Judge

ROOT = pathlib.Path(__file__).parents[1]
ROW = tf.TensorSpec((1, 8), "float32")


@pytest.mark.parametrize(
    ("function", "taken", "said"),
    [
        (lambda x, y: x + y, (ROW, ROW), "has 2 inputs: one is needed"),
        (lambda: tf.constant([[1.0]]), (), "has 0 inputs: one is needed"),
        (lambda x: x + 1.0, (tf.TensorSpec((), "float32"),), r"input shape=\(\)"),
        (
            lambda x: tf.nn.conv2d(x, tf.ones((3, 3, 3, 2)), 1, "VALID"),
            (tf.TensorSpec((1, None, None, 3), "float32"),),
            r"a fixed size .*input shape=\(1, -1, -1, 3\)",
        ),
    ],
    ids=["two inputs", "no input", "no batch", "free size"],
)
def test_files_of_other_inputs_are_refused_in_a_line(tmp_path, function, taken, said):
    path = tmp_path / "x.tflite"
    path.write_bytes(runtime_files.of_function(function, *taken))
    (outcome,) = runtimes.run("native", [path], np.ones((1, 8), "float32"))
    assert outcome.outputs is None
    with pytest.raises(ValueError, match=said):
        raise ValueError(outcome.error)
    for way in (
        lambda: export.verify_runtimes(path, runtimes=["native"]),
        lambda: command.load_images(str(path), "", "fashion_mnist_5k", None, 4),
    ):
        with pytest.raises(ValueError, match=said):
            way()


def test_kinds_that_numpy_does_not_have_are_named(tmp_path):
    path = tmp_path / "x.tflite"
    spec = tf.TensorSpec((1,), "string")
    path.write_bytes(runtime_files.of_function(lambda x: x, spec))
    with pytest.raises(ValueError, match="cannot stand for string ones"):
        export.verify_runtimes(path, runtimes=["native"])
    double = runtime_files.of_function(lambda x: tf.cast(x, "float64"), ROW)
    assert read_ends(double).outputs[0].dtype == "float64"


@pytest.mark.slow
def test_a_free_batch_has_no_profile_but_a_dense_twin(tmp_path):
    path = tmp_path / "free.tflite"
    path.write_bytes(runtime_files.content(sparse=True, batch_size=None))
    for against_dense in (False, True):
        (row,) = export.verify_runtimes(
            path, runtimes=["native"], against_dense=against_dense, repeats=20
        ).rows
        assert row.is_right and (row.work_ratio is not None) == against_dense
        told = "by its dense twin" if against_dense else "it takes fixed batches alone"
        assert told in row.evidence


@pytest.mark.slow
def test_pixels_are_verified_raw_or_normalized_as_the_file_takes_them(tmp_path):
    keras.utils.set_random_seed(0)
    model = runtime_files.mobile_net()
    raw, normalized = tmp_path / "raw.tflite", tmp_path / "normalized.tflite"
    given = {"preprocessing": runtime_files.PREPROCESSING}
    export.tflite(model, raw, uint8_input=True, **given)
    export.tflite(model, normalized)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), "uint8")
    for path in (raw, normalized):
        only = {"runtimes": ["native"], "repeats": 0, "images": pixels}
        report = export.verify_runtimes(path, model=model, **given, **only)
        assert report.is_right and report.rows[0].difference < 1e-5
        assert (report.samples, report.source) == (2, "images")
    with pytest.raises(ValueError, match="takes raw pixels and the Keras model does"):
        export.verify_runtimes(raw, model=model, runtimes=["native"])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_integers_that_the_input_does_not_hold_are_refused(dtype):
    """Pixels for a file of int8 would wrap around to other values without a word."""
    taken = End("x", 0, (1, 2), dtype, 0.5, 0)
    bounds = np.iinfo(dtype)
    inside = np.array([[bounds.min, bounds.max]], "int64")
    found = taken.quantize(inside)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, inside)
    for outside in (inside + 1, inside - 1):
        with pytest.raises(ValueError, match=f"takes {dtype}, which does not hold"):
            taken.quantize(outside)


def test_floats_beyond_the_steps_of_an_input_are_its_last_ones():
    taken = End("x", 0, (1, 3), "int8", 0.5, 4)
    found = taken.quantize(np.array([[-1e3, 1.0, 1e3]], "float32"))
    np.testing.assert_array_equal(found, [[-128, 6, 127]])


def test_the_worst_of_several_outputs_counts():
    """Whichever it is; and with nothing to compare with, nothing is right."""
    right = {"a": np.eye(2, dtype="float32"), "b": np.eye(2, dtype="float32")}
    for worse in right:
        heads = right | {worse: right[worse][::-1]}
        outcome = Outcome("arm64", pathlib.Path("x"), heads=heads)
        content = runtime_files.content()
        row = Judge(content, {}, right, None).row(outcome, None)
        assert (row.difference, row.agreement) == (1, 0) and not row.is_right
        row = Judge(content, {}, {}, None).row(outcome, None)
        assert not row.is_right and "nothing to compare with" in row.trouble


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends it")
def test_a_guest_ends_when_who_started_it_is_killed(tmp_path):
    told = tmp_path / "pid"
    guest = f"""
import os, pathlib, time
pathlib.Path({str(tmp_path / "new")!r}).write_text(str(os.getpid()))
os.rename({str(tmp_path / "new")!r}, {str(told)!r})
time.sleep(600)
"""
    starter = f"""
import os, sys
from str_keras.export.runtimes.guest import run_guest
from str_keras.export.runtimes.installed import Program
program = Program((sys.executable, "-c", {guest!r}), 3, dict(os.environ))
run_guest(program, {{"folder": {str(tmp_path)!r}}}, 600)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", starter], env=environment)
    try:
        wait_for(told.exists)
    finally:
        process.kill()
        process.wait()
    pid = int(told.read_text())
    try:
        wait_for(lambda: not is_running(pid))
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("deaf", ["SIG_IGN", "SIG_DFL"])
def test_what_a_guest_started_ends_with_it(tmp_path, deaf):
    """As a browser does, though it is deaf to a gentle end, and the guest too."""
    script = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"])
signal.signal(signal.SIGTERM, signal.{deaf})
print('{{"file": 0, "note": "%d"}}' % child.pid, flush=True)
time.sleep(600)
"""
    program = Program((sys.executable, "-c", script), 3, dict(os.environ))
    told = run_guest(program, {"folder": str(tmp_path)}, 5)
    assert told.ended == "ended after 5 s without a sign of progress"
    pid = int(told.files[0]["note"])
    wait_for(lambda: not is_running(pid))


def wait_for(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(pid):
    """A process that ended, but that nobody waited for, does not run."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except OSError:
        return False
    return state.split()[0] != "Z"
