"""Fine-tuning of a sparse model whose zeros stay: `freeze_mask`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from str_keras.internals import full_precision
from str_keras.kernels import Kernel, find_kernels, find_matrices
from str_keras.model import SubstitutedModel, find_thresholded, prepare
from str_keras.selection import Skip, prefixes, select, walk_inside
from str_keras.stripping import strip
from str_keras.thresholds import Tensor, ops

_REFUSED = {
    "Muon": "makes whole matrices orthogonal, and so moves their zeros",
    "Adafactor": "divides 0 by 0 where a row of a kernel has no gradient",
}


@dataclass(frozen=True)
class FrozenKernel:
    """A kernel whose zeros get no gradient: what a layer of a frozen mask reads.

    Args:
        kernel: The raw kernel, which has the zeros, and its layer.
    """

    kernel: Kernel
    counted: ClassVar[bool] = True

    def threshold(self) -> Tensor:
        """0: every weight that is not zero is read. A scalar of the kernel's dtype."""
        return ops.zeros((), self.kernel.variable.dtype)

    def sparse(self) -> Tensor:
        """The kernel itself; the gradient is 0 where it is."""
        with full_precision():
            raw = ops.convert_to_tensor(self.kernel.variable.value)
            return ops.where(raw == 0, ops.zeros_like(raw), raw)


@keras.saving.register_keras_serializable("str_keras")
class FrozenModel(SubstitutedModel):
    """A model whose kernels keep their zeros in training; made by `freeze_mask`.

    The zeros themselves are the mask, so its files hold no other weights than those of
    the model inside.

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels whose zeros stay, as of `selection.select`.
        passed_through: Pairs of path and reason, for the report.

    Call arguments:
        inputs, training, mask: As of the model inside.

    Returns:
        What the model inside returns.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Iterable[str],
        passed_through: Iterable[tuple[str, str]] = (),
        **kwargs: Any,
    ):
        super().__init__(model, kernels, passed_through, **kwargs)
        self.build()

    def add_thresholds(self, kernels: list[Kernel]) -> list[FrozenKernel]:
        """Adds no weight."""
        return [FrozenKernel(kernel) for kernel in kernels]

    def make_train_function(self, force: bool = False) -> Any:
        """Keras' own, but for optimizers that cannot keep zeros.

        Raises:
            ValueError: for one of those.
        """
        inner = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        name = type(inner).__name__
        if name in _REFUSED:
            raise ValueError(
                f"{name} {_REFUSED[name]}: take SGD, Adam or another. "
                f"Received: optimizer={name}"
            )
        return super().make_train_function(force)


def freeze_mask(model: keras.Model, skip: Iterable[Skip] | Skip = ()) -> FrozenModel:
    """Returns a copy of a sparse model to fine-tune: its zeros stay, its values train.

    Thresholds are gone: what is left of a soft-thresholded weight may grow back to the
    size that the task wants, and none is pruned any more. Zeros get no gradient, and
    weight decay, momentum or Adam's averages do not move them: those are 0 where weight
    and gradient always were. An optimizer that moves a weight for the sake of others
    is none for this; Keras' Muon, and Adafactor, which gives NaN, are refused by `fit`.
    Biases and normalization train as usual.

    `strip` and export as of any sparse model. The model given is not changed.

    Args:
        model: A built model with thresholds, which is stripped first, or a plain one
            with zeros.
        skip: Layers whose zeros need not stay: see `sparsify`.

    Returns:
        A `FrozenModel`, not compiled.

    Raises:
        TypeError: if `model` is no model, or a rule of `skip` of no known kind.
        ValueError: if it has no zeros, or some in a layer where they would not stay
            (of an unknown kind); or as `strip`.
    """
    thresholded = any(True for _ in find_thresholded(model))
    plain = strip(model) if thresholded else model
    copy, kernels, passed = prepare(plain, skip)
    sparse = [kernel for kernel in select(copy, skip)[0] if _has_zeros(kernel.variable)]
    skipped = {path for path, reason in passed if reason == "skipped by the caller"}
    known = {
        id(kernel.variable)
        for path, layer in walk_inside(copy)
        for kernel in find_kernels(layer, path)
    }
    lost = [
        full
        for path, layer in walk_inside(copy)
        for full, _, variable in find_matrices(layer, path, own=True)
        if skipped.isdisjoint(prefixes(path))
        and variable.trainable
        and id(variable) not in known
        and _has_zeros(variable)
    ]
    if lost:
        raise ValueError(
            "The zeros of some kernels would not stay, as their layers are of no known "
            "kind: make those untrainable, or name them in `skip`. "
            f"Received: {lost[:5]}"
        )
    if not sparse:
        raise ValueError(
            "There are no zeros to keep: prune the model first. "
            f"Received: model={model.name}"
        )
    dense = [path for path in kernels if path not in {kernel.path for kernel in sparse}]
    passed += [(path.rpartition("/")[0], "it has no zeros") for path in dense]
    return FrozenModel(copy, [kernel.path for kernel in sparse], passed)


def _has_zeros(variable: keras.Variable) -> bool:
    values = np.asarray(keras.ops.convert_to_numpy(variable.value))
    return bool((values == 0).any())
