"""What a model holds and costs, layer by layer: parameters, zeros, MACs, bytes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import layers

from str_keras import files, internals
from str_keras.layers import SoftThreshold, ThresholdedKernel
from str_keras.model import SparseModel, asked_for_shapes, find_thresholded
from str_keras.selection import is_matrix, kernel_axes, select, walk
from str_keras.tables import text_table
from str_keras.thresholds import is_threshold_logit

Shape = tuple[int | None, ...]
ops: Any = keras.ops  # untyped there


@dataclasses.dataclass(frozen=True)
class KernelRow:
    """One kernel of a model.

    Args:
        path: Its path in the model, such as "layer1_0/conv1/kernel".
        kind: Type of its layer.
        shape: Shape of the kernel.
        params: Number of weights.
        nonzeros: Weights that are not zero as the layer reads them.
        threshold: g(s) in units of the kernel; the mean where a kernel has several;
            None where it has none.
        macs: Multiply-accumulates of one example, taps on padding counted; None where
            they are not known: a layer of a type that is not in our table, or an
            input whose size the model leaves open.
        bytes: Of the dense kernel in its own dtype.
        reason: Why it has no threshold, else "".
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    params: int
    nonzeros: int
    threshold: float | None
    macs: int | None
    bytes: int
    reason: str = ""

    @property
    def sparsity(self) -> float:
        """Share of zeros, in [0, 1]."""
        return 1 - self.nonzeros / self.params if self.params else 0.0

    @property
    def sparse_macs(self) -> int | None:
        """MACs with non-zero weights: every weight is used equally often."""
        if self.macs is None:
            return None
        return self.macs // self.params * self.nonzeros if self.params else 0

    @property
    def sparse_bytes(self) -> int:
        """The non-zero values and one bit per weight that says where they are."""
        width = self.bytes // self.params if self.params else 0
        return self.nonzeros * width + math.ceil(self.params / 8)


COLUMNS = (
    "path",
    "kind",
    "shape",
    "params",
    "nonzeros",
    "sparsity",
    "threshold",
    "macs",
    "sparse_macs",
    "bytes",
    "sparse_bytes",
    "reason",
)


@dataclasses.dataclass(frozen=True)
class Total:
    """Sums over kernels: see `KernelRow`; MACs are None if those of one kernel are."""

    params: int
    nonzeros: int
    macs: int | None
    sparse_macs: int | None
    bytes: int
    sparse_bytes: int

    @property
    def sparsity(self) -> float:
        """Share of zeros, in [0, 1]."""
        return 1 - self.nonzeros / self.params if self.params else 0.0


def _sum(numbers: Iterable[int | None]) -> int | None:
    """The sum, or None if one of the numbers is."""
    numbers = list(numbers)
    return None if None in numbers else sum(n or 0 for n in numbers)


def _total(rows: Iterable[KernelRow], others: int = 0, other_bytes: int = 0) -> Total:
    rows = list(rows)
    return Total(
        params=sum(row.params for row in rows) + others,
        nonzeros=sum(row.nonzeros for row in rows) + others,
        macs=_sum(row.macs for row in rows),
        sparse_macs=_sum(row.sparse_macs for row in rows),
        bytes=sum(row.bytes for row in rows) + other_bytes,
        sparse_bytes=sum(row.sparse_bytes for row in rows) + other_bytes,
    )


