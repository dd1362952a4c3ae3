"""Training with PQuantML (`pquant-ml`); only for the process of `pquant_twin`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pquant  # pyright: ignore[reportMissingImports]  # not in this environment

from experiments import outside
from experiments.arrays import Batches, ImageArrays
from str_keras import building, optimizers
from str_keras.config import TrainConfig

CONFIGS = {
    "pquant_autosparse": pquant.autosparse_config,
    "pquant_dst": pquant.dst_config,
    "pquant_cs": pquant.cs_config,
}
"""The configurations that PQuantML ships, by our names of the methods."""
DECAY = "decay"
"""The knob that is the optimizer's: L2 of the thresholds, coupled."""
FINE_TUNING = "fine_tuning"
"""The share of the epochs that comes last, with the mask frozen, in [0, 1)."""


class SGD(optimizers.SGD):
    """Ours, whose `threshold_decay` acts on the thresholds of PQuantML.

    Args:
        thresholds: Its variables.
        **kwargs: Arguments of `stk.optimizers.SGD`.
    """

    def __init__(self, thresholds: list[Any], **kwargs: Any):
        super().__init__(**kwargs)
        self.thresholds = {id(variable) for variable in thresholds}

    def build(self, variables: list[Any]) -> None:
        """Chooses the rule of each variable."""
        super().build(variables)
        for i, variable in enumerate(variables):
            if id(variable) in self.thresholds:
                self._rules[i] = self.threshold_rule


def configure(method: str, knobs: Mapping[str, Any], epochs: int) -> Any:
    """PQuantML's configuration: as shipped, without quantization, of so many epochs.

    Args:
        method: Key of `CONFIGS`.
        knobs: `FINE_TUNING` and fields of its `pruning_parameters`; `DECAY`, which is
            not its own, is passed over.
        epochs: In all.

    Raises:
        ValueError: for a knob that there is not, or fine-tuning that leaves no epoch.
    """
    made = CONFIGS[method]()
    made.quantization_parameters.enable_quantization = False
    pruning, training = made.pruning_parameters, made.training_parameters
    for name, value in knobs.items():
        if name not in (DECAY, FINE_TUNING):
            if not hasattr(pruning, name):
                raise ValueError(
                    f"{method} has no such knob: it has {DECAY}, {FINE_TUNING}, "
                    f"{', '.join(sorted(pruning.model_dump()))}. "
                    f"Received: {name}={value!r}"
                )
            setattr(pruning, name, value)
    last = round(epochs * knobs.get(FINE_TUNING, 0.0))
    if not 0 <= last < epochs:
        raise ValueError(
            f"`{FINE_TUNING}` is in [0, 1) and leaves an epoch to prune in. "
            f"Received: {epochs=}, knobs={dict(knobs)}"
        )
    training.rounds, training.rewind, training.pretraining_epochs = 1, "never", 0
    training.epochs, training.fine_tuning_epochs = epochs - last, last
    if hasattr(pruning, "alpha_reset_epoch"):  # 90 of 100 as shipped
        pruning.alpha_reset_epoch = round(0.9 * training.epochs)
    return made


def pruned_layers(model: Any) -> list[Any]:
    """PQuantML's layers that have a kernel, in order."""
    return [layer for layer in model.layers if hasattr(layer, "pruning_layer")]


def _dense_layers(plain: Any) -> list[Any]:
    return [layer for layer in plain.layers if hasattr(layer, "kernel")]


def wrap(plain: Any, made: Any) -> Any:
    """A copy of a Keras net with PQuantML's layers, of the same names and weights.

    PQuantML converts each layer that has a kernel on its own and Keras joins them:
    given the net it would call layer after layer, and there it has no shortcuts.

    Args:
        plain: A functional Keras net.
        made: What `configure` gave.
    """

    def convert(layer: Any) -> Any:
        copied = layer.__class__.from_config(layer.get_config())
        if not hasattr(layer, "kernel"):
            return copied
        image = keras.Input(layer.input.shape[1:])
        alone = keras.Model(image, copied(image))
        new = pquant.add_compression_layers(alone, made, alone.input_shape).layers[-1]
        new.name = layer.name
        return new

    model = keras.models.clone_model(plain, clone_function=convert)
    copy_weights(plain, model)
    return model


