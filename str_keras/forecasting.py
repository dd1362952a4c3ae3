"""What weight decay alone will do to the thresholds, told before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from str_keras.layers import check_s_init
from str_keras.optimizers import CoupledOptimizer, CoupledRule
from str_keras.schedules import check_count, check_number, evaluate
from str_keras.thresholds import EXP_LIMIT, ThresholdFunction, get_g

ACTIVE = 1e-4
"""A threshold that begins to prune weights of a usual initialization."""

LARGE = 1e-2
"""A threshold of the size of weights, where the task's gradient pushes back."""

SET_IN = 0.2
"""Share of the training after which a suggested s_init brings g(s) to 1e-4.

By the same reckoning 0.28 in the paper's ResNet50 at 90.23 %, 0.21 in its MobileNetV1
at 89.01 %, 0.12 in a run of 12 epochs on Fashion-MNIST (decay 0.03, s = -40)."""

EARLY = 0.05
"""Share of the training before which no weight had the time to grow.

In the paper's ImageNet runs, up to 99.1 % of sparsity, g(s) would be 1e-2 after 0.11
to 0.45 of the training."""


@dataclass(frozen=True)
class Forecast:
    """The course of one logit s under weight decay alone; `print` it.

    The task's gradient, which pushes back once g(s) is as large as weights, is not in
    it: it tells when pruning sets in, and `final_threshold` is no prediction.

    Args:
        steps: Length of the training in steps of the optimizer: batches, unless it
            accumulates several.
        g: Name of the map from s to the threshold.
        s_init: Logit before the first step.
        final_s: Logit after the last.
        final_threshold: g of `final_s`, in units of weights.
        active_step: Steps after which g(s) >= 1e-4; None if never.
        large_step: Steps after which g(s) >= 1e-2; None if never.
        total_decay: Lambda = lambda * sum of lr / (1 - mu), which carries a recipe to
            another schedule; 8 to 47 in the paper's ImageNet runs.
        closed_form_s: `s_init exp(-Lambda)`, near `final_s` where lr is small.
        suggested_s_init: As `suggest_s_init`; None where decay is too weak.
        verdict: "prunes", "nothing" (dense to the end) or "everything" (layers die).
        warnings: One sentence each; empty if all is well.
        steps_per_epoch: For the text; None if unknown.
        logits: s before the first step and after each, float64, `(steps + 1,)`.
    """

    steps: int
    g: str
    s_init: float
    final_s: float
    final_threshold: float
    active_step: int | None
    large_step: int | None
    total_decay: float
    closed_form_s: float
    suggested_s_init: float | None
    verdict: str
    warnings: tuple[str, ...]
    steps_per_epoch: int | None
    logits: np.ndarray = field(repr=False, compare=False)

    def __str__(self) -> str:
        lines = [
            f"threshold by decay alone: 1e-4 {self._when(self.active_step)}, "
            f"1e-2 {self._when(self.large_step)}",
            f"s from {self.s_init:.6g} to {self.final_s:.4g} in {self.steps:,} steps "
            f"(Lambda = {self.total_decay:.4g}), {self.g}(s) = "
            f"{self.final_threshold:.3g} at the end",
        ]
        return "\n".join([*lines, *(f"warning: {line}" for line in self.warnings)])

    def _when(self, step: int | None) -> str:
        if step is None:
            return "never"
        share = f"{step / self.steps:.0%} of training"
        if self.steps_per_epoch:
            share = f"epoch {step / self.steps_per_epoch:.1f}, {share}"
        return f"at step {step:,} ({share})"


