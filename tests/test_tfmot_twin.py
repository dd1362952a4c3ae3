"""Our magnitude pruning against tfmot's own, which trains in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import programs
import pytest

import str_keras as stk
from experiments import arrays, outside, tfmot_twin
from str_keras import building
from str_keras.config_files import from_dict

SHAPE = (32, 32, 1)
IMAGES, BATCH, EPOCHS, RATE = 128, 32, 2, 0.5
STEPS = IMAGES // BATCH
VALUES = {
    "method": "gmp",
    # At 90 % some filters of so small a net are all zero, and batch norm turns rounding
    # into percents there.
    "sparsity": RATE,
    "dataset": "fashion_mnist_5k",
    "architecture": "mobilenetv1",
    "alpha": 0.25,
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "lr": 1e-4,
    "warmup_epochs": 1,
    "smooth_schedule": True,
    "weight_decay": 0.5,  # so that it is seen beside the gradients
    # Of 8 steps two are dense; the rate rises at the next four and stays.
    "prune_begin": 0.25,
    "prune_end": 0.75,
}


def check_weights(ours, theirs, initial):
    """Kernels of as many non-zeros, at the same places; values that went the same way.

    Returns how many weights one keeps and the other does not.
    """
    kept = np.full(ours.shape, True)
    if ours.ndim > 1:
        assert np.count_nonzero(ours) == round(ours.size * (1 - RATE))
        assert np.count_nonzero(theirs) == round(ours.size * (1 - RATE))
        kept = (ours != 0) & (theirs != 0)
    moved = np.abs(ours - initial)[kept].max()
    assert moved > 0
    assert np.abs(theirs - ours)[kept].max() <= 0.05 * moved
    return np.count_nonzero((ours != 0) != (theirs != 0))


@pytest.mark.parity
def test_a_short_training_goes_the_same_way():
    """Eight steps with a ramp in them, pruned weights without a gradient in both.

    So short, tfmot's masks and ours agree but for a weight or two at the threshold.
    """
    images = arrays.load("fashion_mnist_5k").limit(IMAGES)
    config = building.resolve(from_dict(VALUES), 32, STEPS)
    model = building.create(config, SHAPE, 10, STEPS)
    # As large as Kaiming's: from its own start this net multiplies differences of
    # rounding by a thousand or more at each step.
    initial = [w * 6**0.5 if w.ndim > 1 else w for w in model.model.get_weights()]
    model.model.set_weights(initial)
    row, theirs = tfmot_twin.train_with_tfmot(
        config, initial, limit=IMAGES, mask_gradients=True
    )
    ramp = building.create_ramp(config, STEPS)
    for epoch in range(EPOCHS):
        batches = images.train(config.seed, epoch, BATCH)
        model.fit(batches, shuffle=False, verbose=0, callbacks=[ramp])
    ours = stk.strip(model).get_weights()
    triples = list(zip(ours, theirs, initial, strict=True))
    assert sum(w.ndim > 1 for w in ours) == 28
    exchanged = sum(check_weights(*triple) for triple in triples)
    assert exchanged <= 1e-3 * sum(row["nonzeros"].values())
    assert row["sparsity"] == pytest.approx(stk.summary(model).kernels.sparsity)
    check_row(row, config, theirs, images)


def check_row(row, config, weights, images):
    """What the process says of its net is so by our own measures."""
    outcome = outside.to_outcome(config, row, weights)
    rows = outcome.summary.rows
    assert row["nonzeros"] == {r.path: r.nonzeros for r in rows}
    assert row["params"] == {r.path: r.params for r in rows}
    assert outcome.summary.kernels.sparsity == pytest.approx(row["sparsity"])
    net = building.create_dense(config, SHAPE, 10)
    net.set_weights(weights)
    pixels, labels = images.test(IMAGES)[0]
    right = net.predict(pixels, verbose=0).argmax(1) == labels.argmax(1)
    assert outcome.accuracy == row["accuracy"] == pytest.approx(right.mean())
    assert row["forward_difference"] <= 1e-5
    assert len(row["seconds"]) == EPOCHS and row["images_per_second"] > 0


FORWARD = """
import json, sys
import numpy as np
from experiments import small_nets, tfmot_training
from str_keras import building
from str_keras.config_files import from_dict

small_nets.register()
rng = np.random.default_rng(0)
for values, size in json.loads(sys.argv[1]):
    config = building.resolve(from_dict(values), size, 1)
    shape = (size, size, 3)
    model = building.create_dense(config, shape, 7)
    # Larger kernels, so that the images reach the logits; of batch norm all four at
    # random, none of them negative.
    model.set_weights([
        6**0.5 * w if w.ndim > 1 else rng.uniform(0.5, 1.5, w.shape)
        for w in model.get_weights()
    ])
    images = rng.normal(size=(4, *shape)).astype("float32")
    before = model.get_weights()
    twin, difference = tfmot_training.create_twin(config, model, images)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    found = np.asarray(twin(images))
    print(json.dumps([difference, float(np.ptp(found, axis=0).max()), found.shape]))
try:
    tfmot_training.tfmot_nets.create("resnet34", shape, 7, 1.0, "small")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_both_nets_are_the_same_function():
    nets = [
        ({"architecture": "mobilenetv1", "alpha": 0.25, "stem": "small"}, 16),
        ({"architecture": "mobilenetv1", "alpha": 0.1, "stem": "imagenet"}, 64),
        ({"architecture": "resnet10", "stem": "small"}, 9),
        ({"architecture": "resnet18", "stem": "imagenet"}, 32),
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORWARD, json.dumps(nets)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    assert done.returncode == 0, done.stderr
    *lines, error = done.stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len(nets)
    for difference, spread, shape in rows:
        assert difference <= 1e-5 and spread > 1e-3 and shape == [4, 7]
    assert "mobilenetv1, resnet18" in error and "resnet34" in error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "dnw"}, "check is of --method=gmp and budget_gmp.*dnw"),
        ({"method": "dense", "sparsity": None}, "--method=gmp.*dense"),
    ],
)
def test_configurations_that_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        tfmot_twin.train_with_tfmot(from_dict({**VALUES, **changes}))


@pytest.mark.slow
def test_the_programs_error_is_told():
    with pytest.raises(RuntimeError, match=r"tfmot failed: error: .*batch_size=32"):
        tfmot_twin.train_with_tfmot(from_dict(VALUES), limit=BATCH // 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--config": None}, "--config is missing"),
        ({"--output": None}, "--output is missing"),
        ({"--sparsity": "1.5"}, "sparsity"),
        ({"--limit": "16"}, "batch_size=32"),
    ],
)
def test_bad_command_lines(changes, words, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(VALUES))
    given = {
        "--config": tmp_path / "config.json",
        "--output": tmp_path / "result.json",
        **changes,
    }
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    status, _, error = programs.run(tfmot_twin, flags, capsys)
    assert status == 1 and error.startswith("error: ") and words in error
    assert error.count("\n") == 1 and not (tmp_path / "result.json").exists()
