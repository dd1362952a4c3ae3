"""STR here against STR in PyTorch: forward, gradients, training, whole networks.

Each comparison starts `torch_side.py`, which draws the weights; both sides then see the
same weights and the same batches.
"""

import ast
import sys
import venv

import keras
import numpy as np
import pytest
from parity import exchange, keras_side

import str_keras as stk

TOLERANCE = {"float32": 1e-4, "float64": 1e-8}
runs = pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in keras_side.NETWORKS for dtype in TOLERANCE],
)


def relative_error(ours, expected):
    """Largest deviation over the largest size, of one array."""
    return np.max(np.abs(ours - expected)) / np.max(np.abs(expected))


def assert_equal(pairs, tolerance):
    errors = {name: relative_error(*pair) for name, pair in pairs.items()}
    wrong = {name: error for name, error in errors.items() if not error <= tolerance}
    assert errors and not wrong, wrong


@pytest.mark.parity
@runs
def test_forward(name, dtype):
    logits = keras_side.train_both(name, dtype)["logits"]
    assert all(expected.std() > 0.02 for _, expected in logits.values())
    assert_equal(logits, TOLERANCE[dtype])


@pytest.mark.parity
@runs
def test_gradients(name, dtype):
    found = keras_side.train_both(name, dtype)
    gradients = found["gradients"]
    # Kernels, s, gamma and beta; the rest of the state is not trained.
    assert len(gradients) == sum("running" not in key for key in found["start"])
    assert_equal(gradients, TOLERANCE[dtype])
    kernels = [key for key, value in found["start"].items() if value.ndim == 4]
    for key in kernels:
        ours, expected = gradients[key]
        pruned = expected == 0
        assert 0.1 < pruned.mean() < 0.9
        assert not ours[pruned].any()


@pytest.mark.parity
@runs
def test_training(name, dtype):
    found = keras_side.train_both(name, dtype)
    assert_equal({"rates": found["rates"]}, 1e-6)
    ours, expected = found["loss"]
    assert ours == pytest.approx(expected, rel=1e-6)
    assert set(found["final"]) == set(found["start"])
    assert_equal(found["final"], TOLERANCE[dtype])
    # And how far they went, which of s is a small part of its size.
    steps = {
        key: tuple(end - found["start"][key] for end in ends)
        for key, ends in found["final"].items()
    }
    assert_equal(steps, TOLERANCE[dtype])


@pytest.mark.parity
@runs
def test_training_could_tell_rules_apart(name, dtype):
    """Kernels are partly pruned throughout; decay and task both act on each s."""
    found = keras_side.train_both(name, dtype)
    for path, sparsity in found["sparsity"].items():
        assert 0.1 < sparsity < 0.9, path
    logits = [key for key in found["start"] if key.endswith("sparseThreshold")]
    assert len(logits) == (1 if name == "shared" else len(found["sparsity"]))
    for key in logits:
        s, (end, _) = found["start"][key], found["final"][key]
        assert abs(end - s) > 0.01 * abs(s), key
        _, gradient = found["gradients"][key]
        assert 0.03 < abs(gradient / (keras_side.DECAY * s)) < 30, key
    assert found["kink"] > 5e-6


@pytest.mark.parity
@pytest.mark.parametrize("name", ["resnet50", "mobilenetv1"])
def test_whole_network(name):
    """80 % of every kernel pruned, one batch of ImageNet's size."""
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype("float32")
    torch = exchange.run_torch(
        name, {"images": images, "seed": 0, "pruned": (0.8, 0.8)}
    )
    model = stk.sparsify(stk.models.create(name))
    exchange.copy_from_torch(exchange.part(torch, "initial"), model)
    prunable = stk.summary(model).prunable
    assert prunable.sparsity == pytest.approx(0.8, abs=1e-4)
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    expected = torch["logits"]
    assert expected.shape == (2, 1000) and expected.std() > 0.02
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3 * min(scale, 1))


def test_torch_side_needs_nothing_of_ours():
    tree = ast.parse(exchange.PROGRAM.read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) == {"numpy", "torch"}


@pytest.mark.parity
def test_a_python_without_torch_fails_the_tests(tmp_path, monkeypatch):
    venv.create(tmp_path, symlinks=True)
    for python in (tmp_path / "bin" / "python", tmp_path / "missing"):
        monkeypatch.setenv("STR_KERAS_TORCH_PYTHON", str(python))
        with pytest.raises(pytest.fail.Exception, match="run `make test-parity`"):
            exchange.run_torch("convnet", {})
