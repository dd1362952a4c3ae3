"""`sparsify`: a model's kernels get thresholds, by preset or by three free choices."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import keras

from str_keras.internals import read_array
from str_keras.layers import GRANULARITIES
from str_keras.learned import NETWORK, SparseModel
from str_keras.leveled import LeveledModel
from str_keras.model import prepare
from str_keras.operators import Backward, Operator, get_backward
from str_keras.presets import (
    FEATHER_HALF,
    PRESETS,
    SOURCES,
    Preset,
    default_g,
    get_preset,
)
from str_keras.pruning import PrunedModel
from str_keras.registries import check_free
from str_keras.selection import Skip, select
from str_keras.targets import Target


def _choose(
    preset: str, target: Target | None, choices: dict[str, Any]
) -> dict[str, Any]:
    """The preset's choices, and the user's own in place of them."""
    chosen = dataclasses.asdict(get_preset(preset))
    sparsity = (target and target.sparsity) or 0.0
    if preset == "feather" and sparsity > FEATHER_HALF:
        chosen["backward"] = "scaled(0.5)"
    return chosen | {n: v for n, v in choices.items() if v is not None}


def find_source(threshold: str) -> tuple[str, float | None]:
    """Takes "scheduled(0.01)" apart: a name of `SOURCES`, and the final threshold.

    Raises:
        ValueError: if it is unknown, or the final threshold is no positive number.
    """
    found = re.fullmatch(r"(scheduled)\((.*)\)", threshold)
    name = found[1] if found else threshold
    if name not in SOURCES:
        raise ValueError(
            f"`threshold` is one of {', '.join(SOURCES)}. Received: {threshold=}"
        )
    if found is None:
        return name, None
    try:
        level = float(found[2])
    except ValueError:
        level = math.nan
    if not 0 < level < math.inf:
        raise ValueError(
            "The final threshold is a number above 0, as in scheduled(0.01). "
            f"Received: {threshold=}"
        )
    return name, level


def make_target(
    sparsity: float | None,
    macs: float | None,
    bytes: float | None,
    min_density: float,
    min_kept: int | None,
    mac_pressure: float,
    min_per_channel: float | None = None,
) -> Target | None:
    """The target of what a user gave; None if none.

    Raises:
        ValueError: if floors or pressure are given without a target, or as `Target`.
    """
    given: dict[str, float] = {
        "min_density": min_density,
        "mac_pressure": mac_pressure,
    }
    own = {"min_kept": min_kept, "min_per_channel": min_per_channel}
    given |= {name: value for name, value in own.items() if value is not None}
    if sparsity is macs is bytes is None:
        used = {name: value for name, value in given.items() if value}
        if used:
            raise ValueError(
                "Floors and pressure work on the way to a target: give "
                "target_sparsity, target_macs or target_bytes. "
                f"Received: {used}"
            )
        return None
    return Target(sparsity, macs, bytes, **given)  # type: ignore[arg-type]


def _warn_of_zeros(model: keras.Model, kernels: list[str]) -> None:
    """Warns of kernels that a masked gradient never moves."""
    zeros = [
        kernel.path
        for kernel in select(model)[0]
        if kernel.path in kernels and not read_array(kernel.variable).any()
    ]
    if zeros:
        warnings.warn(
            "All weights of these kernels are 0: no threshold keeps one of them, and "
            "pruned weights get no gradient, so they stay 0. Give them other initial "
            "values, leave them dense by `skip`, or choose "
            'backward="straight_through" (preset st3). '
            f"Received: {', '.join(zeros)}",
            RuntimeWarning,
            stacklevel=3,
        )


def sparsify(
    model: keras.Model,
    s_init: float | None = None,
    g: Any = None,
    granularity: str | None = None,
    skip: Iterable[Skip] | Skip = (),
    policy: str | None = None,
    *,
    preset: str = "str",
    operator: str | Operator | None = None,
    backward: str | Backward | None = None,
    threshold: str | None = None,
    target_sparsity: float | None = None,
    target_macs: float | None = None,
    target_bytes: float | None = None,
    min_density: float = 0.0,
    min_kept: int | None = None,
    mac_pressure: float = 0.0,
    min_per_channel: float | None = None,
) -> Any:
    """Returns a copy of a model whose kernels have thresholds.

    Without a target the thresholds are learned as published (Kusupati et al. 2020) and
    decay decides the sparsity. With one, `fit` leads the model along a ramp to exactly
    that number, see `SparsityRamp`. The weights are copied; the model given is not
    changed. Layers that cannot carry a threshold are passed through and listed, with
    the reason, by `stk.summary`.

    Args:
        model: A built Functional or Sequential model; nested ones are opened.
        s_init: Initial logit; None is the default of `g`. See `SoftThreshold`.
        g: "sigmoid", "exp", or what `stk.register_g` knows. None: "sigmoid", as the
            paper; with a target "exp", as no sigmoid prunes a weight of 1 or more (but
            "sigmoid" of autosparse, which diverges with "exp").
        granularity: "layer" (the paper), "filter", "weight", or "network": one
            threshold for all (the paper's global variant).
        skip: Layers to leave dense: names or paths, compiled regular expressions
            (searched in the path), types, or functions of a layer; one or several.
        policy: "latency" leaves all dense but what runs faster for its zeros in a net
            of the form for sparse kernels (`stk.sparse_ready_report` tells), "size"
            what takes no less of a file without them; see `str_keras.policies`. None:
            neither.
        preset: A published method: str, str_filter, str_global, st3, st3_sigma,
            feather, autosparse, lats, gmp or dnw; `str_keras.presets.describe` tells
            what each does. The next three change one choice.
        operator: "soft", "hard", "feather(3)", or of `stk.register_operator`.
        backward: "masked", "straight_through", "scaled(0.5)", "annealed(0.5)", or of
            `stk.register_backward`: what pruned weights get of the gradient.
        threshold: Of `SOURCES`: "learned", "quantile(layer)", "quantile(global)",
            "quantile(normalized)" or "scheduled".
        target_sparsity: Share of zeros over all kernels with thresholds, in (0, 1).
        target_macs: Multiply-adds of the whole model, or their share of the dense one's
            below 1.
        target_bytes: Bytes of the sparse float16 .tflite file.
        min_density: Share of weights that every kernel keeps, in [0, 1).
        min_kept: Number of weights that every kernel keeps; 1 unless told.
        min_per_channel: Number of weights a channel that every kernel keeps on the
            average, see `Target`: narrow layers stay alive. None: the preset's, 1 of
            str, str_filter, str_global, feather and autosparse, 0 of the others.
        mac_pressure: Exponent of a layer's MACs per weight in its threshold, 0 or more:
            MACs fall further at equal sparsity; see `Target`.

    Returns:
        A `SparseModel` (learned), `LeveledModel` (global) or `PrunedModel` (by layer),
        not compiled.

    Warns:
        RuntimeWarning: if all weights of a kernel are 0, and would stay so.

    Raises:
        TypeError: if `model` is no model, or a rule of `skip` of no known kind.
        ValueError: if the model is not built, subclassed, has thresholds already or no
            kernel at all, an argument is unknown or does not go with another, or the
            target is out of reach.
    """
    is_led = any(t is not None for t in (target_sparsity, target_macs, target_bytes))
    if is_led and min_per_channel is None:
        min_per_channel = get_preset(preset).min_per_channel
    target = make_target(
        target_sparsity,
        target_macs,
        target_bytes,
        min_density,
        min_kept,
        mac_pressure,
        min_per_channel,
    )
    chosen = _choose(
        preset,
        target,
        {
            "operator": operator,
            "backward": backward,
            "threshold": threshold,
            "granularity": granularity,
            "s_init": s_init,
        },
    )
    if chosen["granularity"] not in (*GRANULARITIES, NETWORK):
        raise ValueError(
            f"`granularity` is one of {(*GRANULARITIES, NETWORK)}. "
            f"Received: granularity={chosen['granularity']!r}"
        )
    source, level = find_source(chosen["threshold"])
    learned = source == "learned"
    if not learned and (s_init is not None or granularity is not None):
        raise ValueError(
            "s_init and granularity are of learned thresholds: leave them out. "
            f"Received: threshold={chosen['threshold']!r}, {s_init=}, {granularity=}"
        )
    if not learned and target is None and level is None:
        raise ValueError(
            "These thresholds want a target: give target_sparsity, target_macs or "
            f"target_bytes. Received: {preset=}, threshold={chosen['threshold']!r}"
        )
    if not learned and g is not None:
        raise ValueError(
            "g is of learned thresholds: leave it out. "
            f"Received: threshold={chosen['threshold']!r}, {g=}"
        )
    if g is None:
        g = default_g(preset, target is not None)
    if chosen["rescale"] and source in ("learned", "quantile(layer)"):
        raise ValueError(
            "This preset scales its filters by what one level leaves of them: name "
            "another, such as feather, for thresholds of this kind. "
            f"Received: {preset=}, threshold={chosen['threshold']!r}"
        )
    copy, kernels, passed = prepare(model, skip, policy)
    if get_backward(chosen["backward"]).constant == 0:
        _warn_of_zeros(copy, kernels)
    common = {
        "operator": chosen["operator"],
        "backward": chosen["backward"],
        "target": target,
        "ramp": chosen["ramp"],
        "passed_through": passed,
    }
    own = {name: chosen[name] for name in ("s_init", "granularity", "rescale")}
    return _CREATE[source](copy, kernels, common, {**own, "g": g, "level": level})


def _learned(copy: Any, kernels: Any, common: Any, own: Any) -> SparseModel:
    names = ("s_init", "g", "granularity")
    return SparseModel(copy, kernels, *(own[name] for name in names), **common)


def _by_layer(copy: Any, kernels: Any, common: Any, own: Any) -> PrunedModel:
    return PrunedModel(copy, kernels, None, **common)


def _leveled(copy: Any, kernels: Any, common: Any, own: Any, **kind: str) -> Any:
    shared = {name: own[name] for name in ("level", "rescale")}
    return LeveledModel(copy, kernels, **kind, **shared, **common)


_CREATE: dict[str, Callable[..., Any]] = {
    "learned": _learned,
    "quantile(layer)": _by_layer,
    "quantile(global)": _leveled,
    "quantile(normalized)": functools.partial(_leveled, scope="normalized"),
    "scheduled": functools.partial(_leveled, course="lats"),
}


def register_threshold(name: str, create: Callable[..., Any], help: str) -> None:
    """Makes a source of thresholds known as `threshold=name` of `sparsify`.

    Args:
        name: Of `SOURCES` from now on. Models are saved by their class: register that
            with Keras.
        create: `create(model, kernels, common, own)`: from a copy of the model, the
            paths of its kernels, a dictionary of arguments of every
            `sources.ThresholdModel` (operator, backward, target, ramp, passed_through)
            and one of what the source may read (s_init, g, granularity, rescale,
            level), to such a model.
        help: One line: what the thresholds are.

    Raises:
        ValueError: if a function that is defined elsewhere has the name.
    """
    check_free(name, _CREATE.get(name), create)
    _CREATE[name], SOURCES[name] = create, help


__all__ = [
    "PRESETS",
    "SOURCES",
    "Preset",
    "find_source",
    "make_target",
    "sparsify",
]
