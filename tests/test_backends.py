"""The core's own tests under the other backends, each in a process of its own."""

import csv
import os
import pathlib
import subprocess
import sys

import backend_training
import keras
import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent

PARTS = {
    "core": ("thresholds", "layers", "model", "budget", "optimizers", "schedules"),
    "pruning": ("pruning", "channels", "freezing", "recalibration"),
    "recurrent": ("recurrent",),
    "presets": ("operators", "presets"),
}
# One case of each kind of thing: on JAX every shape is compiled anew.
LESS = (
    "not applications and not weight- and not filter- and not no_str_keras"
    " and not dtype_policies and not keras_own_stays_dense and not 90_percent"
)


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="this is the run on the others"
)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_core(backend, part):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider"),
            *("-k", LESS),
            *(f"tests/test_{name}.py" for name in PARTS[part]),
        ],
        cwd=pathlib.Path(__file__).parents[1],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    print(done.stdout.splitlines()[-1])


def run_apart(name, *arguments, backend):
    """Runs a program of this folder on a backend as users have it, without float64."""
    done = subprocess.run(
        [sys.executable, HERE / name, *arguments],
        cwd=HERE.parent,
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "JAX_ENABLE_X64": "0",
            "PYTHONPATH": str(HERE.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="this is the run on all"
)
def test_20_steps_end_in_the_same_weights(tmp_path):
    start = tmp_path / "start.npz"
    backend_training.write_start(start)
    ends = {}
    for backend in ("tensorflow", "jax", "torch"):
        out = tmp_path / f"{backend}.npz"
        run_apart("backend_training.py", start, out, backend=backend)
        ends[backend] = dict(np.load(out))
    expected = ends["tensorflow"]
    logits = [path for path in expected if "threshold_logit" in path]
    assert len(logits) == 3 and all(abs(expected[s] + 4) > 1e-3 for s in logits)
    for backend in ("jax", "torch"):
        found = ends[backend]
        assert found.keys() == expected.keys()
        for path, value in expected.items():
            told = f"{path} on {backend}"
            np.testing.assert_allclose(found[path], value, 0, 1e-4, err_msg=told)


@pytest.mark.backends
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="this is the run on the others"
)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_learns_real_images_at_a_target(tmp_path, backend):
    places = (f"--results={tmp_path}", f"--output={tmp_path / 'runs'}")
    flags = ("--suite=tiny_targets", "--epochs=5", *places)
    out = run_apart("tiny_suite.py", *flags, backend=backend)
    with (tmp_path / "tiny_targets.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["status"], row["backend"]) == ("finished", backend), out
    assert abs(float(row["sparsity"]) - float(row["level"])) < 0.01
    assert float(row["accuracy"]) > 0.35  # chance: 0.1


SHRINK = """
import keras
import numpy as np
import str_keras as stk

image = keras.Input((4, 4, 2))
x = keras.layers.Conv2D(3, 1, use_bias=False)(image)
x = keras.layers.BatchNormalization()(x)
model = keras.Model(image, keras.layers.Conv2D(2, 1)(keras.layers.ReLU()(x)))
kernel = np.ones((1, 1, 2, 3))
kernel[..., 1] = 0
model.layers[1].kernel.assign(kernel)
model.layers[2].beta.assign(np.ones(3))  # the dead channel's constant is not 0
images = np.random.default_rng(0).normal(size=(2, 4, 4, 2)).astype("float32")
small = stk.shrink(model)
assert small.layers[1].filters == 2
found, expected = (keras.ops.convert_to_numpy(m(images)) for m in (small, model))
np.testing.assert_allclose(found, expected, atol=1e-5)
"""


@pytest.mark.slow
def test_shrink_is_quiet_where_jax_has_no_float64():
    """JAX as users have it; the tests above enable float64 for their references."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SHRINK],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_ENABLE_X64": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
