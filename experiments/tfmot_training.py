"""Training with tfmot's `prune_low_magnitude`; only for the process of `tfmot_twin`.

Importing this turns `tf.keras` into tf_keras for the whole process.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from experiments import outside, tfmot_nets
from experiments.arrays import Batches, ImageArrays
from str_keras.config import TrainConfig

TOLERANCE = 1e-5
"""Largest difference of the first logits to those of the Keras 3 net, relative."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What our training and tfmot's share.

    Args:
        config: Resolved.
        learning_rates: Of each step, float32.
        rates: Final share of zeros of each pruned layer's kernel, by its name.
        begin: First step of the ramp, from 0.
        end: Step at which the rate is reached.
        frequency: Steps between two changes.
        mask_gradients: Whether pruned weights get no gradient; tfmot lets it through.
    """

    config: TrainConfig
    learning_rates: np.ndarray
    rates: Mapping[str, float]
    begin: int
    end: int
    frequency: int
    mask_gradients: bool


class Ramp(tfmot.sparsity.keras.PolynomialDecay):
    """tfmot's ramp, which acts at its last step in any case.

    tfmot's own stops short of the rate where the length is no multiple of the
    frequency.
    """

    def __call__(self, step: Any) -> tuple[Any, Any]:
        """Whether to choose masks anew at a step, and the rate."""
        due, rate = super().__call__(step)
        last = tf.equal(step, self.end_step)
        return due | last, tf.where(last, self.final_sparsity, rate)


class LearningRates(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate for each step.

    Args:
        rates: float32 `(steps,)`.
    """

    def __init__(self, rates: np.ndarray):
        self.rates = rates

    def __call__(self, step: Any) -> Any:
        """The learning rate of a step, counted from 0."""
        return tf.gather(tf.constant(self.rates), step)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"rates": self.rates}


class CoupledSGD(tf_keras.optimizers.SGD):
    """`v <- mu v + (grad + decay p); p <- p - lr v`, as `stk.optimizers.SGD`.

    tf_keras' own folds the learning rate into v, which is another rule once the rate
    changes.

    Args:
        plan: Has the learning rates, mu and the decay.
        masks: By the reference of a kernel; its gradient is multiplied by it.
    """

    def __init__(self, plan: Plan, masks: Mapping[Any, Any]):
        rates: Any = LearningRates(plan.learning_rates)
        super().__init__(rates, plan.config.momentum, jit_compile=False)
        self.config, self.masks = plan.config, masks

    def update_step(self, gradient: Any, variable: Any) -> None:
        """Steps one variable."""
        config = self.config
        if variable.ref() in self.masks:
            gradient *= self.masks[variable.ref()]
        name = variable.name.rsplit("/")[-1]
        if config.decay_batch_norm or not name.startswith(("gamma", "beta")):
            gradient += config.weight_decay * variable
        v = self.momentums[self._index_dict[self._var_key(variable)]]
        v.assign(config.momentum * v + gradient)
        step = gradient + config.momentum * v if config.nesterov else v
        variable.assign_sub(self.learning_rate * step)


def copy_layers(source: Any, target: Any) -> None:
    """Copies weights between a Keras 3 and a tf_keras net, by name of the layers."""
    for layer in source.layers:
        if layer.weights:
            target.get_layer(layer.name).set_weights(layer.get_weights())


def _difference(model: Any, twin: Any, images: np.ndarray, training: bool) -> float:
    """Largest difference of logits over the largest; ends with the weights before."""
    before = model.get_weights()
    copy_layers(model, twin)
    wanted = np.asarray(model(images, training=training))
    found = np.asarray(twin(images, training=training))
    model.set_weights(before)
    copy_layers(model, twin)
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30))


