"""Optimizers whose L2 decay is coupled to the gradient, as STR needs it for s.

At the paper's initial logits g(s) and g'(s) are 0 in float32: decay alone brings s to
where it meets the weights. Keras' own `weight_decay` is decoupled (`p -= lr wd p`, not
amplified by 1 / (1 - momentum)): with it s barely moves and the model stays dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from str_keras.schedules import check_number
from str_keras.thresholds import is_threshold_logit

__all__ = ["SGD", "Adam", "AdamW"]

Tensor = Any
LearningRate = float | LearningRateSchedule | Callable[[], Any]

NORMALIZATION_NAMES = ("gamma", "beta")
"""How Keras names the weights of batch (and any other) normalization."""


@dataclass(frozen=True)
class CoupledRule:
    """PyTorch's SGD: `v <- mu v + (grad + decay p); p <- p - lr_multiplier lr v`.

    The learning rate multiplies v when it is used. (Keras folds it into v, which is
    another rule once the rate changes.)

    Args:
        decay: Coefficient of L2, in units of 1.
        momentum: mu, in [0, 1).
        nesterov: Steps by `grad + decay p + mu v` instead of v.
        lr_multiplier: Factor of the optimizer's learning rate.
    """

    decay: float
    momentum: float
    nesterov: bool = False
    lr_multiplier: float = 1.0


class CoupledOptimizer(keras.optimizers.Optimizer):
    """What the optimizers share: which variable steps by which rule.

    A subclass sets `decay_batch_norm` and `threshold_rule`, and says in `_rule_of`
    which other variables take a `CoupledRule`; the rest take the rule of the next
    class, a Keras optimizer. Rules are chosen when the optimizer is built, where
    variables still have the names of their layers: TensorFlow hands `update_step`
    another object under another name.
    """

    decay_batch_norm: bool
    threshold_rule: CoupledRule

    def build(self, variables: list[keras.Variable]) -> None:
        """Chooses the rule of each variable and adds its momentum."""
        if self.built:
            return
        super().build(variables)
        self._decayed = [self._is_decayed(variable) for variable in variables]
        self._rules = [
            self.threshold_rule
            if is_threshold_logit(variable)
            else self._rule_of(decayed)
            for variable, decayed in zip(variables, self._decayed, strict=True)
        ]
        self._coupled_momentums = [
            self.add_variable_from_reference(variable, name="coupled_momentum")
            if rule is not None and rule.momentum
            else None
            for variable, rule in zip(variables, self._rules, strict=True)
        ]

    def _rule_of(self, decayed: bool) -> CoupledRule | None:
        # Abstract: each optimizer couples decay by a rule of its own.
        raise NotImplementedError

    def _is_decayed(self, variable: keras.Variable) -> bool:
        if is_threshold_logit(variable):
            return False  # its decay is in `threshold_rule`
        if not self.decay_batch_norm and variable.name in NORMALIZATION_NAMES:
            return False
        return super()._use_weight_decay(variable)  # `exclude_from_weight_decay`

    def _use_weight_decay(self, variable: Any) -> bool:
        """Keras' question before its decoupled decay, under TensorFlow nameless."""
        return self._decayed[self._get_variable_index(variable)]

    def update_step(
        self, gradient: Tensor, variable: Any, learning_rate: Tensor
    ) -> None:
        """Steps one variable by its rule; gradients come clipped and unscaled."""
        index = self._get_variable_index(variable)
        rule = self._rules[index]
        if rule is None:
            super().update_step(gradient, variable, learning_rate)
            return
        dtype = variable.dtype

        def exact(coefficient: float) -> Tensor:  # in float64 too, on every backend
            return ops.convert_to_tensor(coefficient, dtype)

        rate = ops.multiply(ops.cast(learning_rate, dtype), exact(rule.lr_multiplier))
        step = ops.cast(gradient, dtype)
        if rule.decay:
            step = ops.add(step, ops.multiply(variable, exact(rule.decay)))
        if rule.momentum:
            mu, slot = exact(rule.momentum), self._coupled_momentums[index]
            momentum = ops.add(ops.multiply(slot, mu), step)
            self.assign(slot, momentum)
            if rule.nesterov:
                momentum = ops.add(step, ops.multiply(momentum, mu))
            step = momentum
        self.assign_sub(variable, ops.multiply(step, rate))

    def _get_current_learning_rate(self) -> Any:
        """By steps of this optimizer: Keras asks a schedule by accumulated batches."""
        if isinstance(self._learning_rate, LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()

    @property
    def schedule(self) -> Any:
        """The schedule, variable or callable behind `learning_rate`.

        Keras' public property is its value at the present step.
        """
        return self._learning_rate


@keras.saving.register_keras_serializable("str_keras")
class SGD(CoupledOptimizer):
    """PyTorch's SGD with L2 in the gradient, and a decay of its own for s.

    `v <- mu v + (grad + decay p); p <- p - lr v` on kernels, biases, normalization
    and threshold logits alike. Gradients are clipped before the decay is added and
    unscaled before both; a step skipped by loss scaling changes nothing. (Under
    tf.distribute Keras clips the gradient of each replica before it sums them.)

    Args:
        learning_rate: Float, `LearningRateSchedule`, or a callable without arguments.
        momentum: mu, in [0, 1). The paper: 0.875.
        nesterov: Looks ahead, as PyTorch does; wants a momentum.
        weight_decay: L2 coefficient lambda of everything but s; coupled.
        threshold_decay: That of s; None takes `weight_decay`, as the paper does.
        decay_batch_norm: False leaves variables named gamma and beta out of the decay
            (of any normalization layer). Biases are decayed, as in PyTorch:
            `exclude_from_weight_decay(var_names=["bias"])` leaves them out.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema` and the other
            arguments of `keras.optimizers.Optimizer`. With
            `gradient_accumulation_steps` (one device only: Keras fails on several) a
            schedule counts this optimizer's steps, not batches as Keras would.

    Raises:
        ValueError: for a number that is negative or not finite, a momentum of 1 or
            more, or nesterov without momentum.

    Source: Kusupati et al. 2020, training code; `torch.optim.SGD`.
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        threshold_decay: float | None = None,
        decay_batch_norm: bool = True,
        **kwargs: Any,
    ):
        # None: Keras' own decay would come on top of ours.
        super().__init__(_check_rate(learning_rate), weight_decay=None, **kwargs)
        self.decay_batch_norm = bool(decay_batch_norm)
        self.threshold_decay = threshold_decay
        self.rule = CoupledRule(
            check_number("weight_decay", weight_decay),
            check_number("momentum", momentum, below=1.0),
            bool(nesterov),
        )
        if nesterov and not momentum:
            raise ValueError(
                f"Nesterov needs a momentum above 0. Received: {momentum=}, {nesterov=}"
            )
        if threshold_decay is None:
            self.threshold_rule = self.rule
        else:
            decay = check_number("threshold_decay", threshold_decay)
            self.threshold_rule = CoupledRule(
                decay, self.rule.momentum, self.rule.nesterov
            )

    def _rule_of(self, decayed: bool) -> CoupledRule:
        rule = self.rule
        return rule if decayed else CoupledRule(0.0, rule.momentum, rule.nesterov)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.rule.momentum,
            "nesterov": self.rule.nesterov,
            "weight_decay": self.rule.decay,
            "threshold_decay": self.threshold_decay,
            "decay_batch_norm": self.decay_batch_norm,
        }


class _AdamWithThresholds(CoupledOptimizer):
    """Steps s by SGD with coupled decay and leaves the rest to the next class."""

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        *,
        threshold_decay: float,
        threshold_lr_multiplier: float = 100.0,
        threshold_momentum: float = 0.0,
        decay_batch_norm: bool = True,
        **kwargs: Any,
    ):
        if kwargs.get("weight_decay") is not None:
            check_number("weight_decay", kwargs["weight_decay"])
        super().__init__(_check_rate(learning_rate), **kwargs)
        self.decay_batch_norm = bool(decay_batch_norm)
        self.threshold_rule = CoupledRule(
            check_number("threshold_decay", threshold_decay),
            check_number("threshold_momentum", threshold_momentum, below=1.0),
            lr_multiplier=check_number(
                "threshold_lr_multiplier", threshold_lr_multiplier
            ),
        )

    def _rule_of(self, decayed: bool) -> None:
        return None

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        rule = self.threshold_rule
        return {
            **super().get_config(),
            "threshold_decay": rule.decay,
            "threshold_lr_multiplier": rule.lr_multiplier,
            "threshold_momentum": rule.momentum,
            "decay_batch_norm": self.decay_batch_norm,
        }


# Keras names the argument of `build` differently in Optimizer and Adam.
@keras.saving.register_keras_serializable("str_keras")
class Adam(_AdamWithThresholds, keras.optimizers.Adam):  # type: ignore
    """Keras' Adam, with threshold logits stepped by SGD with coupled decay.

    Adam itself divides the decay of s by its own size and never brings s anywhere.
    Here `v <- mu v + (grad + threshold_decay s); s <- s - m lr v`, with m the
    multiplier and lr the learning rate of the step, so that s cools down with the
    weights. Keras' `weight_decay` is decoupled and never acts on s.

    A setting that works from a pretrained dense network, in 390 steps:
    `Adam(schedules.create("cosine", 1e-3, 39, 10, 0), threshold_decay=0.25)` and
    `s_init=-40`: 91 % of sparsity and about 1 point of accuracy lost, in an MLP on
    Fashion-MNIST (a test, which allows 3). For another length keep Lambda of
    `stk.forecast`, 5.4.

    Args:
        learning_rate: Float, `LearningRateSchedule`, or a callable without arguments.
        threshold_decay: L2 coefficient of s; no default, as it depends on the length
            of the training: `stk.forecast` shows what it does.
        threshold_lr_multiplier: m; 100 turns Adam's 1e-3 into SGD's 0.1.
        threshold_momentum: mu of s, in [0, 1). In short trainings a decay strong
            enough to prune makes s swing past 0 with one, and layers die.
        decay_batch_norm: False leaves variables named gamma and beta out of Keras'
            `weight_decay`.
        **kwargs: Arguments of `keras.optimizers.Adam`.

    Raises:
        ValueError: for a number that is negative or not finite, or a momentum of 1 or
            more.
    """


@keras.saving.register_keras_serializable("str_keras")
class AdamW(_AdamWithThresholds, keras.optimizers.AdamW):  # type: ignore
    """Keras' AdamW, with threshold logits stepped as in `Adam`.

    `weight_decay` (0.004 unless told) is decoupled, `w -= lr weight_decay w`, and
    never acts on s.

    Args:
        learning_rate: As `Adam`, and so the four below.
        threshold_decay: L2 coefficient of s; required.
        threshold_lr_multiplier: Step size of s over the learning rate.
        threshold_momentum: mu of s, in [0, 1).
        decay_batch_norm: False leaves gamma and beta out of `weight_decay`.
        **kwargs: Arguments of `keras.optimizers.AdamW`.

    Raises:
        ValueError: as `Adam`.
    """


@keras.saving.register_keras_serializable("str_keras")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras' loss scaling, where all replicas skip a step if one of them overflows.

    Keras 3.15 asks the first replica alone, before the gradients are summed: an
    overflow in another one makes every weight NaN. Under `mixed_float16` `compile`
    wraps an optimizer in Keras' own; on several replicas, give it this one.

    Args:
        inner_optimizer: What steps by the unscaled gradients.
        **kwargs: `initial_scale`, `dynamic_growth_steps` and `name`, as in Keras.
    """

    def check_finite(self, grads: list[Tensor]) -> Tensor:
        """Whether the gradients of every replica are finite, a boolean scalar."""
        finite = super().check_finite(grads)
        if keras.backend.backend() != "tensorflow":
            return finite
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return finite
        overflows = ops.cast(ops.logical_not(finite), "float32")
        return tf.equal(replica.all_reduce("SUM", overflows), 0.0)


def _check_rate(learning_rate: LearningRate) -> LearningRate:
    """Checks a number; a schedule or a callable answers for itself."""
    if callable(learning_rate):
        return learning_rate
    return check_number("learning_rate", learning_rate)
