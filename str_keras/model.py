"""Whole models: `SparseModel`, `sparsify`, `strip` and the transfer of weights."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from str_keras import internals
from str_keras.layers import (
    GRANULARITIES,
    SoftThreshold,
    ThresholdedKernel,
    add_logit,
    call_substituted,
    check_s_init,
    logit_shape,
)
from str_keras.selection import Kernel, PassedThrough, Skip, find_kernels, select, walk
from str_keras.substitution import Substitution
from str_keras.thresholds import THRESHOLD_LOGIT, get_g, is_threshold_logit

NETWORK = "network"


def _guard(kernels: list[Kernel]) -> None:
    """Makes the layers of `kernels` refuse a call that would read a raw kernel.

    Such a call comes from outside of the `SparseModel`: an inner layer by hand, or a
    sub-model built from its `.output`. It would silently give dense results.
    """
    for kernel in kernels:
        call, variable = kernel.layer.call, kernel.variable

        @functools.wraps(call)
        def guarded(
            *args: Any, call: Any = call, variable: Any = variable, **kwargs: Any
        ) -> Any:
            scope = internals.current_scope()
            if scope is None or scope.get_current_value(variable) is None:
                raise RuntimeError(
                    "This layer is part of a SparseModel and would read its raw, dense "
                    "kernel here: call the whole model, take features from "
                    "`stk.strip(model)`, or give them as outputs of the model before "
                    f"`stk.sparsify`. Received: kernel={variable.path}"
                )
            return call(*args, **kwargs)

        kernel.layer.__dict__["call"] = guarded


@keras.saving.register_keras_serializable("str_keras")
class SparseModel(keras.Model):
    """A built model that is called with soft-thresholded kernels; made by `sparsify`.

    Each threshold is computed once a call, however often its layer is used. `layers`,
    `get_layer`, `inputs` and `outputs` are those of the model inside; its layers work
    only as part of the whole (a direct call raises, as it would read a raw kernel).

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels that get a threshold, as of `selection.select`.
        s_init: Initial logit.
        g: Name of the threshold function.
        granularity: "layer", "filter", "weight", or "network": one logit for all.
        passed_through: Pairs of path and reason, for the report.

    Call arguments:
        inputs, training, mask: As of the model inside.

    Returns:
        What the model inside returns.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: list[str],
        s_init: float | None = None,
        g: Any = "sigmoid",
        granularity: str = "layer",
        passed_through: Iterable[tuple[str, str]] = (),
        **kwargs: Any,
    ):
        kwargs.setdefault("name", model.name)
        kwargs.setdefault("dtype", model.dtype_policy)
        # The layers inside cast for themselves, as in a plain functional model.
        super().__init__(autocast=False, **kwargs)
        self.model = model
        self.g = get_g(g)
        self.s_init = check_s_init(s_init, self.g)
        self.granularity = granularity
        # Through __dict__: Keras would track and wrap the lists.
        self.__dict__["passed_through"] = [
            (path, reason) for path, reason in passed_through
        ]
        self.__dict__["kernel_paths"] = list(kernels)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Adds the logits; the model inside is built already."""
        found = {
            kernel.path: kernel
            for path, layer in walk(self.model)
            for kernel in find_kernels(layer, path)
        }
        missing = [path for path in self.kernel_paths if path not in found]
        if missing:
            raise ValueError(f"The model has no such kernels. Received: {missing}")
        kernels = [found[path] for path in self.kernel_paths]
        if self.granularity == NETWORK:
            dtype = max(kernel.variable.dtype for kernel in kernels)  # float64 wins
            shared = add_logit(self, THRESHOLD_LOGIT, (), self.s_init, dtype)
            logits = [shared] * len(kernels)
        else:
            logits = [self._add_logit(kernel) for kernel in kernels]
        self.__dict__["thresholded"] = [
            ThresholdedKernel(kernel, logit, self.g)
            for kernel, logit in zip(kernels, logits, strict=True)
        ]
        _guard(kernels)

    def _add_logit(self, kernel: Kernel) -> keras.Variable:
        return add_logit(
            self,
            f"{THRESHOLD_LOGIT}_{kernel.path.replace('/', '_')}",
            logit_shape(kernel, self.granularity),
            self.s_init,
            kernel.variable.dtype,
        )

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Calls the model inside with its sparse kernels."""
        if any(
            getattr(item.kernel.layer, "quantization_mode", None)
            for item in self.thresholded
        ):
            raise ValueError(
                "Quantized layers read their raw kernels: strip first, then quantize. "
                f"Received: model={self.name}"
            )
        arguments = {"training": training, "mask": mask}
        return call_substituted(
            self, self.model, self.thresholded, (inputs,), arguments
        )

    def compute_output_spec(self, inputs: Any, **kwargs: Any) -> Any:
        """That of the model inside."""
        with asked_for_shapes(self):
            return self.model.compute_output_spec(inputs, **kwargs)

    @property
    def layers(self) -> list[keras.Layer]:  # type: ignore[override]  # no setter
        """Layers of the model inside."""
        return self.model.layers

    @property
    def inputs(self) -> Any:
        """Symbolic inputs of the model inside."""
        return self.model.inputs

    @property
    def outputs(self) -> Any:
        """Symbolic outputs of the model inside."""
        return self.model.outputs

    @property
    def input_shape(self) -> Any:
        """Input shape of the model inside."""
        return self.model.input_shape

    @property
    def output_shape(self) -> Any:
        """Output shape of the model inside."""
        return self.model.output_shape

    @property
    def output_names(self) -> Any:
        """Names of the outputs, as losses and metrics are keyed by them."""
        return getattr(self.model, "output_names", None)

    def get_build_config(self) -> None:
        """None: the constructor builds."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the model inside serialized."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "model": keras.saving.serialize_keras_object(self.model),
            "kernels": self.kernel_paths,
            "s_init": self.s_init,
            "g": self.g.name,
            "granularity": self.granularity,
            "passed_through": [list(pair) for pair in self.passed_through],
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> SparseModel:
        """Rebuilds the model from `get_config`."""
        config = dict(config)
        model = keras.saving.deserialize_keras_object(
            config.pop("model"), custom_objects=custom_objects
        )
        trainable = config.pop("trainable", True)
        sparse = cls(model, **config)
        sparse.trainable = trainable
        return sparse


def find_thresholded(model: keras.Layer) -> Iterator[ThresholdedKernel]:
    """Yields every kernel that has a threshold, however it came into the model.

    Args:
        model: A `SparseModel`, a model with `SoftThreshold` layers, also in nested
            models, wrappers and custom layers, or a plain one (yields nothing).
    """
    if isinstance(model, SparseModel | SoftThreshold):
        yield from model.thresholded
    else:
        for layer in internals.sublayers(model):
            yield from find_thresholded(layer)


def asked_for_shapes(model: keras.Layer) -> Substitution:
    """A scope in which the layers of a `SparseModel` may be asked for output shapes."""
    kernels = [item.kernel.variable for item in find_thresholded(model)]
    return Substitution([(kernel, kernel.value) for kernel in kernels])


def _submodels(model: keras.Model) -> Iterator[keras.Model]:
    yield model
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _submodels(layer)


def _clone(model: keras.Model, clone_function: Any = None) -> keras.Model:
    """A new model of the same configuration, new weights, and not compiled.

    `clone_model` compiles the clone as the model was: the file of a stripped model
    would name our optimizer, and a lambda as loss makes it fail.
    """
    compiled = [m for m in _submodels(model) if m.compiled]
    try:
        for submodel in compiled:
            submodel.compiled = False
        return keras.models.clone_model(
            model, clone_function=clone_function, recursive=clone_function is not None
        )
    finally:
        for submodel in compiled:
            submodel.compiled = True


def _check_built(model: keras.Model) -> None:
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"A keras.Model is wanted. Received: model={type(model).__name__}"
        )
    if not model.built or internals.functional_graph(model) is None:
        raise ValueError(
            "A built Functional or Sequential model is wanted: give it a keras.Input, "
            "or call it once; in a subclassed model place SoftThreshold around its "
            f"layers. Received: model={model.name} ({type(model).__name__}, "
            f"built={model.built})"
        )


def sparsify(
    model: keras.Model,
    s_init: float | None = None,
    g: Any = "sigmoid",
    granularity: str = "layer",
    skip: Iterable[Skip] | Skip = (),
) -> SparseModel:
    """Returns a copy of a model whose kernels have learnable soft thresholds.

    The weights are copied; the model given is not changed. Layers that cannot carry a
    threshold are passed through and listed, with the reason, by `stk.summary`.

    Args:
        model: A built Functional or Sequential model; nested ones are opened.
        s_init: Initial logit; None is the default of `g`. See `SoftThreshold`.
        g: "sigmoid", "exp", or what `stk.register_g` knows.
        granularity: "layer" (the paper), "filter", "weight", or "network": one
            threshold for all (the paper's global variant).
        skip: Layers to leave dense: names or paths, compiled regular expressions
            (searched in the path), types, or functions of a layer; one or several.

    Returns:
        A `SparseModel`, not compiled.

    Raises:
        TypeError: if `model` is no model, or a rule of `skip` of no known kind.
        ValueError: if the model is not built, subclassed, has thresholds already or
            no kernel at all, or an argument is unknown.
    """
    _check_built(model)
    if granularity not in (*GRANULARITIES, NETWORK):
        raise ValueError(
            f"`granularity` is one of {(*GRANULARITIES, NETWORK)}. "
            f"Received: {granularity=}"
        )
    if any(True for _ in find_thresholded(model)):
        raise ValueError(
            "The model has thresholds already: strip it first. "
            f"Received: model={model.name}"
        )
    kernels, passed = select(model, skip)
    if not kernels:
        reasons = "; ".join(f"{item.path}: {item.reason}" for item in passed[:5])
        raise ValueError(
            f"No kernel is left to sparsify ({reasons or 'the model has none'}). "
            f"Received: model={model.name}"
        )
    copy = _clone(model)
    if len(copy.weights) != len(model.weights):
        raise ValueError(
            "A layer stands both inside and outside of a nested model, which a copy "
            "cannot keep: build the model without nesting. "
            f"Received: model={model.name}"
        )
    copy.set_weights(model.get_weights())
    return SparseModel(
        copy,
        [kernel.path for kernel in kernels],
        s_init=s_init,
        g=g,
        granularity=granularity,
        passed_through=[(item.path, item.reason) for item in passed],
    )


def _plain_layer(layer: keras.Layer) -> keras.Layer:
    """A new layer of the same configuration without thresholds, not built."""
    if isinstance(layer, SparseModel):
        return _clone(layer.model)
    if isinstance(layer, keras.Model) and internals.functional_graph(layer) is not None:
        return _clone(layer, _plain_layer)
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
    backend, mode and batch). The model given is not changed.

    Args:
        model: A `SparseModel`, a Functional or Sequential model with `SoftThreshold`
            layers, or a plain one (copied as it is).

    Returns:
        A model of plain layers, not compiled.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if it is not built, or subclassed, or a custom layer inside holds
            thresholds.
    """
    _check_built(model)
    if isinstance(model, SparseModel):
        plain = _clone(model.model)
    else:
        plain = _clone(model, _plain_layer)
    left = [v.path for v in plain.weights if is_threshold_logit(v)]
    if left:
        raise ValueError(
            "Thresholds inside of a custom layer or subclassed model cannot be taken "
            f"out: give it its SoftThreshold layers from outside. Received: {left}"
        )
    copy_weights(model, plain)
    return plain


def _effective_weights(model: keras.Model) -> list[tuple[keras.Variable, Any]]:
    """Each weight but the logits, with its value as the layers read it."""
    sparse = {id(t.kernel.variable): t for t in find_thresholded(model)}
    return [
        (v, sparse[id(v)].sparse() if id(v) in sparse else v)
        for v in model.weights
        if not is_threshold_logit(v)
    ]


def _logits(model: keras.Model) -> list[keras.Variable]:
    """The logits in the order of their kernels, a shared one once."""
    logits = {id(item.logit): item.logit for item in find_thresholded(model)}
    return list(logits.values())


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Copies weights between plain and thresholded forms of one architecture.

    From thresholded to plain the sparse kernels are written; from plain to thresholded
    the raw kernels are set and the logits stay (a checkpoint of a dense model: load it
    into the plain model, then copy); between two thresholded models everything is
    copied.

    Args:
        source: Model to read.
        target: Model to write, of the same layers in the same order.

    Raises:
        ValueError: if numbers or shapes of the weights differ; nothing is written then.
    """
    targets = [v for v in target.weights if not is_threshold_logit(v)]
    logits, target_logits = _logits(source), _logits(target)
    if logits and target_logits:
        # Each kind in its own order: a SoftThreshold's logit precedes its kernel, a
        # SparseModel's follow all weights.
        raw = [v for v in source.weights if not is_threshold_logit(v)]
        values = [(v, v) for v in raw + logits]
        targets += target_logits
    else:
        values = _effective_weights(source)
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


__all__ = [
    "PassedThrough",
    "SparseModel",
    "copy_weights",
    "find_thresholded",
    "sparsify",
    "strip",
]
