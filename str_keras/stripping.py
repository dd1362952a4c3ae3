"""From thresholded to plain: `strip`, and the transfer of weights between both."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from str_keras import internals
from str_keras.folding import fold_like, learned_cells
from str_keras.layers import SoftThreshold, ThresholdedKernel
from str_keras.model import (
    SubstitutedModel,
    check_built,
    clone,
    find_thresholded,
    finish_copy,
)
from str_keras.thresholds import (
    LED,
    THRESHOLD_LOGIT,
    is_threshold_logit,
    is_threshold_state,
)


def _plain_layer(layer: keras.Layer) -> keras.Layer:
    """A new layer of the same configuration without thresholds, not built."""
    if isinstance(layer, SubstitutedModel):
        return clone(layer.model)
    if isinstance(layer, keras.Model) and internals.functional_graph(layer) is not None:
        return clone(layer, _plain_layer)
    config = layer.get_config()
    if isinstance(layer, SoftThreshold):
        inner = layer.layer
        return type(inner).from_config({**inner.get_config(), "name": layer.name})
    if isinstance(layer, keras.layers.Wrapper):
        inner = _plain_layer(layer.layer)
        config["layer"] = keras.saving.serialize_keras_object(inner)
    return type(layer).from_config(config)


def strip(model: keras.Model) -> keras.Model:
    """Returns a plain Keras model with zeros in its kernels in place of thresholds.

    It needs no str_keras to load, and gives the same outputs bit for bit (same
    backend, mode and batch). The model given is not changed. Learned ranks of
    `FastGRNNCell`s are folded, see `fold_rank`: there outputs are equal but for
    rounding, and the cell, which is ours, stays.

    Args:
        model: A `SparseModel` or `PrunedModel`, a Functional or Sequential model with
            `SoftThreshold` layers, or a plain one (copied as it is).

    Returns:
        A model of plain layers, not compiled.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if it is not built, or subclassed, or a custom layer inside holds
            thresholds.
    """
    check_built(model)
    if isinstance(model, SubstitutedModel):
        plain = clone(model.model)
    else:
        plain = clone(model, _plain_layer)
    own = {id(v) for cell in learned_cells(plain) for v in cell.weights}
    logits = [v for v in plain.weights if is_threshold_logit(v)]
    left = [v.path for v in logits if id(v) not in own]
    if left:
        raise ValueError(
            "Thresholds inside of a custom layer or subclassed model cannot be taken "
            f"out: give it its SoftThreshold layers from outside. Received: {left}"
        )
    copy_weights(model, plain)
    return fold_like(plain, model)


def _effective_weights(model: keras.Model) -> list[tuple[keras.Variable, Any]]:
    """Each weight but the thresholds' own, with its value as the layers read it."""
    sparse = {id(t.kernel.variable): t for t in find_thresholded(model)}
    return [
        (v, sparse[id(v)].sparse() if id(v) in sparse else v)
        for v in model.weights
        if not is_threshold_state(v)
    ]


def _states(
    model: keras.Model,
) -> tuple[list[keras.Variable], list[keras.Variable]]:
    """What decides the thresholds of kernels, in their order, and what of ranks.

    Each kind in its own order: a SoftThreshold's logit precedes its kernel, a
    SparseModel's follow all weights.
    """
    items = [t for t in find_thresholded(model) if isinstance(t, ThresholdedKernel)]
    logits = {id(item.logit): item.logit for item in items}
    led = [v for v in model.weights if v.name in LED]
    known = {*logits, *map(id, led)}
    ranks = [v for v in model.weights if is_threshold_state(v) and id(v) not in known]
    return [*logits.values(), *led], ranks


def _kind(state: keras.Variable) -> str:
    return THRESHOLD_LOGIT if is_threshold_logit(state) else state.name


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies weights between plain and thresholded forms of one architecture.

    From thresholded to plain the sparse kernels are written; from plain to thresholded
    the raw kernels are set and the logits stay (a checkpoint of a dense model: load it
    into the plain model, then copy); between two thresholded models of one kind
    everything is copied.

    Args:
        source: Model to read.
        target: Model to write, of the same layers in the same order.

    Raises:
        ValueError: if numbers or shapes of the weights differ, or the sources of the
            thresholds; nothing is written then.
    """
    targets = [v for v in target.weights if not is_threshold_state(v)]
    (state, ranks), (target_state, target_ranks) = _states(source), _states(target)
    if state and target_state:
        kinds = [sorted({_kind(v) for v in led}) for led in (state, target_state)]
        learned = {THRESHOLD_LOGIT}
        if all(learned <= set(kind) for kind in kinds) and kinds[0] != kinds[1]:
            # One is led to a target, the other is not: s goes with both.
            state, target_state = (
                [v for v in led if is_threshold_logit(v)]
                for led in (state, target_state)
            )
        elif kinds[0] != kinds[1]:
            raise ValueError(
                "The thresholds of the models come from different sources: strip one "
                f"of them first. Received: source={kinds[0]}, target={kinds[1]}"
            )
        raw = [v for v in source.weights if not is_threshold_state(v)]
        values = [(v, v) for v in raw + state]
        targets += target_state
    else:
        values = _effective_weights(source)
    values += [(v, v) for v in ranks]
    targets += target_ranks
    if len(values) != len(targets):
        raise ValueError(
            "The models have different numbers of weights. Received: "
            f"source={len(values)}, target={len(targets)}"
        )
    for (variable, _), other in zip(values, targets, strict=True):
        if tuple(variable.shape) != tuple(other.shape):
            raise ValueError(
                f"Weights differ in shape. Received: source {variable.path} "
                f"{tuple(variable.shape)}, target {other.path} {tuple(other.shape)}"
            )
    for (_, value), other in zip(values, targets, strict=True):
        # A copy of its own: on JAX the two would share a buffer, and a step of one
        # model, which donates it, would delete the other's weight.
        other.assign(np.array(ops.convert_to_numpy(value)))
    finish_copy(target)
