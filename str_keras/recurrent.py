"""FastGRNN, a small gated recurrent cell, with STR as learned low rank."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from str_keras.internals import full_precision
from str_keras.logits import add_logit, check_s_init
from str_keras.operators import soft_threshold
from str_keras.thresholds import THRESHOLD_LOGIT, Tensor, get_g, ops

Factors = tuple[Tensor, ...]

# Of the cells whose layer has folded their matrices for its whole sequence. A context
# variable, as Keras' scopes are local to a thread: two may trace one model at a time.
_FOLDED: contextvars.ContextVar[Mapping[int, tuple[Factors, Factors]]] = (
    contextvars.ContextVar("folded matrices", default=MappingProxyType({}))
)


class Ranks(NamedTuple):
    """Ranks of a cell's two matrices."""

    kernel: int
    recurrent: int


def _check_size(name: str, value: Any, optional: bool = False) -> Any:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if (optional and value is None) or (whole and value > 0):
        return None if value is None else int(value)
    or_none = " or None" if optional else ""
    raise ValueError(
        f"`{name}` must be a positive integer{or_none}. Received: {name}={value!r}"
    )


def _check_flag(name: str, value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ValueError(f"`{name}` is True or False. Received: {name}={value!r}")


def _multiply(inputs: Tensor, factors: Factors) -> Tensor:
    for factor in factors:
        inputs = ops.matmul(inputs, factor)
    return inputs


def _fold(factors: Factors) -> Factors:
    """The product, where one multiplication by it is cheaper than by each factor."""
    first, second = factors
    rows, rank, columns = *first.shape, second.shape[1]
    cheaper = rows * columns <= rank * (rows + columns)
    return (ops.matmul(first, second),) if cheaper else factors


@keras.saving.register_keras_serializable("str_keras")
class FastGRNNCell(keras.Layer):
    """Cell of FastGRNN, with matrices of full, fixed low, or learned rank.

        z  = sigmoid(W x + U h + b_z)
        c  = tanh(W x + U h + b_h)
        h' = z h + (sigmoid(zeta) (1 - z) + sigmoid(nu)) c

    Of low rank r, W = W1 W2 (and U alike). Of learned rank, W = W1 diag(m) W2 with the
    soft threshold of STR on the importance vector m: `sign(m) relu(|m| - g(s))`, one
    trainable logit s for W and one for U. What is left of m is the rank; `fold_rank`
    folds it into W1. The logits are named as those of `SoftThreshold`, so that
    `str_keras.optimizers` decay them; without that decay no rank is lost.

    `keras.layers.RNN(cell)` runs it, in any of Keras' ways; `FastGRNN(cell)` is the
    same layer, quicker. A .keras file of it needs `import str_keras` to load; the
    SavedModel and .tflite files of `stk.export` need nothing.

    Args:
        units: Size of the state, H.
        kernel_rank: Rank of W `[D, H]`, D the features of a step; None is full rank.
            Where ranks are learned: the one it starts from, None min(D, H).
        recurrent_rank: That of U `[H, H]`.
        learn_rank: Whether both ranks are learned.
        s_init: Initial logits; None is the default of `g` (-10 for "exp").
        g: Map from s to the threshold: "exp", "sigmoid", or what `register_g` knows.

    Call arguments:
        inputs: `[batch, D]`, one step of the sequence.
        states: List of one tensor `[batch, H]`.

    Returns:
        The output `[batch, H]` and the list of the new state, the same tensor.

    Raises:
        ValueError: for sizes that are no positive integers, a rank above the smaller
            side of its matrix, a `learn_rank` that is no bool, an unknown `g`, an
            `s_init` that is no finite number or without `learn_rank`, or inputs whose
            number of features is not known.

    Source: Kusupati et al. 2018 (FastGRNN, equations 2 to 4), initial values as in its
    code; m: Kusupati et al. 2020 (STR), on RNNs. m starts uniform in [0, 1): decay
    alone brings exp(s) to 1 and sigmoid(s) to 1/2, and equal m would all die at once.
    """

    def __init__(
        self,
        units: int,
        kernel_rank: int | None = None,
        recurrent_rank: int | None = None,
        learn_rank: bool = False,
        s_init: float | None = None,
        g: Any = "exp",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units = _check_size("units", units)
        self.kernel_rank = _check_size("kernel_rank", kernel_rank, optional=True)
        self.recurrent_rank = _check_size(
            "recurrent_rank", recurrent_rank, optional=True
        )
        self.learn_rank = _check_flag("learn_rank", learn_rank)
        self.g = get_g(g)
        if s_init is not None and not learn_rank:
            raise ValueError(
                f"`s_init` is for `learn_rank=True`. Received: {s_init=}, {learn_rank=}"
            )
        self.s_init: Any = check_s_init(s_init, self.g) if learn_rank else None
        self.state_size = self.output_size = self.units

    def build(self, input_shape: Any) -> None:
        """Adds the weights for inputs of `[batch, D]`."""
        if len(input_shape) != 2 or input_shape[-1] is None:
            raise ValueError(
                "The input of a step is `[batch, D]` with D known: call the layer on "
                "sequences `[batch, steps, D]`, as of keras.Input((None, 3)). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self._add_matrix("kernel", input_shape[-1], self.kernel_rank)
        self._add_matrix("recurrent_kernel", self.units, self.recurrent_rank)
        for name in ("gate_bias", "update_bias"):
            setattr(self, name, self.add_weight((self.units,), "ones", name=name))
        for name, value in (("zeta", 1.0), ("nu", -4.0)):
            initializer = keras.initializers.Constant(value)
            setattr(self, name, self.add_weight((), initializer, name=name))

    def _add_matrix(self, name: str, rows: int, rank: int | None) -> None:
        """Adds a matrix `[rows, units]`: `name`, or `name`_1 and `name`_2 with m, s."""
        most = min(rows, self.units)
        if rank is not None and rank > most:
            raise ValueError(
                f"A rank cannot be above {most}, the smaller side of the matrix "
                f"{rows}x{self.units}: lower it, or take None for full rank. "
                f"Received: rank of the {name}={rank}"
            )
        normal = keras.initializers.RandomNormal(stddev=0.1)
        if rank is None and not self.learn_rank:
            setattr(self, name, self.add_weight((rows, self.units), normal, name=name))
            return
        rank = most if rank is None else rank
        sides = {f"{name}_1": (rows, rank), f"{name}_2": (rank, self.units)}
        for side, shape in sides.items():
            setattr(self, side, self.add_weight(shape, normal.clone(), name=side))
        if self.learn_rank:
            uniform = keras.initializers.RandomUniform(0.0, 1.0)
            importance = self.add_weight((rank,), uniform, name=f"{name}_importance")
            logit = add_logit(
                self, f"{THRESHOLD_LOGIT}_{name}", (), self.s_init, importance.dtype
            )
            setattr(self, f"{name}_importance", importance)
            setattr(self, f"{THRESHOLD_LOGIT}_{name}", logit)

    def rank_threshold(self, name: str) -> Tensor:
        """g(s) of "kernel" or "recurrent_kernel", in units of its m; a scalar."""
        with full_precision():
            logit = getattr(self, f"{THRESHOLD_LOGIT}_{name}")
            return self.g(ops.convert_to_tensor(logit))

    def importance(self, name: str) -> Tensor:
        """m of "kernel" or "recurrent_kernel" behind its threshold, `[rank]`."""
        with full_precision():
            threshold = self.rank_threshold(name)
            raw = ops.convert_to_tensor(getattr(self, f"{name}_importance"))
            return soft_threshold(ops.cast(raw, threshold.dtype), threshold)

    def _factors(self, name: str) -> Factors:
        """The tensors whose product is the matrix `[rows, units]`."""

        def read(variable: str) -> Tensor:
            return ops.cast(getattr(self, variable), self.compute_dtype)

        if hasattr(self, name):
            return (read(name),)
        first, second = read(f"{name}_1"), read(f"{name}_2")
        if self.learn_rank:
            first = first * ops.cast(self.importance(name), self.compute_dtype)
        return first, second

    def factors(self) -> tuple[Factors, Factors]:
        """Of W and of U, the tensors whose product it is, one or two."""
        return self._factors("kernel"), self._factors("recurrent_kernel")

    def call(self, inputs: Tensor, states: Any) -> tuple[Tensor, Any]:
        """One step."""
        state = states[0] if isinstance(states, list | tuple) else states
        kernel, recurrent = _FOLDED.get().get(id(self)) or self.factors()
        both = _multiply(inputs, kernel) + _multiply(state, recurrent)
        gate = ops.sigmoid(both + self.gate_bias)
        update = ops.tanh(both + self.update_bias)
        zeta, nu = ops.sigmoid(self.zeta), ops.sigmoid(self.nu)
        output = gate * state + (zeta * (1 - gate) + nu) * update
        return output, [output] if isinstance(states, list | tuple) else output

    @property
    def ranks(self) -> Ranks:
        """Ranks of W and U; where they are learned, what is left of them now."""
        if not self.built:
            raise ValueError(
                "Ranks are known once the cell is built: call its layer first. "
                f"Received: cell={self.name}"
            )

        def rank(name: str) -> int:
            if hasattr(self, name):
                return min(getattr(self, name).shape)
            if self.learn_rank:
                return int(
                    np.count_nonzero(ops.convert_to_numpy(self.importance(name)))
                )
            return getattr(self, f"{name}_1").shape[1]

        return Ranks(rank("kernel"), rank("recurrent_kernel"))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments; `g` by its name."""
        return {
            **super().get_config(),
            "units": self.units,
            "kernel_rank": self.kernel_rank,
            "recurrent_rank": self.recurrent_rank,
            "learn_rank": self.learn_rank,
            "s_init": self.s_init,
            "g": self.g.name,
        }


@keras.saving.register_keras_serializable("str_keras")
class FastGRNN(keras.layers.RNN):
    """`keras.layers.RNN` over `FastGRNNCell`s, doing once what is the same each step.

    Where ranks are learned, thresholds are computed once a call, and factors whose
    product is cheaper to multiply by are multiplied. Weights are those of
    `keras.layers.RNN`, and outputs but for rounding.

    Args:
        cell: A `FastGRNNCell`, or a list of cells to be stacked.
        **kwargs: As of `keras.layers.RNN`: `return_sequences`, `unroll` and so on.

    Call arguments:
        Those of `keras.layers.RNN`: sequences `[batch, steps, D]`.

    Returns:
        As `keras.layers.RNN`.
    """

    def inner_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the steps with the matrices of all cells at hand."""
        cells = getattr(self.cell, "cells", [self.cell])
        folded = dict(_FOLDED.get())
        for cell in cells:
            # Fixed factors are left: sparse ones have their zeros, a product none.
            if isinstance(cell, FastGRNNCell) and cell.learn_rank:
                kernel, recurrent = cell.factors()
                folded[id(cell)] = _fold(kernel), _fold(recurrent)
        token = _FOLDED.set(folded)
        try:
            return super().inner_loop(*args, **kwargs)
        finally:
            _FOLDED.reset(token)
