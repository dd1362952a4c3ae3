"""Learned ranks: what a cell reads of its factors, and `fold_rank` to fixed ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import layers

from str_keras.internals import full_precision, functional_graph, sublayers
from str_keras.model import check_built, clone, find_thresholded, finish_copy
from str_keras.recurrent import FastGRNNCell
from str_keras.selection import Kernel
from str_keras.thresholds import Tensor, ops

MATRICES = ("kernel", "recurrent_kernel")


def learned_cells(layer: keras.Layer) -> Iterator[FastGRNNCell]:
    """Yields the cells below a layer or model whose ranks are learned."""
    if isinstance(layer, FastGRNNCell):
        if layer.learn_rank:
            yield layer
    else:
        for inner in sublayers(layer):
            yield from learned_cells(inner)


@dataclass(frozen=True)
class RankFactor:
    """W1 or W2 of a matrix of learned rank: what its cell reads of the raw one.

    Args:
        kernel: The raw factor and its layer.
        cell: The cell that the factor belongs to.
        matrix: "kernel" or "recurrent_kernel".
        inner: Of `find_thresholded`, if the factor has a threshold of its own too.
    """

    kernel: Kernel
    cell: FastGRNNCell
    matrix: str
    inner: Any = None
    counted: ClassVar[bool] = True

    def threshold(self) -> Tensor:
        """g(s) in units of the importance; of the factor's own threshold, if any."""
        if self.inner is not None:
            return self.inner.threshold()
        return self.cell.rank_threshold(self.matrix)

    def sparse(self) -> Tensor:
        """The columns of W1 times m; the rows of W2, zero where m is zero."""
        with full_precision():
            raw = ops.convert_to_tensor(self.kernel.variable.value)
            own = raw if self.inner is None else self.inner.sparse()
            scale = self.cell.importance(self.matrix)
            if self.kernel.variable is getattr(self.cell, f"{self.matrix}_2"):
                scale = ops.cast(scale != 0, scale.dtype)[:, None]
            return ops.cast(ops.cast(own, scale.dtype) * scale, raw.dtype)


def rank_factors(
    model: keras.Layer, kernels: dict[int, Kernel]
) -> Iterator[RankFactor]:
    """Yields the factors of the learned ranks below a layer or model.

    Args:
        model: Any layer or model; cells that are not built are left out.
        kernels: Its kernels by the id of their variable.
    """
    thresholded = {id(t.kernel.variable): t for t in find_thresholded(model)}
    built = (cell for cell in learned_cells(model) if cell.built)
    for cell, matrix, side in itertools.product(built, MATRICES, (1, 2)):
        key = id(getattr(cell, f"{matrix}_{side}"))
        inner = thresholded.get(key)
        kernel = kernels[key] if inner is None else inner.kernel
        yield RankFactor(kernel, cell, matrix, inner)


def _kept(cell: FastGRNNCell, matrix: str) -> np.ndarray:
    """Which elements of m are not zero; one, where none is left."""
    importance = ops.convert_to_numpy(cell.importance(matrix))
    # A matrix of rank 0 has no place in a file: one of rank 1 and zeros is the same.
    return np.flatnonzero(importance) if importance.any() else np.array([0])


def _inside(layer: keras.Layer) -> dict[str, Any]:
    """The layers that stand in the configuration of another, by their keys."""
    if isinstance(layer, layers.Bidirectional):
        return {"layer": layer.forward_layer, "backward_layer": layer.backward_layer}
    if isinstance(layer, layers.RNN):
        return {"cell": layer.cell}
    if isinstance(layer, layers.StackedRNNCells):
        return {"cells": layer.cells}
    return {"layer": layer.layer} if isinstance(layer, layers.Wrapper) else {}


