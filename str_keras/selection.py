"""Which layers of a model get thresholds, and why others are passed through."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import keras
from keras import layers

from str_keras.internals import functional_graph
from str_keras.kernels import (
    Kernel,
    find_kernels,
    find_matrices,
    inner_layers,
    is_recurrent,
    kernel_axes,
    no_kernel,
    readers,
)
from str_keras.policies import check_policy, why_dense

Skip: TypeAlias = (
    str | re.Pattern[str] | type[keras.Layer] | Callable[[keras.Layer], bool]
)


_FROZEN = "frozen (trainable=False)"


@dataclass(frozen=True)
class PassedThrough:
    """A layer with weight matrices that carries no threshold, and the reason."""

    path: str
    layer: keras.Layer
    reason: str


def walk(model: keras.Layer, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Yields each layer below a model once with its path.

    Nested Functional and Sequential models are opened; subclassed ones and custom
    layers are given as they are, see `walk_inside`.
    """
    seen: set[int] = set()

    def visit(parent: keras.Layer, prefix: str) -> Iterator[tuple[str, keras.Layer]]:
        for layer in getattr(parent, "layers", []):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path = f"{prefix}{layer.name}"
            if isinstance(layer, keras.Model) and functional_graph(layer) is not None:
                yield from visit(layer, f"{path}/")
            else:
                yield path, layer

    yield from visit(model, prefix)


def walk_inside(model: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Yields what `walk` does, subclassed models and custom layers opened.

    Their layers have the names of the attributes for theirs, as in
    "block/attention/query"; each comes after the layers that it holds. A model that is
    distributed over time is opened, too.
    """
    seen: set[int] = set()

    def visit(path: str, layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        if isinstance(layer, keras.Model) and functional_graph(layer) is not None:
            for full, inner in walk(layer, f"{path}/"):
                yield from visit(full, inner)
        elif isinstance(layer, layers.TimeDistributed) and _opens(layer.layer):
            yield from visit(path, layer.layer)
        else:
            for name, inner in inner_layers(layer):
                yield from visit(f"{path}/{name}", inner)
            yield path, layer

    for path, layer in walk(model):
        yield from visit(path, layer)


def _opens(layer: keras.Layer) -> bool:
    graph = isinstance(layer, keras.Model) and functional_graph(layer) is not None
    return graph or bool(inner_layers(layer))


def prefixes(path: str) -> list[str]:
    """Returns the path and those of what it stands in, the longest first."""
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]


def matches(rule: Skip, path: str, layer: keras.Layer) -> bool:
    """Whether a rule of `skip` is of this layer."""
    if isinstance(rule, str):
        return rule in (layer.name, path) or path.startswith(f"{rule}/")
    if isinstance(rule, re.Pattern):
        return rule.search(path) is not None
    if isinstance(rule, type):
        return isinstance(layer, rule)
    return bool(rule(layer))


def check_rules(rules: Sequence[Skip], found: list[tuple[str, keras.Layer]]) -> None:
    """Raises for a rule of `skip` of no known kind, or a name that no layer has."""
    names = {layer.name for _, layer in found}
    for path, _ in found:  # "a/b/c": also the nested models "a" and "a/b"
        names |= set(prefixes(path))
    for rule in rules:
        if not isinstance(rule, str | re.Pattern | type) and not callable(rule):
            raise TypeError(
                "Each item of `skip` is a layer's name or path, a compiled regular "
                "expression, a layer type or a function of a layer. "
                f"Received: {rule!r}"
            )
        if isinstance(rule, str) and rule not in names:
            near = difflib.get_close_matches(rule, sorted(names), 3, 0.4)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(
                f"No layer has this name or path{hint}. Received: skip={rule!r}"
            )


def _reason(layer: keras.Layer) -> str | None:
    """Why a layer cannot carry thresholds, or None if it can."""
    inside = readers(layer)
    if any(getattr(r, "quantization_mode", None) is not None for r in inside):
        return "quantized: sparsify first, quantize the stripped model"
    if any(getattr(r, "lora_enabled", False) for r in inside):
        return "LoRA is enabled: merge it first"
    if reason := no_kernel(layer):
        return reason
    if not layer.trainable:
        return _FROZEN
    if kernel_axes(layer):
        return None
    if isinstance(layer, keras.Model):
        return "weights of a subclassed model's own: give them to layers inside it"
    if isinstance(layer, layers.Wrapper):
        return "a wrapper: put SoftThreshold around the layer inside it"
    if is_recurrent(layer):
        return "a recurrent layer of unknown cells: wrap by hand with `kernels=`"
    return "unknown layer type: wrap by hand with `kernels=`"


def _reason_of(kernel: Kernel, policy: str | None) -> str:
    """Why one kernel of a layer that can carry thresholds gets none; else ""."""
    return _why_dense(policy, kernel) if kernel.variable.trainable else _FROZEN


def select(
    model: keras.Model, skip: Iterable[Skip] | Skip = (), policy: str | None = None
) -> tuple[list[Kernel], list[PassedThrough]]:
    """Splits the layers with kernels: those to get thresholds, those passed through.

    Args:
        model: A built Functional or Sequential model, nested ones opened, and
            subclassed ones and custom layers inside it.
        skip: Layers to pass through: names or paths, compiled regular expressions
            (searched in the path), types, or functions of a layer; one or several.
        policy: What else to pass through: of `policies.POLICIES`.

    Returns:
        The kernels in order of the model, and the layers passed through; a kernel that
        the policy leaves dense stands among those by its own path. Layers without a
        weight of two or more axes (batch normalization, pooling) are in neither.

    Raises:
        TypeError: if a rule is of no such kind.
        ValueError: if a name is of no layer (near ones are named), or the policy not
            known.
    """
    check_policy(policy)
    single = isinstance(skip, str | re.Pattern | type) or callable(skip)
    rules: list[Skip] = [skip] if single else list(skip)  # type: ignore[arg-type]
    found = list(walk_inside(model))
    check_rules(rules, found)
    kernels: list[Kernel] = []
    passed: list[PassedThrough] = []
    skipped = {p for p, layer in found if any(matches(r, p, layer) for r in rules)}
    for path, layer in found:
        if not any(True for _ in find_matrices(layer, path, own=True)):
            continue
        if not skipped.isdisjoint(prefixes(path)):
            passed.append(PassedThrough(path, layer, "skipped by the caller"))
        elif reason := _reason(layer):
            passed.append(PassedThrough(path, layer, reason))
        else:
            for kernel in find_kernels(layer, path):
                if reason := _reason_of(kernel, policy):
                    passed.append(PassedThrough(kernel.path, layer, reason))
                else:
                    kernels.append(kernel)
    return kernels, passed


def nothing_left(
    model: keras.Model, passed: Sequence[PassedThrough], verb: str
) -> ValueError:
    """The error for a model of which `select` took no kernel, with the reasons."""
    reasons = "; ".join(f"{item.path}: {item.reason}" for item in passed[:5])
    return ValueError(
        f"No kernel is left to {verb} ({reasons or 'the model has none'}). "
        f"Received: model={model.name}"
    )


def _why_dense(policy: str | None, kernel: Kernel) -> str:
    """Why the policy leaves a kernel dense; empty if it does not."""
    name, shape = kernel.variable.name, tuple(kernel.variable.shape)
    return why_dense(policy, kernel.layer, name, shape, kernel.filter_axes)
