"""Whole models called with other kernels than their own: `SubstitutedModel`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from str_keras import internals
from str_keras.kernels import Kernel, find_kernels
from str_keras.layers import (
    SoftThreshold,
    call_substituted,
    check_kernels_are_read,
)
from str_keras.selection import Skip, nothing_left, select, walk_inside
from str_keras.substitution import Substitution


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


class SubstitutedModel(keras.Model):
    """A built model that is called with other kernels than its own: the base class.

    Each kernel is computed once a call, however often its layer is used. `layers`,
    `get_layer`, `inputs` and `outputs` are those of the model inside; its layers work
    only as part of the whole (a direct call raises, as it would read a raw kernel).

    A subclass says in `add_thresholds` what is read in place of each raw kernel.

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels that are replaced, as of `selection.select`.
        passed_through: Pairs of path and reason, for the report.

    Call arguments:
        inputs, training, mask: As of the model inside.

    Returns:
        What the model inside returns.
    """

    thresholded: list[Any]

    def __init__(
        self,
        model: keras.Model,
        kernels: Iterable[str],
        passed_through: Iterable[tuple[str, str]] = (),
        **kwargs: Any,
    ):
        kwargs.setdefault("name", model.name)
        kwargs.setdefault("dtype", model.dtype_policy)
        # The layers inside cast for themselves, as in a plain functional model.
        super().__init__(autocast=False, **kwargs)
        self.model = model
        # Through __dict__: Keras would track and wrap the lists.
        self.__dict__["passed_through"] = [
            (path, reason) for path, reason in passed_through
        ]
        self.__dict__["kernel_paths"] = list(kernels)

    def add_thresholds(self, kernels: list[Kernel]) -> list[Any]:
        """Adds the subclass' own weights; returns a replacement for each kernel.

        A replacement has `kernel`, `threshold()` and `sparse()`, like
        `ThresholdedKernel`.
        """
        # Abstract: the models of `sources` and `pruning` have their own.
        raise NotImplementedError

    def build(self, input_shape: Any = None) -> None:
        """Adds what decides the thresholds; the model inside is built already."""
        found = {
            kernel.path: kernel
            for path, layer in walk_inside(self.model)
            for kernel in find_kernels(layer, path)
        }
        missing = [path for path in self.kernel_paths if path not in found]
        if missing:
            raise ValueError(f"The model has no such kernels. Received: {missing}")
        kernels = [found[path] for path in self.kernel_paths]
        self.__dict__["thresholded"] = self.add_thresholds(kernels)
        _guard(kernels)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Calls the model inside with its sparse kernels."""
        check_kernels_are_read(item.kernel.layer for item in self.thresholded)
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
            "passed_through": [list(pair) for pair in self.passed_through],
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: Any = None) -> SubstitutedModel:
        """Rebuilds the model from `get_config`."""
        config = dict(config)
        model = keras.saving.deserialize_keras_object(
            config.pop("model"), custom_objects=custom_objects
        )
        trainable = config.pop("trainable", True)
        substituted = cls(model, **config)
        substituted.trainable = trainable
        return substituted


def find_thresholded(model: keras.Layer) -> Iterator[Any]:
    """Yields every kernel that has a threshold, however it came into the model.

    Args:
        model: A `SparseModel` or other `SubstitutedModel`, a model with
            `SoftThreshold` layers, also in nested models, wrappers and custom layers,
            or a plain one (yields nothing).

    Yields:
        `ThresholdedKernel`, or what else has `kernel`, `threshold()` and `sparse()`.
    """
    if isinstance(model, SubstitutedModel | SoftThreshold):
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


def clone(model: keras.Model, clone_function: Any = None) -> keras.Model:
    """A new model of the same configuration, new weights, and not compiled.

    `clone_model` compiles the clone as the model was: the file of a stripped model
    would name our optimizer, and a lambda as loss makes it fail.
    """
    compiled = [m for m in _submodels(model) if m.compiled]
    try:
        for submodel in compiled:
            submodel.compiled = False
        if clone_function is None and internals.tells_own_config(model):
            return type(model).from_config(model.get_config())
        return keras.models.clone_model(
            model, clone_function=clone_function, recursive=clone_function is not None
        )
    finally:
        for submodel in compiled:
            submodel.compiled = True


def finish_copy(layer: keras.Layer) -> None:
    """Lets `Normalization` layers inside compute what they keep beside their weights.

    Keras does so when it loads a file, not when weights are assigned: a copy would
    normalize by 0 and 1, whatever the original was adapted to.
    """
    for inner in [layer, *internals.sublayers(layer)]:
        if isinstance(inner, keras.layers.Normalization):
            inner.finalize_state()
        elif inner is not layer:
            finish_copy(inner)


def check_built(model: keras.Model) -> None:
    """Raises if `model` is no built Functional or Sequential model, with the mend."""
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


def prepare(
    model: keras.Model, skip: Iterable[Skip] | Skip = (), policy: str | None = None
) -> tuple[keras.Model, list[str], list[tuple[str, str]]]:
    """What a `SubstitutedModel` is made of: see `sparsify` for arguments and errors.

    Returns:
        A copy of the model with its weights, the paths of the kernels to be replaced,
        and pairs of path and reason for layers that are passed through.
    """
    check_built(model)
    if any(True for _ in find_thresholded(model)):
        raise ValueError(
            "The model has thresholds already: strip it first. "
            f"Received: model={model.name}"
        )
    kernels, passed = select(model, skip, policy)
    if not kernels:
        raise nothing_left(model, passed, "sparsify")
    copy = clone(model)
    if [v.shape for v in copy.weights] != [v.shape for v in model.weights]:
        raise ValueError(
            f"{_why_another(model)}. Received: model={model.name} with "
            f"{len(model.weights)} weights, {len(copy.weights)} in a copy of it"
        )
    copy.set_weights(model.get_weights())
    finish_copy(copy)
    named = dict(zip(_known_paths(model), _known_paths(copy), strict=True))
    kept = [kernel.path for kernel in kernels if named[kernel.path] == kernel.path]
    renamed = [named[kernel.path] for kernel in kernels if kernel.path not in set(kept)]
    if not kept:
        raise ValueError(
            "Layers have other names in a copy of the model: let their `get_config` "
            f"tell `name`. Received: {renamed[:5]} in the copy of model={model.name}"
        )
    reasons = [(item.path, item.reason) for item in passed]
    lacking = "renamed in a copy: its get_config lacks the name"
    reasons += [(path, lacking) for path in renamed]
    return copy, kept, reasons


def _why_another(model: keras.Model) -> str:
    if internals.tells_own_config(model):
        return (
            f"`get_config` of {type(model).__name__} does not tell all that makes the "
            "model, so that no file of it could be loaded either: add what it lacks"
        )
    return (
        "A layer stands both inside and outside of a nested model, which a copy cannot "
        "keep: build the model without nesting"
    )


def _known_paths(model: keras.Model) -> list[str]:
    return [
        kernel.path
        for path, layer in walk_inside(model)
        for kernel in find_kernels(layer, path)
    ]