def create_twin(
    config: TrainConfig, model: Any, images: np.ndarray
) -> tuple[Any, float]:
    """The tf_keras net with the weights of a Keras 3 net, and how far it is off.

    Args:
        config: Resolved; of `model`.
        model: The Keras 3 net.
        images: As it takes them; a few.

    Returns:
        The net, and the largest difference of their logits over the largest logit,
        with the averages of batch norm and with those of the batch.

    Raises:
        ValueError: if that is above `TOLERANCE`, or there is no such net.
    """
    name, alpha, stem = config.architecture, config.alpha, config.stem
    classes = model.output_shape[-1]
    twin = tfmot_nets.create(name, images.shape[1:], classes, alpha, stem)
    # Normalized by the batch too: fresh averages let logits shrink to nearly nothing.
    difference = max(
        _difference(model, twin, images, training) for training in (False, True)
    )
    if not difference <= TOLERANCE:
        raise ValueError(
            f"The two nets differ: their logits by up to {difference:.2g} (relative), "
            f"more than {TOLERANCE}. Received: architecture={name!r}, {alpha=}, {stem=}"
        )
    return twin, difference


def prune(twin: Any, plan: Plan) -> Any:
    """The net with tfmot's wrapper around each layer that is to be pruned.

    Args:
        twin: A dense tf_keras net, whose layers are taken over.
        plan: Has the rates and the ramp.
    """

    def wrap(layer: Any) -> Any:
        if layer.name not in plan.rates:
            return layer
        # tfmot counts the first step as 1.
        begin, end, power = plan.begin + 1, plan.end + 1, 3
        rate = plan.rates[layer.name]
        ramp: Any = Ramp(0.0, rate, begin, end, power, plan.frequency)
        return tfmot.sparsity.keras.prune_low_magnitude(layer, ramp)

    return tf_keras.models.clone_model(twin, clone_function=wrap)


class _Sequence(tf_keras.utils.Sequence):
    """The batches of the other trainings, as tf_keras takes them."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batches[index]


def _masks(pruned: Any) -> dict[Any, Any]:
    """tfmot's mask of each kernel, by the kernel's reference."""
    wrappers = [layer for layer in pruned.layers if hasattr(layer, "pruning_vars")]
    found = [variables for layer in wrappers for variables in layer.pruning_vars]
    return {kernel.ref(): mask for kernel, mask, _ in found}


def fit(pruned: Any, plan: Plan, images: ImageArrays) -> list[float]:
    """Trains, on the batches of the other methods; returns the seconds of each epoch.

    Args:
        pruned: What `prune` gave.
        plan: Has everything else.
        images: What on.

    Raises:
        ValueError: if the loss is not finite.
    """
    config = plan.config
    loss = tf_keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=config.label_smoothing
    )
    masks = _masks(pruned) if plan.mask_gradients else {}
    pruned.compile(CoupledSGD(plan, masks), loss)
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    seconds = []
    for epoch in range(config.epochs):
        started = time.perf_counter()
        batches = _Sequence(images.train(config.seed, epoch, config.batch_size))
        found = pruned.fit(batches, shuffle=False, verbose=0, callbacks=[callback])
        if not np.isfinite(found.history["loss"][-1]):
            raise ValueError(f"{outside.NOT_FINITE}. Received: {epoch=}")
        seconds.append(round(time.perf_counter() - started, 3))
    return seconds


def strip(pruned: Any) -> Any:
    """The net without tfmot's wrappers, zeros in its kernels."""
    return tfmot.sparsity.keras.strip_pruning(pruned)


def measure(twin: Any, batches: Batches) -> dict[str, Any]:
    """Accuracy, sparsity, and the non-zeros and sizes of the kernels by path.

    Args:
        twin: A net without wrappers.
        batches: Of the test images.
    """
    right = [
        twin.predict_on_batch(images).argmax(axis=1) == labels.argmax(axis=1)
        for images, labels in (batches[i] for i in range(len(batches)))
    ]
    layers = [layer for layer in twin.layers if isinstance(layer, tfmot_nets.KERNELS)]
    kernels = {f"{layer.name}/kernel": layer.get_weights()[0] for layer in layers}
    nonzeros = {path: int(np.count_nonzero(k)) for path, k in kernels.items()}
    params = {path: int(kernel.size) for path, kernel in kernels.items()}
    return {
        "accuracy": float(np.concatenate(right).mean()),
        "sparsity": 1 - sum(nonzeros.values()) / sum(params.values()),
        "nonzeros": nonzeros,
        "params": params,
    }
