"""What is timed: each contender trains one net by one method in a process of its own.

`python -m benchmarks.contenders NET METHOD BATCH_SIZE` says `ready` and how many bytes
its kernels have, and then for every line of input, a number of steps, the seconds that
those took. At the end of its input it says the most memory that it ever held, in bytes.
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

Train = Callable[[int], Any]
"""Takes so many steps."""
PRESETS = (
    *("str_filter", "str_global", "st3", "st3_sigma", "feather", "autosparse", "lats"),
    *("gmp", "dnw"),
)
OURS = ("dense", "str", *PRESETS)
OUTSIDE = {
    "torch_str": "torch_dense",
    "tfmot": "tf_keras_dense",
    **dict.fromkeys(("pquant_autosparse", "pquant_dst", "pquant_cs"), "pquant_dense"),
}
TWINS = {**dict.fromkeys(OURS[1:], "dense"), **OUTSIDE}
"""The dense net that a method is compared to: of the same library."""
METHODS = (*OURS, *dict.fromkeys([*OUTSIDE.values(), *OUTSIDE]))
LEVEL, RATE = 0.9, 1e-3


def _batch(shape: tuple[int, ...], batch_size: int) -> tuple[Any, Any]:
    import numpy as np

    from benchmarks.nets import CLASSES

    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch_size, *shape)).astype("float32")
    return images, rng.integers(0, CLASSES, batch_size).astype("int32")


def _by_fit(model: Any, batch: tuple[Any, Any], callbacks: Any = ()) -> Train:
    """Steps of `fit`, on one batch again and again, so that no pipeline is timed."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensors(batch).cache().repeat()
    return lambda steps: model.fit(
        data, steps_per_epoch=steps, verbose=0, callbacks=list(callbacks)
    )


def _kernel_bytes(model: Any) -> int:
    return sum(4 * math.prod(w.shape) for w in model.weights if len(w.shape) > 1)


def _ours(net: str, method: str, batch_size: int) -> tuple[Train, int]:
    import keras

    import str_keras as stk
    from benchmarks import nets

    model = nets.create(net)
    size = _kernel_bytes(model)
    callbacks = []
    if method == "str":  # as published: learned thresholds that nothing leads
        model = stk.sparsify(model, s_init=-12.0)
    elif method != "dense":
        model = stk.sparsify(model, preset=method, target_sparsity=LEVEL)
        # At its end from the first step on: what is led is led at every step.
        callbacks = [stk.SparsityRamp(0, 0, steps=1000)]
    optimizer = stk.optimizers.SGD(RATE, 0.875, weight_decay=5e-5, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    return _by_fit(model, _batch(model.input_shape[1:], batch_size), callbacks), size


def _pquant(net: str, method: str, batch_size: int) -> tuple[Train, int]:
    import keras

    import str_keras as stk
    from benchmarks import nets

    model = nets.create(net)
    size = _kernel_bytes(model)
    if method != "pquant_dense":
        from pquant.core.keras.layers import (  # type: ignore[import-not-found]
            post_pretrain_functions,
            pre_epoch_functions,
        )

        from experiments import pquant_training as training

        made = training.configure(method, {}, 10)
        model = training.wrap(model, made)
        model(keras.ops.zeros((1, *model.input_shape[1:])))
        post_pretrain_functions(model, made)
        pre_epoch_functions(model, 0, 10)
    optimizer = stk.optimizers.SGD(RATE, 0.875, weight_decay=5e-5, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    return _by_fit(model, _batch(model.input_shape[1:], batch_size)), size


def _tf_keras(net: str, method: str, batch_size: int) -> tuple[Train, int]:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras

    from benchmarks import nets

    model: Any = nets.create_tf_keras(net)
    size = _kernel_bytes(model)
    callbacks = []
    if method == "tfmot":
        import tensorflow_model_optimization as tfmot

        ramp = tfmot.sparsity.keras.ConstantSparsity(LEVEL, 0, frequency=10)
        wrap: Any = tfmot.sparsity.keras.prune_low_magnitude
        model = wrap(model, ramp)
        callbacks = [tfmot.sparsity.keras.UpdatePruningStep()]
    model.compile(
        tf_keras.optimizers.SGD(RATE, 0.875, nesterov=True, weight_decay=5e-5),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return _by_fit(model, _batch(model.input_shape[1:], batch_size), callbacks), size


def _torch(net: str, method: str, batch_size: int) -> tuple[Train, int]:
    import torch

    from benchmarks import torch_nets

    threads = os.environ.get("TF_NUM_INTRAOP_THREADS")
    if threads:
        torch.set_num_threads(int(threads))
    model, shape = torch_nets.create(net, method == "torch_str")
    size = sum(4 * p.numel() for p in model.parameters() if p.dim() > 1 and len(p) > 1)
    optimizer = torch.optim.SGD(
        model.parameters(), RATE, 0.875, weight_decay=5e-5, nesterov=True
    )
    loss = torch.nn.CrossEntropyLoss()
    images, labels = _batch(shape, batch_size)
    x, y = torch.from_numpy(images), torch.from_numpy(labels).long()

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

    return train, size


def create(net: str, method: str, batch_size: int) -> tuple[Train, int]:
    """A training, and the bytes of its dense kernels in float32.

    Args:
        net: One of `nets.NETS`.
        method: One of `METHODS`.
        batch_size: Examples a step.
    """
    if method in OURS:
        return _ours(net, method, batch_size)
    family = method.partition("_")[0]
    makers = {"torch": _torch, "pquant": _pquant, "tf": _tf_keras, "tfmot": _tf_keras}
    return makers[family](net, method, batch_size)


def _peak_memory() -> int:
    """VmHWM of this process in bytes; 0 where the system does not tell."""
    status = pathlib.Path("/proc/self/status")
    if not status.is_file():
        return 0
    (line,) = [x for x in status.read_text().splitlines() if x.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def main() -> None:
    """Answers lines of the input, on what was standard output at the start."""
    net, method, batch_size = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    train, size = create(net, method, int(batch_size))
    train(2)  # traced, and all buffers are there
    print("ready", int(size), file=out)
    for line in sys.stdin:
        started = time.perf_counter()
        train(int(line))
        print(time.perf_counter() - started, file=out)
    print(_peak_memory(), file=out)


if __name__ == "__main__":
    main()
