"""Budgets: how sparse each layer of a model is to be."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import os
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import keras
import numpy as np
from keras import ops

from str_keras import files
from str_keras.budget import reading
from str_keras.budget.counting import geometry, kernel_paths, summary
from str_keras.budget.reading import Path
from str_keras.budget.table import Total, sum_rows
from str_keras.kernels import reader_of
from str_keras.model import check_built
from str_keras.selection import prefixes
from str_keras.stripping import strip


def num_kept(size: int, sparsity: float) -> int:
    """How many of `size` weights stay at a sparsity in [0, 1].

    `size * (1 - sparsity)`, rounded; at least one below a sparsity of 1, as a kernel
    that is rounded to nothing would cut its network.
    """
    kept = round(size * (1 - sparsity))
    return max(1, kept) if sparsity < 1 else kept


def _keep_largest(values: np.ndarray, number: int) -> np.ndarray:
    """A copy with zeros but for the largest magnitudes, of equal ones the first."""
    if number == 0:
        return np.zeros_like(values)
    # NumPy partitions no bfloat16; float64 orders every type as it is.
    sizes = np.abs(values.ravel().astype(np.float64))
    edge = np.partition(sizes, sizes.size - number)[sizes.size - number]
    kept = sizes > edge
    ties = np.flatnonzero(sizes == edge)
    kept[ties[: number - np.count_nonzero(kept)]] = True
    return np.where(kept.reshape(values.shape), values, np.zeros_like(values))


def _prune(path: str, layer: keras.Layer, variable: keras.Variable, kept: int) -> None:
    """Prunes a kernel in place to `kept` weights at most."""
    mend = ""
    values = np.asarray(ops.convert_to_numpy(variable))
    if getattr(layer, "quantization_mode", None) is not None:
        mend = "A quantized kernel cannot be pruned: prune first, then quantize"
    elif getattr(layer, "lora_enabled", False):
        mend = "LoRA adds to the pruned kernel: merge it first"
    elif not np.isfinite(values.astype(np.float32)).all():
        mend = "A kernel with NaN or infinity cannot be pruned: restore its weights"
    if mend:
        raise ValueError(f"{mend}. Received: kernel={path}")
    variable.assign(_keep_largest(values, min(kept, values.size)))


def _give(text: str, path: Path | None) -> str:
    if path is not None:
        files.write_text(path, text)
    return text


@dataclasses.dataclass(frozen=True)
class Budget:
    """The sparsity of each layer of a network.

    Args:
        name: What it is called, such as "resnet50@90.23".
        rates: Share of zeros in [0, 1] by the path of a kernel ("conv1/kernel"), as
            `stk.summary` has it, or of what it stands in, a layer ("conv1") or nested
            model: all kernels there but those with a rate of their own.
        source: Where it is from, in words.

    Raises:
        TypeError: if a path is no string.
        ValueError: if there is no rate, a path is empty or has several lines, a rate is
            not in [0, 1], or a layer has two.
    """

    name: str
    rates: Mapping[str, float] = dataclasses.field(hash=False)
    source: str = ""

    def __post_init__(self) -> None:
        if not self.rates:
            raise ValueError(f"A budget needs rates. Received: budget={self.name!r}")
        seen: dict[str, str] = {}
        for path, rate in self.rates.items():
            if not isinstance(path, str):
                raise TypeError(f"Rates are named by paths. Received: path={path!r}")
            # A break of lines does not come back from every table.
            if not path.strip() or {"\r", "\n"} & set(path):
                raise ValueError(
                    f"A rate is of a layer: name it in one line. Received: {path=}"
                )
            number = isinstance(rate, Real) and not isinstance(rate, bool)
            if not number or not 0 <= rate <= 1:  # NaN is neither
                raise ValueError(
                    "A rate is the share of zeros, from 0 to 1 (divide percent by "
                    f"100). Received: {path}={rate!r}"
                )
            other = seen.setdefault(path.removesuffix("/kernel"), path)
            if other != path:
                raise ValueError(
                    "A layer has two rates: leave one out. "
                    f"Received: {other!r} and {path!r}"
                )
        rates = {path: float(rate) for path, rate in self.rates.items()}
        object.__setattr__(self, "rates", rates)

    @classmethod
    def of(cls, model: keras.Model) -> Budget:
        """Measures the sparsity of each kernel of a model.

        Args:
            model: A built Functional or Sequential model: sparsified, pruned, with
                hand-placed `SoftThreshold`, stripped or dense.
        """
        rows = summary(model).rows
        rates = {row.path: row.sparsity for row in rows}
        return cls(model.name, rates, f"measured of the model {model.name}")

    @classmethod
    def read(cls, path: Path) -> Budget:
        """Reads a budget from a .csv or .json file.

        A table needs the columns `path` and `sparsity` and may have the others of
        `stk.summary`: a run's budget.csv is one. JSON has such rows as "layers", and
        may have "name" and "source".

        Raises:
            OSError: if the file cannot be read.
            ValueError: if it is neither .csv nor .json, damaged, has an unknown or
                missing column or a key twice, names a layer twice or not at all, or a
                rate is not in [0, 1].
        """
        try:
            return cls(*reading.read(path))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def to_csv(self, path: Path | None = None) -> str:
        """Returns the rates as CSV; writes it to `path`, if given, whole."""
        return _give(reading.to_csv(self.rates), path)

    def to_json(self, path: Path | None = None) -> str:
        """Returns name, source and rates as JSON; writes it to `path`, if given."""
        return _give(reading.to_json(self.name, self.rates, self.source) + "\n", path)

    def match(self, model: keras.Model, strict: bool = True) -> dict[str, float]:
        """Returns the rate of each kernel of a model by the kernel's path.

        Args:
            model: A built Functional or Sequential model, with thresholds or without.
            strict: Whether every kernel must have a rate; if not, those without one
                are left out of the result.

        Raises:
            TypeError: if `model` is no model.
            ValueError: if it is subclassed or not built; if layers of the budget are
                not in the model, or kernels of the model not in the budget: all are
                named.
        """
        check_built(model)
        paths = [path for path, _, _ in kernel_paths(model)]
        known = {name for path in paths for name in prefixes(path)}
        unknown = [name for name in self.rates if name not in known]
        found = {}
        for path in paths:
            names = [name for name in prefixes(path) if name in self.rates]
            if names:  # the longest: a kernel's own rate before its layer's
                found[path] = self.rates[names[0]]
        missing = [path for path in paths if path not in found] if strict else []
        if unknown or missing:
            raise ValueError(self._misfit(unknown, missing, paths, model.name))
        return found

    def _misfit(
        self, unknown: list[str], missing: list[str], paths: list[str], model: str
    ) -> str:
        parts = []
        if unknown:
            names = [path.removesuffix("/kernel") for path in paths]
            named = []
            for name in unknown:
                near = difflib.get_close_matches(name, names, 2, 0.6)
                named.append(f"{name} (near it: {', '.join(near)})" if near else name)
            parts.append(f"the model has no {', '.join(named)}: rename or remove them")
        if missing:
            parts.append(
                f"the budget has no rate for {', '.join(missing)}: add them, or leave "
                "them as they are by strict=False"
            )
        return (
            "Budget and model do not fit; " + "; ".join(parts) + ". "
            f"Received: budget={self.name!r}, model={model!r}"
        )

    def apply(self, model: keras.Model, strict: bool = True) -> keras.Model:
        """Returns a plain copy of a model, pruned by magnitude to these rates.

        Of each kernel the `num_kept(size, rate)` largest weights stay as they are, of
        equal ones those that come first; the others become 0. A kernel with more
        zeros than that stays as it is. The size is that in the model given: what a
        learned rank has lost, and `stk.strip` takes out, counts as zeros.

        Args:
            model: A built Functional or Sequential model; one with thresholds is
                stripped first. It is not changed.
            strict: As of `match`; kernels without a rate are copied as they are.

        Returns:
            A model of plain layers, not compiled.

        Raises:
            TypeError: if `model` is no model.
            ValueError: as of `match`; if a kernel to be pruned is quantized, has LoRA
                weights beside it, or is not finite.
        """
        rates = self.match(model, strict)
        sizes = {path: math.prod(v.shape) for path, _, v in kernel_paths(model)}
        plain = strip(model)
        for path, layer, variable in kernel_paths(plain):
            if rates.get(path, 0.0) > 0:
                kept = num_kept(sizes[path], rates[path])
                _prune(path, reader_of(layer, variable), variable, kept)
        return plain

    def totals(
        self, model: keras.Model, input_shape: Any = None, strict: bool = True
    ) -> Total:
        """Counts what all kernels of a model would hold and cost at these rates.

        From shapes and rates alone, no weight is read; the sums are rounded once. A
        model pruned by `apply` has whole weights in each kernel, so that it differs by
        up to half a weight per kernel.

        Args:
            model: A built Functional or Sequential model.
            input_shape: As of `stk.summary`.
            strict: As of `match`; kernels without a rate count as dense.

        Returns:
            A `Total`: params, nonzeros, sparsity, MACs and bytes, dense and sparse.

        Raises:
            TypeError, ValueError: as of `match`.
        """
        rates = self.match(model, strict)
        rows = [row for row, _ in geometry(model, input_shape)]
        densities = [1 - rates.get(row.path, 0.0) for row in rows]
        dense = sum_rows(rows)

        def scaled(numbers: Iterable[int]) -> int:
            return round(math.fsum(map(operator.mul, numbers, densities)))

        macs = None if dense.macs is None else scaled(row.macs or 0 for row in rows)
        return dataclasses.replace(
            dense,
            nonzeros=scaled(row.params for row in rows),
            sparse_macs=macs,
            # What is beside the values are the bits that say where they are.
            sparse_bytes=scaled(row.bytes for row in rows)
            + dense.sparse_bytes
            - dense.bytes,
        )
