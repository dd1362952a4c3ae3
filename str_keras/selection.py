"""Which variables of which layers are kernels, and why others are passed through."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import keras
from keras import layers

from str_keras.internals import functional_graph
from str_keras.policies import check_policy, why_dense
from str_keras.recurrent import FastGRNNCell
from str_keras.thresholds import is_threshold_logit

Skip: TypeAlias = (
    str | re.Pattern[str] | type[keras.Layer] | Callable[[keras.Layer], bool]
)

_LAST, _BEFORE_LAST, _LAST_TWO = (-1,), (-2,), (-2, -1)

# Layer types, and of each kernel its name and the axes that count output filters.
_KERNELS: list[tuple[tuple[type, ...], dict[str, tuple[int, ...]]]] = [
    (
        (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
        {"kernel": _BEFORE_LAST},
    ),
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), {"kernel": _LAST_TWO}),
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        {"depthwise_kernel": _LAST_TWO, "pointwise_kernel": _LAST},
    ),
    (
        (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
        {"kernel": _LAST},
    ),
]
# Cells of recurrent layers; all columns of their kernels count output filters (those of
# a gate are filters too).
_CELLS: list[tuple[type, tuple[str, ...]]] = [
    (layers.SimpleRNNCell, ("kernel", "recurrent_kernel")),
    (layers.LSTMCell, ("kernel", "recurrent_kernel")),
    (layers.GRUCell, ("kernel", "recurrent_kernel")),
    (
        FastGRNNCell,
        (
            *("kernel", "kernel_1", "kernel_2"),
            *("recurrent_kernel", "recurrent_kernel_1", "recurrent_kernel_2"),
        ),
    ),
]
_LATER = (layers.MultiHeadAttention, layers.Embedding)


@dataclass(frozen=True)
class Kernel:
    """A kernel variable, its layer, and where both stand.

    Args:
        path: Names from the model down, such as "encoder/conv1/kernel".
        layer: The layer that reads it.
        variable: The trained (raw) kernel.
        filter_axes: Axes of the kernel that count output filters.
    """

    path: str
    layer: keras.Layer
    variable: keras.Variable
    filter_axes: tuple[int, ...]


@dataclass(frozen=True)
class PassedThrough:
    """A layer with weight matrices that carries no threshold, and the reason."""

    path: str
    layer: keras.Layer
    reason: str


def _einsum_filter_axes(layer: layers.EinsumDense) -> tuple[int, ...]:
    """Axes of the kernel whose labels stand in the output: those not summed over."""
    operands, output = layer.equation.replace(" ", "").split("->")
    labels = operands.split(",")[1]
    return tuple(
        i - len(labels) for i, label in enumerate(labels) if label in output
    ) or (-1,)


def _parts(layer: keras.Layer) -> list[tuple[str, keras.Layer]]:
    """The layers inside of a recurrent one that hold weights, each with its name.

    The names of their own are of no use: Keras numbers them, and both directions may
    have cells of one name.
    """
    if isinstance(layer, layers.Bidirectional):
        return [("forward", layer.forward_layer), ("backward", layer.backward_layer)]
    if isinstance(layer, layers.RNN):
        return [("", layer.cell)]
    if isinstance(layer, layers.StackedRNNCells):
        return [(f"cell_{i}", cell) for i, cell in enumerate(layer.cells)]
    return []


def is_recurrent(layer: keras.Layer) -> bool:
    """Whether each kernel of the layer is used once a time step of its input."""
    return isinstance(layer, layers.RNN | layers.Bidirectional)


def kernel_axes(layer: keras.Layer) -> dict[str, tuple[int, ...]]:
    """Names of a layer's kernels with their filter axes; empty if its type is unknown.

    Args:
        layer: Any layer, built or not. A recurrent one is known if all its cells are.
    """
    if parts := _parts(layer):
        inside = [kernel_axes(part) for _, part in parts]
        merged = {name: axes for found in inside for name, axes in found.items()}
        return merged if all(inside) else {}
    for cell, names in _CELLS:
        if isinstance(layer, cell):
            return dict.fromkeys(names, _LAST)
    if isinstance(layer, layers.EinsumDense):
        return {"kernel": _einsum_filter_axes(layer)}
    for types, kernels in _KERNELS:
        if isinstance(layer, types):
            return kernels
    return {}


def is_matrix(variable: keras.Variable) -> bool:
    """Whether a weight is counted as a kernel: two axes or more, and no bias.

    The bias of a GRU has two axes; so have the logits of thresholds per filter.
    """
    return (
        len(variable.shape) > 1
        and variable.name != "bias"
        and not is_threshold_logit(variable)
    )


def find_matrices(
    layer: keras.Layer, path: str
) -> Iterator[tuple[str, keras.Layer, keras.Variable]]:
    """Yields the weights of a built layer that are counted as kernels.

    Args:
        layer: A built layer.
        path: The layer's path.

    Yields:
        Path, layer and variable, in order of the layer's weights. Paths are unique:
        those of the two directions of a Bidirectional are "path/forward/kernel" and
        "path/backward/kernel", of stacked cells "path/cell_0/kernel" and so on;
        otherwise a name that occurs again gets a number.
    """
    parts = _parts(layer)
    for name, part in parts:
        inner = f"{path}/{name}" if name else path
        for full, reader, variable in find_matrices(part, inner):
            # A cell is no layer that is called on the whole sequence.
            yield full, reader if is_recurrent(reader) else layer, variable
    numbers: dict[str, int] = {}
    for variable in [] if parts else layer.weights:
        if is_matrix(variable):
            number = numbers.get(variable.name, 0)
            numbers[variable.name] = number + 1
            suffix = f"_{number}" if number else ""
            yield f"{path}/{variable.name}{suffix}", layer, variable


def find_kernels(
    layer: keras.Layer, path: str, names: Sequence[str] | None = None
) -> list[Kernel]:
    """Returns the kernels of one built layer.

    Args:
        layer: A built layer.
        path: The layer's path, a prefix of the kernels'.
        names: Names of the variables that are kernels, for a layer whose type is not
            in our table; looked up in its sublayers too. Their last axis counts
            output filters.

    Raises:
        ValueError: if a name is of no variable of two or more axes.
    """
    axes = {n: _LAST for n in names} if names is not None else kernel_axes(layer)
    found = [
        Kernel(full, reader, variable, axes[variable.name])
        for full, reader, variable in find_matrices(layer, path)
        if variable.name in axes
    ]
    if names is not None and set(names) - {kernel.variable.name for kernel in found}:
        raise ValueError(
            f"The layer {layer.name!r} has no kernel of this name, only "
            f"{[v.name for v in layer.weights]}. Received: kernels={list(names)}"
        )
    return found


def walk(model: keras.Layer, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Yields each layer below a model once with its path.

    Nested Functional and Sequential models are opened; subclassed ones are given as
    they are: a copy of them would name the layers inside anew.
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
        parts = path.split("/")
        names |= {"/".join(parts[: i + 1]) for i in range(len(parts))}
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
    if getattr(layer, "quantization_mode", None) is not None:
        return "quantized: sparsify first, quantize the stripped model"
    if getattr(layer, "lora_enabled", False):
        return "LoRA is enabled: merge it first"
    if not layer.trainable:
        return "frozen (trainable=False)"
    if isinstance(layer, keras.Model):
        return "a subclassed model: place SoftThreshold around its layers"
    if isinstance(layer, _LATER):
        return "attention and embedding layers: wrap by hand with `kernels=`"
    if kernel_axes(layer):
        return None
    if isinstance(layer, layers.Wrapper):
        return "a wrapper: put SoftThreshold around the layer inside it"
    if is_recurrent(layer):
        return "a recurrent layer of unknown cells: wrap by hand with `kernels=`"
    return "unknown layer type: wrap by hand with `kernels=`"


def select(
    model: keras.Model, skip: Iterable[Skip] | Skip = (), policy: str | None = None
) -> tuple[list[Kernel], list[PassedThrough]]:
    """Splits the layers with kernels: those to get thresholds, those passed through.

    Args:
        model: A built Functional or Sequential model, nested ones opened.
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
    found = list(walk(model))
    check_rules(rules, found)
    kernels: list[Kernel] = []
    passed: list[PassedThrough] = []
    for path, layer in found:
        if not any(is_matrix(v) for v in layer.weights):
            continue
        if any(matches(rule, path, layer) for rule in rules):
            passed.append(PassedThrough(path, layer, "skipped by the caller"))
        elif reason := _reason(layer):
            passed.append(PassedThrough(path, layer, reason))
        else:
            for kernel in find_kernels(layer, path):
                reason = _why_dense(policy, kernel)
                if reason:
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
