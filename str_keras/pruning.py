"""Pruning by magnitude at given rates: the baselines that STR is compared with.

Source: GMP, Zhu and Gupta 2017, https://arxiv.org/abs/1710.01878; DNW, Wortsman et al.
2019, https://arxiv.org/abs/1906.00586; both as in the experiments of Kusupati et al.
2020, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np

from str_keras.budget import Budget, num_kept
from str_keras.internals import full_precision, read_state_before_step
from str_keras.model import SubstitutedModel, prepare
from str_keras.selection import Kernel, Skip, select
from str_keras.thresholds import GRADIENTS, KEPT, Tensor, hard_threshold, ops


@dataclass(frozen=True)
class PrunedKernel:
    """A kernel of which the largest weights are read: what a pruned layer reads.

    Args:
        kernel: The raw kernel and its layer.
        kept: Variable of the numbers of weights kept, int32, one per kernel.
        index: Of this kernel in `kept`.
        gradient: See `hard_threshold`.
    """

    kernel: Kernel
    kept: keras.Variable
    index: int
    gradient: str
    counted: ClassVar[bool] = True

    def _raw(self) -> Tensor:
        with full_precision():
            return ops.convert_to_tensor(self.kernel.variable.value)

    def _threshold(self) -> tuple[Tensor, Tensor]:
        """What the kernel is thresholded at, and the magnitude of its largest weight.

        Negative where all weights are kept, infinite where none is.
        """
        magnitudes = ops.sort(ops.reshape(ops.abs(self._raw()), (-1,)))
        size = magnitudes.shape[0]
        ends = [ops.full((1,), end, magnitudes.dtype) for end in (-1.0, float("inf"))]
        steps = ops.concatenate([ends[0], magnitudes[1:], ends[1]])
        kept = ops.convert_to_tensor(self.kept.value)[self.index]
        position = ops.subtract(ops.cast(size, kept.dtype), kept)
        return ops.take(steps, position), magnitudes[-1]

    def threshold(self) -> Tensor:
        """The magnitude of the smallest weight that is kept; 0 if all are. A scalar."""
        threshold, largest = self._threshold()
        return ops.minimum(ops.maximum(threshold, 0.0), largest)

    def sparse(self) -> Tensor:
        """`hard_threshold(w, t)`, of the kernel's shape and dtype."""
        threshold = ops.stop_gradient(self._threshold()[0])
        return hard_threshold(self._raw(), threshold, self.gradient)


