"""The table of a model: a row per kernel, their sums, and both as text, CSV, JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable
from typing import Any

from str_keras import files
from str_keras.tables import text_table


@dataclasses.dataclass(frozen=True)
class KernelRow:
    """One kernel of a model.

    Args:
        path: Its path in the model, such as "layer1_0/conv1/kernel".
        kind: Type of its layer.
        shape: Shape of the kernel.
        params: Number of weights.
        nonzeros: Weights that are not zero as the layer reads them. Of a matrix of
            learned rank W1 diag(m) W2 these are the columns of W1, and rows of W2,
            whose m is not zero: none of rank 0, where `stk.fold_rank` keeps one of
            zeros.
        threshold: g(s) in units of the kernel (of m where the rank is learned); the
            mean where a kernel has several; None where it has none.
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
"""Columns of the per-layer table, in the order of its files: see `KernelRow`."""


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


def sum_known(numbers: Iterable[int | None]) -> int | None:
    """Returns the sum, or None if one of the numbers is."""
    numbers = list(numbers)
    return None if None in numbers else sum(n or 0 for n in numbers)


def sum_rows(rows: Iterable[KernelRow], others: int = 0, other_bytes: int = 0) -> Total:
    """Adds up kernels, and weights that are none and count as non-zero."""
    rows = list(rows)
    return Total(
        params=sum(row.params for row in rows) + others,
        nonzeros=sum(row.nonzeros for row in rows) + others,
        macs=sum_known(row.macs for row in rows),
        sparse_macs=sum_known(row.sparse_macs for row in rows),
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
        return sum_rows(row for row in self.rows if not row.reason)

    @property
    def kernels(self) -> Total:
        """Of all kernels: what the paper counts."""
        return sum_rows(self.rows)

    @property
    def total(self) -> Total:
        """Of all weights."""
        return sum_rows(self.rows, self.other_params, self.other_bytes)

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
                row.path.removesuffix("/kernel"),
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
            "layer|kind|shape|params|non-zeros|sparsity|threshold|MACs|sparse MACs"
            "|bytes|sparse bytes|no threshold because"
        )
        return text_table(headings.split("|"), body, left=(0, 1, 2, 11))