@dataclasses.dataclass(frozen=True)
class Summary:
    """The per-layer table of a model; `print` it, or `to_csv`, `to_json`.

    Args:
        name: The model's.
        rows: One per kernel, in order of the model.
        other_params: Weights that are no kernels (batch normalization with its
            statistics, biases), logits left out; they count as non-zero.
        other_bytes: Theirs.
    """

    name: str
    rows: tuple[KernelRow, ...]
    other_params: int
    other_bytes: int

    @property
    def prunable(self) -> Total:
        """Of the kernels with a threshold; in a plain model, that could have one."""
        return _total(row for row in self.rows if not row.reason)

    @property
    def kernels(self) -> Total:
        """Of all kernels: what the paper counts."""
        return _total(self.rows)

    @property
    def total(self) -> Total:
        """Of all weights."""
        return _total(self.rows, self.other_params, self.other_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals of plain Python types."""

        def flat(item: Any) -> dict[str, Any]:
            values = {**dataclasses.asdict(item), "sparsity": item.sparsity}
            if isinstance(item, KernelRow):
                values["sparse_macs"] = item.sparse_macs
                values["sparse_bytes"] = item.sparse_bytes
                values = {column: values[column] for column in COLUMNS}
                values["shape"] = list(item.shape)
            return values

        return {
            "name": self.name,
            "layers": [flat(row) for row in self.rows],
            "other_params": self.other_params,
            "prunable": flat(self.prunable),
            "kernels": flat(self.kernels),
            "total": flat(self.total),
        }

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns a row per kernel as CSV; writes it to `path`, if given, whole."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in self.to_dict()["layers"]:
            row["shape"] = "x".join(map(str, row["shape"]))
            writer.writerow(row)
        return self._give(text.getvalue(), path)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns rows and totals as JSON; writes it to `path`, if given, whole."""
        return self._give(json.dumps(self.to_dict(), indent=1) + "\n", path)

    @staticmethod
    def _give(text: str, path: str | os.PathLike[str] | None) -> str:
        if path is not None:
            files.write_text(path, text)
        return text

    def __str__(self) -> str:
        def cells(name: str, kind: str, shape: str, item: Any, *ends: str) -> list[str]:
            numbers = (item.macs, item.sparse_macs, item.bytes, item.sparse_bytes)
            macs = ["-" if n is None else f"{n:,}" for n in numbers]
            counts = [f"{item.params:,}", f"{item.nonzeros:,}"]
            share = f"{100 * item.sparsity:.2f} %"
            return [name, kind, shape, *counts, share, ends[0], *macs, ends[1]]

        body = [
            cells(
                row.path.rsplit("/kernel", 1)[0],
                row.kind,
                "x".join(map(str, row.shape)),
                row,
                "-" if row.threshold is None else f"{row.threshold:.4g}",
                row.reason,
            )
            for row in self.rows
        ]
        body.append([])
        body += [
            cells(name, "", "", total, "", "")
            for name, total in (
                ("prunable", self.prunable),
                ("all kernels", self.kernels),
                ("all weights", self.total),
            )
        ]
        headings = (
            "layer|kind|shape|params|non-zeros|sparsity|g(s)|MACs|sparse MACs"
            "|bytes|sparse bytes|no threshold because"
        )
        return text_table(headings.split("|"), body, left=(0, 1, 2, 11))


def _product(shape: Shape) -> int | None:
    """Product of a shape's sizes, None if one is not known."""
    return None if None in shape else math.prod(n or 0 for n in shape)


def _uses(layer: keras.Layer, inputs: Shape, outputs: Shape) -> int | None:
    """How often each weight of a kernel is used for one example (its MACs per weight).

    Dense: once per position of the output; a convolution: once per output pixel, a
    transposed one: per input pixel; EinsumDense: over the input's labels that the
    kernel lacks.
    """
    if isinstance(layer, layers.EinsumDense):
        operands = layer.equation.replace(" ", "").split("->")[0].split(",")
        missing = len(inputs) - len(operands[0].replace("...", ""))
        labels = operands[0].replace("...", "?" * missing)
        free = [
            n
            for n, label in zip(inputs, labels, strict=True)
            if label not in operands[1]
        ]
        return _product(tuple(free[1:]))
    if isinstance(layer, layers.Dense):
        return _product(outputs[1:-1])
    if not kernel_axes(layer):
        return None
    transposed = (
        layers.Conv1DTranspose,
        layers.Conv2DTranspose,
        layers.Conv3DTranspose,
    )
    shape = inputs if isinstance(layer, transposed) else outputs
    first = layer.data_format == "channels_first"
    return _product(shape[2:] if first else shape[1:-1])


def _count_uses(model: keras.Model, input_shape: Any) -> dict[int, int | None]:
    """`_uses` by the layer's id, added up over its calls, in nested models too."""
    uses: dict[int, int | None] = {}

    def visit(operation: Any, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else next(iter(kwargs.values()))
        if isinstance(operation, keras.Model):
            graph = internals.functional_graph(operation)
            if graph is not None:
                return internals.run_graph(graph, first, visit)
        outputs = operation.compute_output_spec(*args, **kwargs)
        inner = operation.layer if isinstance(operation, SoftThreshold) else operation
        if isinstance(inner, keras.Layer) and any(is_matrix(v) for v in inner.weights):
            number = None
            if kernel_axes(inner):
                number = _uses(inner, first.shape, outputs.shape)
            uses[id(inner)] = _sum((uses.get(id(inner), 0), number))
        return outputs

    inputs = model.inputs
    if input_shape is not None:
        if len(inputs) != 1:
            raise ValueError(
                "`input_shape` is for models of one input. "
                f"Received: model={model.name} with {len(inputs)} inputs"
            )
        shape = (None, *input_shape)
        inputs = [keras.KerasTensor(shape, dtype=inputs[0].dtype)]
    visit(model, inputs[0] if len(inputs) == 1 else inputs)
    return uses


def _rows(model: keras.Model, uses: dict[int, int | None]) -> Iterable[KernelRow]:
    thresholded = {id(t.kernel.variable): t for t in find_thresholded(model)}
    reasons = {}
    if not any(isinstance(layer, SoftThreshold) for _, layer in walk(model)):
        inner = model.model if isinstance(model, SparseModel) else model
        reasons = {item.path: item.reason for item in select(inner)[1]}
    reasons |= dict(getattr(model, "passed_through", []))
    for path, layer in walk(model):
        inner = layer.layer if isinstance(layer, SoftThreshold) else layer
        for variable in inner.weights:
            if not is_matrix(variable):
                continue
            item = thresholded.get(id(variable))
            reason = "" if item else reasons.get(path, "")
            if not reason and not item and thresholded:
                reason = "not wrapped"
            yield _row(f"{path}/{variable.name}", inner, variable, item, uses, reason)


def _row(
    path: str,
    layer: keras.Layer,
    variable: keras.Variable,
    item: ThresholdedKernel | None,
    uses: dict[int, int | None],
    reason: str,
) -> KernelRow:
    values = np.asarray(ops.convert_to_numpy(item.sparse() if item else variable))
    number = uses.get(id(layer))
    threshold = None
    if item is not None:
        threshold = float(np.mean(ops.convert_to_numpy(item.threshold())))
    return KernelRow(
        path=path,
        kind=type(layer).__name__,
        shape=tuple(variable.shape),
        params=values.size,
        nonzeros=int(np.count_nonzero(values)),
        threshold=threshold,
        macs=None if number is None else values.size * number,
        bytes=values.nbytes,
        reason=reason,
    )


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
    with asked_for_shapes(model):
        uses = _count_uses(model, input_shape)
    rows = tuple(_rows(model, uses))
    others = [
        variable
        for variable in model.weights
        if not is_matrix(variable) and not is_threshold_logit(variable)
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
        for item in find_thresholded(model)
    ]


def overall_sparsity(layers: Iterable[KernelSparsity]) -> float:
    """Share of zeros over all thresholded kernels, in [0, 1]; 0 without any."""
    layers = list(layers)
    params = sum(layer.params for layer in layers)
    return 1 - sum(layer.nonzeros for layer in layers) / params if params else 0.0