def forecast(
    optimizer: keras.optimizers.Optimizer,
    steps: int,
    s_init: float | None = None,
    g: str | Callable | ThresholdFunction = "sigmoid",
    kernels: Iterable[Any] | None = None,
    steps_per_epoch: int | None = None,
) -> Forecast:
    """Forecasts s from the optimizer's rule, its schedule and its decay, in float64.

    Args:
        optimizer: `SGD`, `Adam` or `AdamW` of `str_keras.optimizers`, alone or inside
            a `LossScaleOptimizer`. Its schedule is read from step 0.
        steps: Length of the training in steps of the optimizer: batches, unless it
            accumulates several.
        s_init: Initial logit; None is the default of `g`.
        g: Map from logit to threshold: a name, or what `register_g` gave.
        kernels: Raw kernels (variables or arrays) to hold the threshold against;
            without them 1e-4 and 1e-2 stand for small and usual weights.
        steps_per_epoch: To give epochs in the text.

    Returns:
        The `Forecast`.

    Raises:
        TypeError: for an optimizer without coupled decay, such as Keras' own, or a
            learning rate that cannot be known in advance.
        ValueError: for a number that makes no sense, or an unknown `g`.

    Source: Kusupati et al. 2020; s(T) = s_init exp(-lambda sum(lr) / (1 - mu)) while
    g(s) is 0 in float32, as s then has no gradient.
    """
    function = get_g(g)
    s_init = check_s_init(s_init, function)
    if steps_per_epoch is not None:
        steps_per_epoch = check_count("steps_per_epoch", steps_per_epoch)
    response, total = _respond(optimizer, steps)
    logits = s_init * response
    thresholds = _threshold(function, logits)
    try:
        suggested = _solve_s_init(function, response, ACTIVE, SET_IN)
    except ValueError:
        suggested = None
    verdict, warnings = _judge(response, thresholds, kernels, suggested, total)
    return Forecast(
        steps=len(response) - 1,
        g=function.name,
        s_init=s_init,
        final_s=float(logits[-1]),
        final_threshold=float(thresholds[-1]),
        active_step=_first(thresholds >= ACTIVE),
        large_step=_first(thresholds >= LARGE),
        total_decay=total,
        closed_form_s=s_init * math.exp(-total),
        suggested_s_init=suggested,
        verdict=verdict,
        warnings=tuple(warnings),
        steps_per_epoch=steps_per_epoch,
        logits=logits,
    )


def suggest_s_init(
    optimizer: keras.optimizers.Optimizer,
    steps: int,
    g: str | Callable | ThresholdFunction = "sigmoid",
    reach: float = ACTIVE,
    at: float = SET_IN,
) -> float:
    """Returns the s_init from which decay alone brings g(s) to `reach` in time.

    It sets when pruning begins: late enough for the dense network to learn, early
    enough to settle. How far it goes is for `threshold_decay` to say.

    Args:
        optimizer: As in `forecast`.
        steps: Length of the training in steps of the optimizer: batches, unless it
            accumulates several.
        g: Map from logit to threshold.
        reach: Threshold to be reached, in units of weights.
        at: Share of the steps after which it is, above 0 and below 1.

    Raises:
        TypeError: as `forecast`.
        ValueError: if decay is too weak to reach 1e-2 from there by the end, too
            strong for s to stay below 0, or a number makes no sense.
    """
    reach, at = check_number("reach", reach), check_number("at", at, below=1.0)
    if not reach or not at:
        raise ValueError(f"Both must be above 0. Received: {reach=}, {at=}")
    return _solve_s_init(get_g(g), _respond(optimizer, steps)[0], reach, at)


def learning_rates(optimizer: keras.optimizers.Optimizer, steps: int) -> np.ndarray:
    """Returns the learning rate of each step from 0 on, float64 `(steps,)`.

    Raises:
        TypeError: for a callable that takes no step, or as `forecast`.
        ValueError: if a rate is negative or not finite.
    """
    rate = _unwrap(optimizer).schedule
    if isinstance(rate, LearningRateSchedule):
        rates = evaluate(rate, steps)
    elif isinstance(rate, keras.Variable):
        rates = np.full(steps, _array(rate).item())
    else:
        raise TypeError(
            "The learning rate cannot be known in advance: use a float or a "
            f"LearningRateSchedule. Received: learning_rate={rate!r}"
        )
    wrong = _first(~(np.isfinite(rates) & (rates >= 0)))
    if wrong is not None:
        raise ValueError(
            "The learning rate must be finite, 0 or more, at every step. "
            f"Received: learning_rate={rates[wrong]} at step {wrong}"
        )
    return rates


def _unwrap(optimizer: Any) -> CoupledOptimizer:
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # LossScaleOptimizer
    if isinstance(inner, CoupledOptimizer):
        return inner
    raise TypeError(
        "Keras' own weight decay is decoupled from the gradient and hardly moves s: "
        "use SGD, Adam or AdamW of str_keras.optimizers. "
        f"Received: optimizer={type(inner).__module__}.{type(inner).__name__}"
    )


def _respond(optimizer: Any, steps: int) -> tuple[np.ndarray, float]:
    """s / s_init before the first step and after each; and Lambda."""
    inner = _unwrap(optimizer)
    rule = inner.threshold_rule
    rates = learning_rates(inner, check_count("steps", steps)) * rule.lr_multiplier
    total = rule.decay * rates.sum() / (1 - rule.momentum)
    return _decay_alone(rule, rates), float(total)


