"""What a model holds and costs, layer by layer: parameters, zeros, MACs, bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import ml_dtypes  # noqa: F401  # of Keras; teaches NumPy the name "bfloat16"
import numpy as np

from str_keras.budget.table import KernelRow, Summary
from str_keras.budget.uses import count_uses
from str_keras.folding import rank_factors
from str_keras.kernels import Kernel, find_matrices, is_matrix
from str_keras.layers import SoftThreshold
from str_keras.model import SubstitutedModel, asked_for_shapes, find_thresholded
from str_keras.selection import prefixes, select, walk_inside
from str_keras.thresholds import is_threshold_state

ops: Any = keras.ops  # untyped there


def kernel_paths(
    model: keras.Model,
) -> Iterator[tuple[str, keras.Layer, keras.Variable]]:
    """Yields each kernel of a model once: its path, layer (unwrapped) and variable."""
    seen: set[int] = set()
    for path, layer in walk_inside(model):
        wrapped = isinstance(layer, SoftThreshold)
        inner = layer.layer if wrapped else layer
        for full, _, variable in find_matrices(inner, path, own=not wrapped):
            if id(variable) not in seen:  # two layers may hold it, as tied weights
                seen.add(id(variable))
                yield full, inner, variable


def geometry(
    model: keras.Model, input_shape: Any = None
) -> list[tuple[KernelRow, keras.Variable]]:
    """Counts the kernels as dense ones, without a look at their values.

    Args:
        model, input_shape: As of `summary`.
    """
    with asked_for_shapes(model):
        uses = count_uses(model, input_shape)
    rows = []
    for path, layer, variable in kernel_paths(model):
        shape, number = tuple(variable.shape), uses.get(id(variable))
        params = math.prod(shape)
        row = KernelRow(
            path=path,
            kind=type(layer).__name__,
            shape=shape,
            params=params,
            nonzeros=params,
            threshold=None,
            macs=None if number is None else params * number,
            bytes=params * np.dtype(variable.dtype).itemsize,
        )
        rows.append((row, variable))
    return rows


def _find_read(model: keras.Layer) -> dict[int, Any]:
    """By id of the variable what a layer reads in place of a raw kernel.

    As of `find_thresholded`, and the factors of learned ranks.
    """
    kernels = {
        id(v): Kernel(path, layer, v, ()) for path, layer, v in kernel_paths(model)
    }
    found = {id(item.kernel.variable): item for item in find_thresholded(model)}
    for factor in rank_factors(model, kernels):
        found[id(factor.kernel.variable)] = factor
    return found


def _reasons(model: keras.Model) -> dict[str, str]:
    """Why layers have no threshold, by their path."""
    reasons: dict[str, str] = {}
    if not any(isinstance(layer, SoftThreshold) for _, layer in walk_inside(model)):
        inner = model.model if isinstance(model, SubstitutedModel) else model
        reasons = {item.path: item.reason for item in select(inner)[1]}
    return reasons | dict(getattr(model, "passed_through", []))


def _measured(
    row: KernelRow, variable: keras.Variable, item: Any, reason: str
) -> KernelRow:
    """The row with what the values say; `item` is the thresholded kernel, or None."""
    values = np.asarray(ops.convert_to_numpy(item.sparse() if item else variable))
    threshold = None
    if item is not None:
        threshold = float(np.mean(ops.convert_to_numpy(item.threshold())))
    return dataclasses.replace(
        row,
        nonzeros=int(np.count_nonzero(values)),
        threshold=threshold,
        reason=reason,
    )


def _rows(model: keras.Model, input_shape: Any) -> Iterator[KernelRow]:
    thresholded = _find_read(model)
    reasons = _reasons(model)
    for row, variable in geometry(model, input_shape):
        item = thresholded.get(id(variable))
        found = [reasons[p] for p in prefixes(row.path) if p in reasons]
        reason = found[0] if found and not item else ""
        if not reason and not item and thresholded:
            reason = "not wrapped"
        yield _measured(row, variable, item, reason)


def summary(model: keras.Model, input_shape: Any = None) -> Summary:
    """Counts parameters, non-zeros, MACs and bytes of each kernel and of the whole.

    MACs are multiply-accumulates of one example by each layer's own geometry, taps on
    padding counted; nothing for normalization, biases, additions and pooling (so counts
    the paper, whose FLOPs are these MACs).

    Args:
        model: A built Functional or Sequential model: sparsified, with hand-placed
            `SoftThreshold`, stripped or dense.
        input_shape: Shape without the batch, where the model leaves sizes open
            (without it such MACs are None, printed as "-").

    Returns:
        A `Summary`.

    Raises:
        ValueError: if `input_shape` is given and the model has several inputs.
    """
    rows = tuple(_rows(model, input_shape))
    others = [
        variable
        for variable in model.weights
        if not is_matrix(variable) and not is_threshold_state(variable)
    ]
    values = [np.asarray(ops.convert_to_numpy(variable)) for variable in others]
    return Summary(
        name=model.name,
        rows=rows,
        other_params=sum(value.size for value in values),
        other_bytes=sum(value.nbytes for value in values),
    )


@dataclasses.dataclass(frozen=True)
class KernelSparsity:
    """Sparsity and threshold of one kernel at one moment of training."""

    path: str
    params: int
    nonzeros: int
    threshold: float

    @property
    def sparsity(self) -> float:
        """Share of zeros, in [0, 1]."""
        return 1 - self.nonzeros / self.params


def _count_nonzero(tensor: Any) -> int:
    # On the device; `ops.count_nonzero` warns on the torch backend.
    return int(ops.convert_to_numpy(ops.sum(ops.cast(tensor != 0, "int32"))))


def measure_sparsity(model: keras.Model) -> list[KernelSparsity]:
    """Counts the non-zeros of each thresholded kernel: quick enough for every epoch.

    Factors of learned ranks are among them, see `KernelRow`.

    Args:
        model: Any model; a plain one gives an empty list.
    """
    return [
        KernelSparsity(
            path=item.kernel.path,
            params=math.prod(item.kernel.variable.shape),
            nonzeros=_count_nonzero(item.sparse()),
            threshold=float(np.mean(ops.convert_to_numpy(item.threshold()))),
        )
        for item in _find_read(model).values()
        if item.counted
    ]


def overall_sparsity(layers: Iterable[KernelSparsity]) -> float:
    """Share of zeros over all thresholded kernels, in [0, 1]; 0 without any."""
    layers = list(layers)
    params = sum(layer.params for layer in layers)
    return 1 - sum(layer.nonzeros for layer in layers) / params if params else 0.0
