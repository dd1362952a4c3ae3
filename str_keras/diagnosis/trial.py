"""A training small enough to try, as a process of its own that may break.

`python -m str_keras.diagnosis.trial` prints a line per stage, `MARK` and then JSON. The
stage after the last one printed is the one that failed.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import Any

from str_keras.diagnosis.trying import MARK

_STEPS = 8


def _say(stage: str, **found: Any) -> None:
    print(MARK + json.dumps({"stage": stage, **found}), flush=True)


def _devices(backend: str) -> dict[str, int]:
    """Number of devices by kind."""
    if backend == "tensorflow":
        import tensorflow as tf

        kinds = [device.device_type for device in tf.config.list_logical_devices()]
    elif backend == "jax":
        import jax

        kinds = [device.platform.upper() for device in jax.devices()]
    else:
        import torch

        kinds = ["CPU"] + ["GPU"] * torch.cuda.device_count()
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _train() -> Any:
    """A sparsified net after `_STEPS` steps; checks that all that should moved."""
    import keras
    import numpy as np

    import str_keras as stk
    from str_keras.internals import read_array

    random = np.random.default_rng(0)
    images = random.normal(size=(8 * _STEPS, 8, 8, 3)).astype("float32")
    labels = random.integers(4, size=len(images))
    keras.utils.set_random_seed(0)
    net = [
        keras.layers.Conv2D(8, 3, use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(4),
    ]
    dense = keras.Sequential([keras.Input((8, 8, 3)), *net])
    model = stk.sparsify(dense, s_init=-3.0)
    before = [read_array(weight) for weight in model.trainable_weights]
    model.compile(
        stk.optimizers.SGD(0.05, momentum=0.9, weight_decay=1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(images, labels, batch_size=8, verbose=0).history
    if not np.isfinite(history["loss"][-1]):
        raise RuntimeError(f"the loss is not finite: {history['loss'][-1]}")
    for weight, old in zip(model.trainable_weights, before, strict=True):
        new = read_array(weight)
        if not np.isfinite(new).all() or np.array_equal(new, old):
            raise RuntimeError(f"{weight.path} was not trained")
    kernels = stk.summary(model).kernels
    if not 0 < kernels.nonzeros < kernels.params:
        raise RuntimeError(
            f"{kernels.nonzeros} of {kernels.params} weights are not zero: thresholds "
            "should have pruned some and not all"
        )
    plain = stk.strip(model)
    nets: tuple[Any, Any] = (model, plain)
    wanted, got = (net.predict(images[:8], verbose=0) for net in nets)
    if not np.allclose(wanted, got, rtol=1e-4, atol=1e-5):
        raise RuntimeError("the stripped model has other outputs")
    _say("train", steps=_STEPS, weights=kernels.params, nonzeros=kernels.nonzeros)
    return model


def _save(model: Any, folder: pathlib.Path) -> None:
    import keras

    path = folder / "model.keras"
    model.save(path)
    loaded: Any = keras.saving.load_model(path)
    if loaded.count_params() != model.count_params():
        raise RuntimeError("the model has another number of weights after loading")
    _say("save", bytes=path.stat().st_size)


def _command(folder: pathlib.Path) -> None:
    """What the training command needs beyond the model: its data and its events."""
    import str_keras.training  # noqa: F401
    from str_keras import data
    from str_keras.monitoring import TensorBoardWriter

    writer = TensorBoardWriter(folder / "events")
    writer.write(1, {"loss": 0.0}, [])
    writer.close()
    images, _ = next(iter(data.load("fashion_mnist_5k").train(0, 8)))
    _say("command", images=list(images.shape))


def main() -> None:
    """Runs the stages; whatever fails raises."""
    import keras

    backend = keras.backend.backend()
    _say("import", backend=backend, keras=keras.__version__)
    _say("devices", devices=_devices(backend))
    model = _train()
    with tempfile.TemporaryDirectory() as folder:
        _save(model, pathlib.Path(folder))
        if backend == "tensorflow":
            _command(pathlib.Path(folder))


if __name__ == "__main__":
    main()