def _fixed(layer: keras.Layer) -> keras.Layer:
    """A new layer of the same configuration with the present ranks, not built."""
    if isinstance(layer, keras.Model) and functional_graph(layer) is not None:
        return clone(layer, _fixed)
    config = layer.get_config()
    if isinstance(layer, FastGRNNCell) and layer.learn_rank:
        ranks = [len(_kept(layer, matrix)) for matrix in MATRICES]
        config |= {"kernel_rank": ranks[0], "recurrent_rank": ranks[1]}
        config |= {"learn_rank": False, "s_init": None}
    else:
        for key, inner in _inside(layer).items():
            if key in config:  # an LSTM's cell is not
                new = [_fixed(i) for i in inner] if key == "cells" else _fixed(inner)
                config[key] = keras.saving.serialize_keras_object(new)
    return type(layer).from_config(config)


def _folded_weights(cell: FastGRNNCell) -> dict[int, np.ndarray | None]:
    """By id of the variable what becomes of it; None: it goes."""
    folded: dict[int, np.ndarray | None] = {}
    for matrix in MATRICES:
        kept = _kept(cell, matrix)
        importance = ops.convert_to_numpy(cell.importance(matrix))[kept]
        first, second = getattr(cell, f"{matrix}_1"), getattr(cell, f"{matrix}_2")
        folded[id(first)] = ops.convert_to_numpy(first)[:, kept] * importance
        # Of rank 0 W2 is zero too, as nothing of it is read: counts stay the same.
        rows = ops.convert_to_numpy(second)[kept]
        rows[importance == 0] = 0
        folded[id(second)] = rows
        folded[id(getattr(cell, f"{matrix}_importance"))] = None
        folded[id(getattr(cell, f"threshold_logit_{matrix}"))] = None
    return folded


def fold_rank(model: keras.Model) -> keras.Model:
    """Returns a model in which each learned rank is a fixed one: what is left of it.

    `W1 diag(m) W2` becomes `(W1 diag(m)) W2` of the columns and rows whose m is not
    zero: fewer parameters, and the same outputs but for rounding (1e-6). A matrix of
    rank 0 becomes one of rank 1 and zeros. Nothing is left to be learned of the rank;
    all other layers are copied as they are.

    Args:
        model: A built Functional or Sequential model with `FastGRNNCell`s in
            `keras.layers.RNN`, `FastGRNN`, stacks, Bidirectional, nested models.

    Returns:
        A new model, not compiled; its .keras file needs `import str_keras` to load.

    Raises:
        TypeError: if `model` is no model.
        ValueError: if it is not built, subclassed, or has thresholds on kernels too:
            `stk.strip` takes out both.
    """
    check_built(model)
    if any(True for _ in find_thresholded(model)):
        raise ValueError(
            "The model has thresholds on its kernels: `stk.strip` takes them out and "
            f"folds the ranks. Received: model={model.name}"
        )
    folded: dict[int, np.ndarray | None] = {}
    for cell in learned_cells(model):
        folded |= _folded_weights(cell)
    fixed = clone(model, _fixed)
    values = [
        folded.get(id(variable), variable)
        for variable in model.weights
        if folded.get(id(variable), variable) is not None
    ]
    for value, variable in zip(values, fixed.weights, strict=True):
        # A copy of its own: see `copy_weights`.
        variable.assign(np.array(ops.convert_to_numpy(value)))
    finish_copy(fixed)
    return fixed


def fold_like(plain: keras.Model, trained: keras.Model) -> keras.Model:
    """`fold_rank` of a model whose ranks are learned in another: the last of `strip`.

    Args:
        plain: The stripped copy, its weights set; its cells' logits are not.
        trained: The model with thresholds that it was made of.

    Returns:
        `plain` itself if it has no learned rank.
    """
    pairs = list(zip(learned_cells(plain), learned_cells(trained), strict=True))
    for copy, cell in pairs:
        for matrix in MATRICES:
            name = f"threshold_logit_{matrix}"
            getattr(copy, name).assign(getattr(cell, name))
    return fold_rank(plain) if pairs else plain