def copy_weights(plain: Any, model: Any) -> None:
    """From the Keras net to PQuantML's, which draws depthwise kernels anew."""
    for layer in plain.layers:
        if hasattr(layer, "kernel"):
            model.get_layer(layer.name)._kernel.assign(layer.kernel)
        elif layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())


def copy_back(model: Any, plain: Any) -> None:
    """From PQuantML's net to the Keras net: kernels as they are stored."""
    for layer in plain.layers:
        if hasattr(layer, "kernel"):
            layer.kernel.assign(model.get_layer(layer.name)._kernel)
        elif layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())


def first_difference(plain: Any, model: Any, images: np.ndarray) -> float:
    """Largest difference of the dense logits over the largest; changes no weight.

    Args:
        plain: The Keras net.
        model: What `wrap` made of it, not yet pruning.
        images: A few.
    """
    before, worst = plain.get_weights(), 0.0
    for training in (False, True):
        wanted = np.asarray(plain(images, training=training))
        found = np.asarray(model(images, training=training))
        plain.set_weights(before)
        copy_weights(plain, model)
        worst = max(worst, float(np.abs(found - wanted).max() / np.abs(wanted).max()))
    return worst


def compile_as_ours(model: Any, config: TrainConfig, decay: float, steps: int) -> None:
    """The loss and the optimizer of the other methods.

    Args:
        model: What `wrap` gave.
        config: Resolved.
        decay: L2 of PQuantML's thresholds.
        steps: Of an epoch.
    """
    layers = [layer.pruning_layer for layer in pruned_layers(model)]
    optimizer = SGD(
        [variable for layer in layers for variable in layer.trainable_variables],
        learning_rate=building.create_optimizer(config, steps).schedule,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        threshold_decay=decay,
        decay_batch_norm=config.decay_batch_norm,
    )
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=config.label_smoothing
    )
    model.compile(optimizer, loss, jit_compile=False)


def fit(model: Any, made: Any, config: TrainConfig, images: ImageArrays) -> list[float]:
    """Trains by PQuantML's `train_model`, on the batches of the other methods.

    Args:
        model: Compiled.
        made: What `configure` gave.
        config: Resolved.
        images: What on.

    Returns:
        The seconds of each epoch.

    Raises:
        ValueError: if the loss is not finite.
    """
    seconds: list[float] = []

    def train(model: Any, epoch: Any) -> None:
        number = len(seconds)
        started = time.perf_counter()
        batches = images.train(config.seed, number, config.batch_size)
        found = model.fit(batches, shuffle=False, verbose=0)
        if not np.isfinite(found.history["loss"][-1]):
            raise ValueError(f"{outside.NOT_FINITE}. Received: epoch={number}")
        seconds.append(round(time.perf_counter() - started, 3))

    pquant.train_model(model, made, train, lambda model, epoch: None)
    return seconds


def finish(plain: Any, model: Any, made: Any) -> None:
    """Writes the kernels, with zeros where PQuantML pruned, into the Keras net.

    Args:
        plain: The net that was wrapped.
        model: What `wrap` made of it, trained.
        made: What `configure` gave.
    """
    if not made.training_parameters.fine_tuning_epochs:
        # Else AutoSparse ends as another function than was trained: without the soft
        # threshold, which its fine-tuning takes off.
        for layer in pruned_layers(model):
            layer.pruning_layer.is_finetuning.assign(layer.pruning_method == "cs")
    pquant.apply_final_compression(model)
    copy_back(model, plain)


def measure(plain: Any, batches: Batches) -> dict[str, Any]:
    """Accuracy, sparsity, and the non-zeros and sizes of the kernels by path.

    Args:
        plain: A plain Keras net.
        batches: Of the test images.
    """
    right = [
        plain.predict_on_batch(images).argmax(axis=1) == labels.argmax(axis=1)
        for images, labels in (batches[i] for i in range(len(batches)))
    ]
    kernels = {f"{x.name}/kernel": np.asarray(x.kernel) for x in _dense_layers(plain)}
    nonzeros = {path: int(np.count_nonzero(k)) for path, k in kernels.items()}
    params = {path: int(kernel.size) for path, kernel in kernels.items()}
    return {
        "accuracy": float(np.concatenate(right).mean()),
        "sparsity": 1 - sum(nonzeros.values()) / sum(params.values()),
        "nonzeros": nonzeros,
        "params": params,
    }
