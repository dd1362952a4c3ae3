"""Runs `torch_side.py` in its environment; carries its arrays into Keras models."""

import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest

import str_keras as stk

PROGRAM = pathlib.Path(__file__).with_name("torch_side.py")
ROOT = PROGRAM.parents[2]
STATE = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def interpreter():
    """The Python that has PyTorch."""
    local = ROOT / ".venv-torch" / "bin" / "python"
    default = str(local) if local.exists() else sys.executable
    return os.environ.get("STR_KERAS_TORCH_PYTHON") or default


def run_torch(case, given):
    """What `torch_side.py` makes of the arrays `given`: arrays by name."""
    python = interpreter()
    with tempfile.TemporaryDirectory() as directory:
        source, target = (
            os.path.join(directory, f"{end}.npz") for end in ("in", "out")
        )
        np.savez(source, **given)
        command = [python, "-I", str(PROGRAM), case, source, target]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            errors = done.stderr if done.returncode else ""
        except OSError as error:
            errors = f"ModuleNotFoundError: {error}"
        if "ModuleNotFoundError" in errors:
            pytest.fail(
                f"{python} cannot import PyTorch ({errors.splitlines()[-1]}): run "
                "`make test-parity`, which sets up .venv-torch, or name a Python with "
                "numpy and torch in STR_KERAS_TORCH_PYTHON",
                pytrace=False,
            )
        assert not errors, errors
        with np.load(target) as file:
            return {name: file[name] for name in file.files}


def part(arrays, prefix):
    """The arrays whose names begin with `prefix/`, without it."""
    start = len(prefix) + 1
    return {k[start:]: v for k, v in arrays.items() if k.startswith(f"{prefix}/")}


def layer_name(module):
    """The Keras layer of the authors' module.

    Written apart from `str_keras.torch_checkpoints.names`, whose mistakes it must show.
    """
    if module.startswith("model."):
        _, block, index = module.split(".")
        if block == "0":
            return ("conv1", "conv1_bn")[int(index)]
        kind = "depthwise" if int(index) < 3 else "pointwise"
        return f"block{block}_{kind}" + ("_bn" if int(index) % 3 else "")
    module = module.replace("downsample.0", "downsample")
    return module.replace("downsample.1", "downsample_bn").replace(".", "_")


def thresholded(model):
    """Kernels with their logits, of a sparsified model or of wrapped layers."""
    if isinstance(model, stk.SparseModel):
        return model.thresholded
    wrappers = [x for x in model.layers if isinstance(x, stk.SoftThreshold)]
    return [item for wrapper in wrappers for item in wrapper.thresholded]


def pair(model, state):
    """The variable of each of PyTorch's arrays, in Keras' layout: {name: pair}."""
    logits = {item.kernel.layer.name: item.logit for item in thresholded(model)}
    pairs = {}
    for name, array in state.items():
        module, _, leaf = name.rpartition(".")
        layer = model.get_layer(layer_name(module))
        if isinstance(layer, keras.layers.BatchNormalization):
            pairs[name] = getattr(layer, STATE[leaf]), array
        elif leaf == "sparseThreshold":
            pairs[name] = logits[layer.name], array.reshape(())
        else:
            inner = layer.layer if isinstance(layer, stk.SoftThreshold) else layer
            depthwise = isinstance(inner, keras.layers.DepthwiseConv2D)
            # (C, 1, H, W) -> HWC1, or OIHW -> HWIO; a Dense keeps the last two axes.
            array = array.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
            pairs[name] = inner.kernel, array.reshape(inner.kernel.shape)
    return pairs


def copy_from_torch(state, model):
    """Gives every weight PyTorch's value; fails where one of the model gets none."""
    pairs = pair(model, state).values()
    copied = sorted(variable.path for variable, _ in pairs)
    assert copied == sorted(variable.path for variable in model.weights)
    for variable, array in pairs:
        variable.assign(array)