@keras.saving.register_keras_serializable("str_keras")
class PrunedModel(SubstitutedModel):
    """A model that reads the largest weights of each kernel; made by `prune`.

    The raw kernels stay whole: a weight that is not read now may come back. How many
    each kernel reads is a weight of the model, so it is in its files; `set_share`
    changes it.

    Args:
        model: A built Functional or Sequential model, owned from now on.
        kernels: Paths of the kernels that are pruned, as of `selection.select`.
        rates: Of each its final share of zeros, in [0, 1].
        gradient: "masked" or "straight_through", see `hard_threshold`.
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
        rates: list[float],
        gradient: str = "masked",
        passed_through: Iterable[tuple[str, str]] = (),
        **kwargs: Any,
    ):
        super().__init__(model, kernels, passed_through, **kwargs)
        self.gradient = gradient
        self.__dict__["rates"] = [float(rate) for rate in rates]
        self.build()

    def add_thresholds(self, kernels: list[Kernel]) -> list[PrunedKernel]:
        """Adds the numbers of weights kept, those of the final rates."""
        self.kept = self.add_weight(
            name=KEPT,
            shape=(len(kernels),),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            autocast=False,
        )
        items = [
            PrunedKernel(kernel, self.kept, index, self.gradient)
            for index, kernel in enumerate(kernels)
        ]
        self.__dict__["thresholded"] = items
        self.set_rates(self.rates)
        return items

    def set_rates(self, rates: Iterable[float]) -> None:
        """Prunes each kernel at its rate, a share of zeros in [0, 1], from now on."""
        sizes = [math.prod(item.kernel.variable.shape) for item in self.thresholded]
        kept = [num_kept(n, rate) for n, rate in zip(sizes, rates, strict=True)]
        self.kept.assign(np.array(kept, "int32"))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, the model inside serialized."""
        return {
            **super().get_config(),
            "rates": self.rates,
            "gradient": self.gradient,
        }


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
    gradient: str = "masked",
    skip: Iterable[Skip] | Skip = (),
    policy: str | None = None,
) -> PrunedModel:
    """Returns a copy of a model that reads only the largest weights of each kernel.

    Of each kernel `budget.num_kept(size, rate)` weights are read; which, is decided
    anew at every step. At once and for good, unless `PruningRamp` is among the
    callbacks of `fit`. Train, `summary` and `strip` it like a `SparseModel`.

    Args:
        model: A built Functional or Sequential model; nested ones are opened.
        rates: Share of zeros in [0, 1] of every kernel; a `Budget`, which must fit the
            model; or rates by kernel path, the other kernels stay dense.
        gradient: "masked": pruned weights get no gradient (GMP); "straight_through":
            all do, so that a pruned weight can grow and return (DNW).
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
    if gradient not in GRADIENTS:
        raise ValueError(f"`gradient` is one of {GRADIENTS}. Received: {gradient=}")
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
    return PrunedModel(copy, pruned, [rates[path] for path in pruned], gradient, passed)


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


class PruningRamp(keras.callbacks.Callback):
    """Raises the rates of a `PrunedModel` while it trains.

    `rate (1 - (1 - (step - begin) / (end - begin))^3)`, by `PolynomialDecay` of
    tensorflow-model-optimization, which must be installed; nothing is pruned before
    `begin`, and from `end` on everything at its rate. Steps are counted by the
    optimizer, so a training that goes on finds its place.

    Args:
        begin: First step of the ramp.
        end: Step at which the rates are reached; equal to `begin`: all at once.
        frequency: Steps between two changes of the rates.

    Raises:
        ValueError: if `begin` is negative, `end` before it, or `frequency` below 1.

    Source: Zhu and Gupta 2017, equation 1.
    """

    model: Any

    def __init__(self, begin: int, end: int, frequency: int = 1):
        super().__init__()
        if not 0 <= begin <= end or frequency < 1:
            raise ValueError(
                "A ramp wants 0 <= begin <= end and a frequency of at least 1. "
                f"Received: {begin=}, {end=}, {frequency=}"
            )
        self.begin, self.end, self.frequency = begin, end, frequency

    def rates_at(self, step: int, rates: Iterable[float]) -> list[float]:
        """The rates in force at a step, for the final `rates`."""
        rates, step = list(rates), self._last_change(step)
        if step == self.end:
            return rates
        if step < 0:
            return [0.0] * len(rates)
        return [_polynomial(step, self.begin, self.end, rate) for rate in rates]

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the model."""
        if not isinstance(self.model, PrunedModel):
            raise TypeError(
                "PruningRamp raises the rates of a model made by `stk.prune`. "
                f"Received: model={type(self.model).__name__}"
            )
        self._set_at: int | None = None
        if self.begin < self.end:
            _polynomial_decay()  # now, and not when the ramp begins

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Finds the step."""
        self.first = self._iterations()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Changes the rates where the ramp does; several steps may be one call."""
        every = getattr(self.model.optimizer, "gradient_accumulation_steps", None) or 1
        self._set(self.first + batch // every)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Arrives at the rates where the ramp ends with the training."""
        step = self._iterations()
        if step >= self.end:
            self._set(step)

    def _iterations(self) -> int:
        read_state_before_step(self.model)
        return int(ops.convert_to_numpy(self.model.optimizer.iterations))

    def _set(self, step: int) -> None:
        change = self._last_change(step)
        if change != self._set_at:
            read_state_before_step(self.model)
            self.model.set_rates(self.rates_at(step, self.model.rates))
            self._set_at = change

    def _last_change(self, step: int) -> int:
        """The step at which the rates in force at `step` came into force."""
        if step < self.begin:
            return -1
        if step >= self.end:
            return self.end
        return step - (step - self.begin) % self.frequency


def _polynomial_decay() -> Any:
    # Late: it brings tf_keras with it, and no other part needs that.
    try:
        import tensorflow_model_optimization as tfmot
    except ImportError as error:
        raise ImportError(
            "PruningRamp takes its cubic from tensorflow-model-optimization, which "
            f"wants TensorFlow, on every backend: install both. Received: {error}"
        ) from error
    return tfmot.sparsity.keras.PolynomialDecay


def _polynomial(step: int, begin: int, end: int, rate: float) -> float:
    if rate == 1:  # tfmot wants less
        return 1.0
    schedule = _polynomial_decay()(0.0, rate, begin, end, power=3, frequency=1)
    return float(schedule(step)[1])