def _decay_alone(rule: CoupledRule, rates: np.ndarray) -> np.ndarray:
    """The rule from p = 1 with no gradient but the decay's, `(len(rates) + 1,)`."""
    p, v, course = 1.0, 0.0, [1.0]
    for rate in rates.tolist():
        step = rule.decay * p
        v = rule.momentum * v + step
        p -= rate * (step + rule.momentum * v if rule.nesterov else v)
        course.append(p)
    return np.array(course)


def _threshold(function: ThresholdFunction, logits: np.ndarray) -> np.ndarray:
    """g in float64; what was registered is known to the backend alone, in float32."""
    if function.name == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -logits))
    if function.name == "exp":
        return np.exp(np.minimum(logits, EXP_LIMIT))
    return _array(function(ops.convert_to_tensor(logits, dtype="float32")))


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def _first(condition: np.ndarray) -> int | None:
    return int(np.argmax(condition)) if condition.any() else None


def _inverse(function: ThresholdFunction, threshold: float) -> float:
    """s below 0 with g(s) = threshold, by bisection: g need not have an inverse."""

    def reached(s: float) -> bool:
        return bool(_threshold(function, np.array([s]))[0] >= threshold)

    low, high = -1.0, 0.0
    while reached(low) and low > -1e9:
        low *= 2
    if reached(low) or not reached(high):
        raise ValueError(
            f"Decay brings s towards 0 from below, where {function.name}(s) never "
            f"passes this threshold. Received: reach={threshold}"
        )
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _solve_s_init(
    function: ThresholdFunction, response: np.ndarray, reach: float, at: float
) -> float:
    """s_init with g(s_init * response) = reach after the share `at`: s is linear."""
    then = response[max(1, round(at * (len(response) - 1)))]
    if not (np.isfinite(then) and then > 0):
        raise ValueError(
            "Decay is so strong that s passes 0 by then: lower the threshold's decay "
            f"or the learning rate. Received: s / s_init = {then:.3g}"
        )
    s_init = _inverse(function, reach) / float(then)
    end = _threshold(function, s_init * response[-1:])[0]
    if not end >= LARGE:
        raise ValueError(
            "Decay is too weak for any s_init: raise the threshold's decay or train "
            f"longer. Received: a threshold of {end:.3g} at the end, below {LARGE:g}"
        )
    return s_init


def _judge(
    response: np.ndarray,
    thresholds: np.ndarray,
    kernels: Iterable[Any] | None,
    suggested: float | None,
    total: float,
) -> tuple[str, list[str]]:
    """The verdict and the warnings of `Forecast`."""
    verdict, warnings = "prunes", []
    steps = len(response) - 1
    sizes = [np.abs(_array(kernel)).ravel() for kernel in kernels or ()]
    fatal = min((float(size.max()) for size in sizes), default=LARGE)
    whose = "the largest weight of a layer" if sizes else "the size of weights"
    passed = _first(thresholds >= fatal)
    mend = "raise the threshold's decay"
    if suggested is not None:
        mend = f"start from s_init = {suggested:.4g}"
    if not np.isfinite(response).all() or response.min() < -EARLY:
        verdict = "everything"
        warnings.append(
            "everything may be pruned: s overshoots 0 and swings; lower the "
            "threshold's decay or the learning rate"
        )
    elif passed is not None and passed < EARLY * steps:
        verdict = "everything"
        warnings.append(
            f"everything may be pruned: g(s) passes {whose} ({fatal:.3g}) at step "
            f"{passed:,}, before it could grow; lower s_init or the threshold's decay"
        )
    elif thresholds[-1] < ACTIVE or _share(sizes, thresholds[-1]) < 0.01:
        verdict = "nothing"
        warnings.append(
            f"nothing would be pruned: g(s) ends at {thresholds[-1]:.3g} (Lambda = "
            f"{total:.3g}; 8 to 47 in the paper's runs); {mend}"
        )
    elif thresholds[-1] < LARGE:
        warnings.append(
            f"little would be pruned: g(s) ends at {thresholds[-1]:.3g}; {mend}"
        )
    if thresholds[0] >= ACTIVE:
        warnings.append(
            f"s starts active: g(s_init) = {thresholds[0]:.3g} prunes from the first "
            "step on, which wants a pretrained network"
        )
    return verdict, warnings


def _share(sizes: list[np.ndarray], threshold: float) -> float:
    """Share of the weights that a threshold would prune as they are; 1 of none."""
    if not sizes:
        return 1.0
    return float((np.concatenate(sizes) <= threshold).mean())
