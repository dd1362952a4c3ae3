"""Our magnitude pruning against tfmot's own, which trains in a process of its own."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import programs
import pytest

import str_keras as stk
from experiments import arrays, tfmot_twin
from str_keras import building
from str_keras.config import from_dict
from str_keras.model import find_thresholded
from str_keras.pruning import count_kept

numpy = keras.ops.convert_to_numpy
SHAPE = (32, 32, 1)
IMAGES, BATCH, EPOCHS, RATE = 128, 64, 2, 0.4
STEPS = IMAGES // BATCH
VALUES = {
    "method": "gmp",
    # At 90 % some channels of so narrow a net have next to no variance, and a single
    # step turns rounding into percents.
    "sparsity": RATE,
    "dataset": "fashion_mnist_5k",
    "architecture": "mobilenetv1",
    "alpha": 0.125,
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "lr": 1e-3,
    "warmup_epochs": 1,
    "smooth_schedule": True,
    "weight_decay": 5e-4,
    # The rate is 0 at the third step and reached at the fourth, which is the last.
    "prune_begin": 0.5,
    "prune_end": 0.75,
}


class Snapshot(keras.callbacks.Callback):
    """The raw kernels before a step."""

    def __init__(self, step):
        super().__init__()
        self.step, self.raw = step, {}

    def on_train_batch_begin(self, batch, logs=None):
        if int(numpy(self.model.optimizer.iterations)) == self.step:
            kernels = [item.kernel for item in find_thresholded(self.model)]
            self.raw = {k.path: numpy(k.variable).copy() for k in kernels}


def train_ours(model, config, images):
    """Our training; returns the raw kernels before its last step."""
    ramp = building.create_ramp(config, STEPS)
    snapshot = Snapshot(STEPS * EPOCHS - 1)
    for epoch in range(EPOCHS):
        batches = images.train(config.seed, epoch, BATCH)
        model.fit(batches, shuffle=False, verbose=0, callbacks=[ramp, snapshot])
    return snapshot.raw


def check_kernel(item, theirs, before):
    """The same weights pruned, the others trained to the same values."""
    ours, magnitudes = numpy(item.kernel.variable), np.abs(before)
    kept = count_kept(ours.size, RATE)
    assert np.count_nonzero(theirs) == np.count_nonzero(numpy(item.sparse())) == kept
    threshold = np.sort(magnitudes.ravel())[-kept]
    mask = magnitudes >= threshold
    # Rounding may exchange two weights of one magnitude.
    np.testing.assert_allclose(magnitudes[mask != (theirs != 0)], threshold, atol=1e-5)
    mask &= theirs != 0
    np.testing.assert_allclose(theirs[mask], ours[mask], rtol=1e-4, atol=1e-5)
    return np.abs(ours - before)[mask].max()


@pytest.mark.slow
def test_the_same_training_and_the_same_weights_pruned():
    """Three dense steps, then the first mask, a step with it, the numbers of zeros."""
    images = arrays.load("fashion_mnist_5k").limit(IMAGES)
    config = building.resolve(from_dict(VALUES), 32, STEPS)
    model = building.create(config, SHAPE, 10, STEPS)
    # As large as Kaiming's: from its own start this net multiplies differences of
    # rounding by a thousand or more at each step.
    initial = [w * 6**0.5 if w.ndim > 1 else w for w in model.model.get_weights()]
    model.model.set_weights(initial)
    row, weights = tfmot_twin.train_with_tfmot(config, initial, limit=IMAGES)
    before = train_ours(model, config, images)

    theirs = building.create_dense(config, SHAPE, 10)
    theirs.set_weights(weights)
    assert len(before) == 28
    moved = 0
    for item in find_thresholded(model):
        path, layer = item.kernel.path, theirs.get_layer(item.kernel.layer.name)
        moved = max(moved, check_kernel(item, numpy(layer.kernel), before[path]))
    assert moved > 1e-4  # the pruned nets took a step, and the same one
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            twins = theirs.get_layer(layer.name).weights
            for ours, variable in zip(layer.weights, twins, strict=True):
                np.testing.assert_allclose(
                    numpy(variable), numpy(ours), rtol=1e-4, atol=1e-5
                )
    check_row(row, config, weights, theirs, images)
    assert row["sparsity"] == pytest.approx(stk.summary(model).kernels.sparsity)


def check_row(row, config, weights, net, images):
    """What the process says of its net is so by our own measures."""
    outcome = tfmot_twin.to_outcome(config, row, weights)
    rows = outcome.summary.rows
    assert row["nonzeros"] == {r.path: r.nonzeros for r in rows}
    assert row["params"] == {r.path: r.params for r in rows}
    assert outcome.summary.kernels.sparsity == pytest.approx(row["sparsity"])
    batches = images.test(IMAGES)
    pixels, labels = batches[0]
    right = net.predict(pixels, verbose=0).argmax(1) == labels.argmax(1)
    assert outcome.accuracy == pytest.approx(right.mean())
    assert row["forward_difference"] <= 1e-5
    assert len(row["seconds"]) == EPOCHS and row["images_per_second"] > 0


FORWARD = """
import json, sys
import numpy as np
from experiments import small_nets, tfmot_training
from str_keras import building
from str_keras.config import from_dict

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
"""


@pytest.mark.slow
def test_both_nets_are_the_same_function():
    nets = [
        ({"architecture": "mobilenetv1", "alpha": 0.25, "stem": "small"}, 16),
        ({"architecture": "mobilenetv1", "alpha": 0.1, "stem": "imagenet"}, 64),
        ({"architecture": "resnet10", "stem": "small"}, 9),
        ({"architecture": "resnet18", "stem": "small"}, 9),
        ({"architecture": "resnet18", "stem": "imagenet"}, 32),
    ]
    done = subprocess.run(
        [sys.executable, "-c", FORWARD, json.dumps(nets)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(nets)
    for difference, spread, shape in rows:
        assert difference <= 1e-5 and spread > 1e-3 and shape == [4, 7]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "dnw"}, "check is of --method=gmp.*dnw"),
        ({"skip": ["fc"]}, "leave --skip out.*fc"),
    ],
)
def test_configurations_that_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        tfmot_twin.train_with_tfmot(from_dict({**VALUES, **changes}))


@pytest.mark.slow
def test_the_programs_error_is_told():
    config = from_dict({**VALUES, "architecture": "resnet34"})
    with pytest.raises(RuntimeError, match=r"mobilenetv1, resnet18.*resnet34"):
        tfmot_twin.train_with_tfmot(config, limit=IMAGES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--config": None}, "--config is missing"),
        ({"--output": None}, "--output is missing"),
        ({"--sparsity": "1.5"}, "sparsity"),
        ({"--limit": "32"}, "batch_size=64"),
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
