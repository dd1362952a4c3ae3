"""The core's own tests under the other backends, each in a process of its own."""

import os
import pathlib
import subprocess
import sys

import keras
import pytest

PARTS = {
    "core": ("thresholds", "layers", "model", "budget", "optimizers", "schedules"),
    "pruning": ("pruning", "channels"),
    "recurrent": ("recurrent",),
}
# One case of each kind of thing: on JAX every shape is compiled anew.
LESS = (
    "not applications and not weight- and not filter- and not no_str_keras"
    " and not dtype_policies and not keras_own_stays_dense and not 90_percent"
)


@pytest.mark.long
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
