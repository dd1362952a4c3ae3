"""Pruning by magnitude at given rates: the baselines that STR is compared with.

Source: GMP, Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878; DNW, Wortsman et al.
2019, https://arxiv.org/abs/1906.00586; both as in the experiments of Kusupati et al.
2020, section 4.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from str_keras.budget import Budget, num_kept
from str_keras.internals import full_precision
from str_keras.layers import raise_precision, read_share
from str_keras.model import prepare
from str_keras.operators import Operator, apply_threshold, get_backward
from str_keras.ranking import Keys
from str_keras.selection import Kernel, Skip, select
from str_keras.solving import Loop
from str_keras.sources import ThresholdModel
from str_keras.targets import Target
from str_keras.thresholds import KEPT, Tensor, ops


def _kth_largest(magnitudes: Tensor, k: Tensor) -> Tensor:
    """The k-th largest of numbers that are not negative; inf if k is 0.

    Such floats are ordered as their bits are when read as integers. So the bits are
    found from the highest on, by counting, in an eighth of the time of a sort.

    Args:
        magnitudes: `(numbers,)`, float32 or float64.
        k: At most as many as there are, a scalar, int32.
    """
    dtype = keras.backend.standardize_dtype(magnitudes.dtype)
    size, integer = (63, "int64") if dtype == "float64" else (31, "int32")
    bits = ops.view(magnitudes, integer)
    one = ops.ones((), integer)

    def with_bit(index: Tensor, found: Tensor) -> Tensor:
        place = ops.cast(size - 1 - index, integer)
        more = found + ops.left_shift(one, place)
        count = ops.sum(ops.cast(bits >= more, "int32"))
        return ops.where(count >= k, more, found)

    infinity = ops.full((), float("inf"), dtype)
    found = ops.fori_loop(0, size, with_bit, ops.zeros((), integer))
    return ops.where(k > 0, ops.view(found, dtype), infinity)


@dataclass(frozen=True)
class PrunedKernel:
    """A kernel of which the largest weights are read: what a pruned layer reads.

    Args:
        kernel: The raw kernel and its layer.
        kept: Variable of the numbers of weights kept, int32, one per kernel.
        index: Of this kernel in `kept`.
        operator: What the threshold does to the kernel.
        share: What pruned weights get of the gradient: a number, or a variable.
    """

    kernel: Kernel
    kept: keras.Variable
    index: int
    operator: Operator
    share: float | keras.Variable
    counted: ClassVar[bool] = True

    def _raw(self) -> Tensor:
        with full_precision():
            raw = ops.convert_to_tensor(self.kernel.variable.value)
        return raise_precision(raw)

    def threshold(self) -> Tensor:
        """The magnitude of the largest weight that is pruned; 0 if none is. A scalar.

        Weights as large as the smallest that is kept are kept too.
        """
        magnitudes = ops.reshape(ops.abs(ops.stop_gradient(self._raw())), (-1,))
        kept = ops.convert_to_tensor(self.kept.value)[self.index]
        smallest = _kth_largest(magnitudes, kept)
        below = ops.where(magnitudes < smallest, magnitudes, ops.zeros_like(magnitudes))
        return ops.max(below)

    def sparse(self) -> Tensor:
        """The operator's kernel at the threshold, of the kernel's shape and dtype."""
        raw, dtype = self._raw(), self.kernel.variable.dtype
        with full_precision():
            threshold = ops.stop_gradient(self.threshold())
            share = ops.cast(read_share(self.share), raw.dtype)
            # Where all are kept, a weight that is 0 is none that was pruned.
            kept = ops.convert_to_tensor(self.kept.value)[self.index]
            share = ops.where(kept >= math.prod(raw.shape), ops.ones_like(share), share)
            sparse = apply_threshold(raw, threshold, self.operator, share)
            return ops.cast(sparse, dtype)


@keras.saving.register_keras_serializable("str_keras")
class PrunedModel(ThresholdModel):
    """A model that reads the largest weights of each kernel; made by `prune`.

    The raw kernels stay whole: a weight that is not read now may come back. How many
    each kernel reads is a weight of the model, so it is in its files; `set_rates`
    changes it, and so does `SparsityRamp`.

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels that are pruned, as of `selection.select`.
        rates: Of each its final share of zeros, in [0, 1]; None with a target.
        operator, backward: Of `str_keras.operators`.
        target: What `SparsityRamp` leads the model to, at one rate for all kernels.
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
        rates: list[float] | None,
        operator: str | Operator = "hard",
        backward: Any = "masked",
        target: Target | Mapping[str, Any] | None = None,
        passed_through: Iterable[tuple[str, str]] = (),
        **kwargs: Any,
    ):
        super().__init__(
            model, kernels, operator, backward, target, passed_through, **kwargs
        )
        if (rates is None) == (self.target is None):
            raise ValueError(
                "A pruned model has either rates or a target. "
                f"Received: rates={rates}, target={target}"
            )
        if self.target is not None and self.target.mac_pressure:
            raise ValueError(
                "One rate for all kernels leaves no room for MACs: leave mac_pressure "
                "out, or choose thresholds that are learned or global. "
                f"Received: mac_pressure={self.target.mac_pressure}"
            )
        self.__dict__["rates"] = rates and [float(rate) for rate in rates]
        self.build()

    def add_source(self, kernels: list[Kernel], share: Any) -> list[PrunedKernel]:
        """Adds the numbers of weights kept, those of the final rates."""
        self.kept = self.add_led(KEPT, (len(kernels),), "int32", 0)
        items = [
            PrunedKernel(kernel, self.kept, index, self.operator, share)
            for index, kernel in enumerate(kernels)
        ]
        self.__dict__["thresholded"] = items
        self.set_rates(self.rates or [0.0] * len(items))
        return items

    def set_rates(self, rates: Iterable[float]) -> None:
        """Prunes each kernel at its rate, a share of zeros in [0, 1], from now on."""
        sizes = [math.prod(item.kernel.variable.shape) for item in self.thresholded]
        kept = [num_kept(n, rate) for n, rate in zip(sizes, rates, strict=True)]
        self.kept.assign(np.array(kept, "int32"))

    @property
    def follows_weights(self) -> bool:
        """Whether anything changes past the ramp: only an annealed share does."""
        return self.backward.constant is None

    def pruning_keys(self, pressure: np.ndarray) -> list[Keys]:
        """By kernel the rates from which on its smallest, second, ... weight goes."""
        sizes = [math.prod(item.kernel.variable.shape) for item in self.thresholded]
        return [
            Keys(np.arange(1, size + 1), functools.partial(_rates, size))
            for size in sizes
        ]

    def lead(self, reached: float, progress: float, loop: Loop | None) -> Any:
        """Sets the numbers of weights kept."""
        if loop is None:
            self.set_rates([rate * reached for rate in self.rates])
            return None
        kept = loop.solve(reached)[1]
        self.kept.assign(kept.astype("int32"))
        return kept

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the model inside serialized."""
        return {**super().get_config(), "rates": self.rates}


def _rates(size: int, ranks: np.ndarray) -> np.ndarray:
    return ranks / size


def _check_rates(rates: Mapping[str, float]) -> None:
    wrong = {path: rate for path, rate in rates.items() if not 0 <= rate <= 1}
    if wrong:
        raise ValueError(
            "A rate is a share of zeros, from 0 to 1 (90 % is 0.9). "
            f"Received: rates={wrong}"
        )


def prune(
    model: keras.Model,
    rates: float | Mapping[str, float] | Budget,
    backward: Any = "masked",
    skip: Iterable[Skip] | Skip = (),
    policy: str | None = None,
) -> PrunedModel:
    """Returns a copy of a model that reads only the largest weights of each kernel.

    Of each kernel `budget.num_kept(size, rate)` weights are read; which, is decided
    anew at every step. At once and for good, unless `SparsityRamp` is among the
    callbacks of `fit`. Train, `summary` and `strip` it like a `SparseModel`.

    Args:
        model: A built Functional or Sequential model; nested ones are opened.
        rates: Share of zeros in [0, 1] of every kernel; a `Budget`, which must fit the
            model; or rates by kernel path, the other kernels stay dense.
        backward: "masked": pruned weights get no gradient (GMP); "straight_through":
            all do, so that a pruned weight can grow and return (DNW); or another of
            `stk.register_backward`.
        skip: Layers to leave dense: see `sparsify`.
        policy: What else to leave dense: see `sparsify`.

    Returns:
        A `PrunedModel`, not compiled.

    Raises:
        TypeError: if `model` is no model, or a rule of `skip` of no known kind.
        ValueError: if a rate is not in [0, 1] or names no kernel of the model, an
            argument is unknown, or as `sparsify`.

    Source: GMP, Zhu and Gupta 2017; DNW, Wortsman et al. 2019.
    """
    backward = get_backward(backward)
    copy, kernels, passed = prepare(model, skip, policy)
    if isinstance(rates, Budget):
        skipped = {kernel.path for kernel in select(model)[0]} - set(kernels)
        found = rates.match(model).items()
        rates = {path: rate for path, rate in found if rate and path not in skipped}
    elif not isinstance(rates, Mapping):
        rates = dict.fromkeys(kernels, float(rates))
    _check_rates(rates)
    unknown = sorted(set(rates) - set(kernels))
    if unknown:
        raise ValueError(
            f"No kernel to prune has these paths; there are {kernels[:3]} and "
            f"{max(len(kernels) - 3, 0)} more. Received: rates of {unknown[:5]}"
        )
    dense = [path for path in kernels if path not in rates]
    passed += [(path.rpartition("/")[0], "no rate is given") for path in dense]
    pruned = [path for path in kernels if path in rates]
    if not pruned:
        raise ValueError(
            "There is nothing to prune: all rates are 0, or of kernels that `skip` "
            f"names. Received: {rates=}"
        )
    values = [rates[path] for path in pruned]
    return PrunedModel(copy, pruned, values, backward=backward, passed_through=passed)


def keep_random(model: keras.Model, rates: Mapping[str, float], seed: int) -> None:
    """Zeroes random weights of a model's kernels in place, exactly at their rates.

    Pruned with masked gradients at the same rates (`prune`), the zeros of such a model
    stay where they are: a static sparse net, from the start.

    Args:
        model: A built plain model.
        rates: Share of zeros in [0, 1] by kernel path.
        seed: Of the choice.

    Raises:
        ValueError: if a rate is not in [0, 1], or names no kernel of the model.

    Source: "Static" of RigL, Evci et al. 2020, https://arxiv.org/abs/1911.11134.
    """
    _check_rates(rates)
    kernels = {kernel.path: kernel.variable for kernel in select(model)[0]}
    unknown = sorted(set(rates) - set(kernels))
    if unknown:
        raise ValueError(f"The model has no such kernels. Received: {unknown}")
    random = np.random.default_rng(seed)
    for path, rate in rates.items():
        values = np.array(ops.convert_to_numpy(kernels[path]))
        dropped = random.permutation(values.size)[num_kept(values.size, rate) :]
        values.reshape(-1)[dropped] = 0
        kernels[path].assign(values)
