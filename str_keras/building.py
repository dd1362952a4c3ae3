"""From a configuration to a compiled model: the same on every backend."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import keras

from str_keras import budget, models, optimizers, schedules
from str_keras.config import TrainConfig
from str_keras.forecasting import suggest_s_init
from str_keras.operators import get_backward
from str_keras.presets import PRESETS, default_g
from str_keras.pruning import keep_random, prune
from str_keras.selection import Skip
from str_keras.sparsifying import sparsify
from str_keras.steering import SparsityRamp
from str_keras.thresholds import get_g

SMALL_IMAGE = 64
"""Images of up to so many pixels get the small stem, unless told otherwise."""

RAMP_CHANGES = 100
"""Changes of the rates in a training: one an epoch in the paper's hundred."""


def resolve(config: TrainConfig, image_size: int, steps: int) -> TrainConfig:
    """The configuration with what follows from images and schedule written out.

    Args:
        config: As the user gave it.
        image_size: Height of the images in pixels.
        steps: Steps of an epoch.
    """
    automatic = "small" if image_size <= SMALL_IMAGE else "imagenet"
    stem = automatic if config.stem == "auto" else config.stem
    g = config.g
    if g == "auto":
        led = config.target is not None
        g = default_g(config.method if config.is_preset else "str", led)
    s_init = config.s_init
    own = PRESETS[config.method].s_init if config.is_preset else None
    # Led to a target s decays no more than its differences do: any start will do.
    decays = config.learns_thresholds and config.target is None and own is None
    if s_init is None and decays:
        optimizer = create_optimizer(config, steps)
        try:
            s_init = suggest_s_init(optimizer, steps * config.epochs, g)
        except ValueError:  # the decay is too weak for any; the forecast will say so
            s_init = get_g(g).s_init
    return dataclasses.replace(
        config, stem=stem, image_size=image_size, s_init=s_init, g=g
    )


def create_dense(
    config: TrainConfig, image_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    """The dense net of a configuration, with the weights it names."""
    arguments: dict[str, Any] = {
        "input_shape": image_shape,
        "classes": classes,
        "stem": config.stem,
        "synchronized": config.synchronized_batch_norm,
        "weights": config.weights or None,
    }
    if config.has_alpha:
        arguments["alpha"] = config.alpha
    return models.create(config.architecture, **arguments)


def create_optimizer(config: TrainConfig, steps: int) -> optimizers.SGD:
    """SGD with the schedule and the decay of a configuration.

    Args:
        config: The configuration.
        steps: Steps of an epoch.
    """
    schedule = schedules.create(
        config.schedule,
        config.lr,
        steps_per_epoch=steps,
        epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,
        per_epoch=not config.smooth_schedule,
    )
    parts = config.gradient_accumulation_steps
    return optimizers.SGD(
        schedule,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        threshold_decay=config.threshold_decay,
        decay_batch_norm=config.decay_batch_norm,
        gradient_accumulation_steps=None if parts == 1 else parts,
    )


def _skip_rules(names: tuple[str, ...]) -> list[Skip]:
    try:
        return [re.compile(n[3:]) if n.startswith("re:") else n for n in names]
    except re.error as error:
        raise ValueError(
            f"--skip has a pattern that is no regular expression: {error}. "
            f"Received: skip={list(names)}"
        ) from error


def _pruned(config: TrainConfig, dense: keras.Model) -> keras.Model:
    """The pruned model of a method that prunes at given rates."""
    skip, policy = _skip_rules(config.skip), config.policy or None
    sparsity = config.sparsity or 0.0  # a budget has its own
    if config.takes_budget:
        file = config.budget.lower().endswith((".csv", ".json"))
        wanted = (budget.read if file else budget.published)(config.budget)
    elif config.method == "erk_rigl_static":
        wanted = budget.erk(dense, sparsity, skip, policy)
    else:
        wanted = budget.uniform(dense, sparsity, skip, policy)
    if config.method == "erk_rigl_static":
        keep_random(dense, wanted.match(dense), config.seed)
    straight = config.method in ("dnw", "budget_dnw")
    gradient = "straight_through" if straight else "masked"
    return prune(dense, wanted, gradient, skip, policy)


def _sparsified(config: TrainConfig, dense: keras.Model) -> keras.Model:
    """The model of a preset: with learnable thresholds, or led to a target."""
    own = config.granularity != "layer" and config.learns_thresholds
    return sparsify(
        dense,
        config.s_init if config.learns_thresholds else None,
        config.g if config.learns_thresholds and config.g != "auto" else None,
        config.granularity if own else None,
        _skip_rules(config.skip),
        config.policy or None,
        preset=config.method,
        operator=config.operator or None,
        backward=config.backward or None,
        threshold=config.threshold or None,
        target_sparsity=config.target_sparsity,
        target_macs=config.target_macs,
        target_bytes=config.target_bytes,
        min_density=config.min_density,
        min_kept=None if config.target is None else config.min_kept,
        mac_pressure=config.mac_pressure,
        min_per_channel=config.min_per_channel,
    )


def create(
    config: TrainConfig, image_shape: tuple[int, int, int], classes: int, steps: int
) -> Any:
    """The compiled model of a configuration: dense, with thresholds, or pruned.

    Args:
        config: A resolved configuration.
        image_shape: Of the images, channels last.
        classes: Number of logits.
        steps: Steps of an epoch.

    Raises:
        ValueError: if a value does not fit the net: `skip`, `weights`, `budget`.
    """
    optimizer: Any = create_optimizer(config, steps)
    if config.precision == "mixed_float16":
        optimizer = optimizers.LossScaleOptimizer(optimizer)
    model: Any = create_dense(config, image_shape, classes)
    if config.is_preset and config.sparsity is None:
        model = _sparsified(config, model)
    elif config.method != "dense":
        model = _pruned(config, model)
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=config.label_smoothing
        ),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            keras.metrics.CategoricalCrossentropy(
                from_logits=True, name="cross_entropy"
            ),
        ],
        jit_compile=config.xla,
        steps_per_execution=config.steps_per_execution,
    )
    return model


def create_ramp(config: TrainConfig, steps: int) -> SparsityRamp | None:
    """The callback that leads a model to its target or rates; None if it needs none.

    Args:
        config: The configuration.
        steps: Steps of an epoch.
    """
    total = steps * config.epochs
    begin, end = (round(share * total) for share in config.ramp)
    if config.is_preset and config.sparsity is None:
        backward = config.backward or PRESETS[config.method].backward
        still = config.learns_thresholds and config.target is None
        if still and get_backward(backward).constant is not None:
            return None
        return SparsityRamp(begin, end, steps=total)
    frequency = max(1, total // RAMP_CHANGES)
    if config.method in ("gmp", "budget_gmp"):
        return SparsityRamp(begin, end, frequency)
    if config.method == "uniform_oneshot":
        return SparsityRamp((begin + end) // 2, (begin + end) // 2)
    return None
