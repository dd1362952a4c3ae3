"""How much decay brings STR to a sparsity: calibrated, and carried over.

RECIPES is what the suites take, TRIED what their calibration runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from str_keras import building
from str_keras.config import TrainConfig
from str_keras.forecasting import learning_rates

_LAYERS = {
    0.80: (0.0088, -8.0),
    0.90: (0.0113, -8.0),
    0.95: (0.0141, -8.0),
    0.98: (0.0204, -20.0),
    0.99: (0.021, -20.0),
}
_LAYERS_RESNET = {
    0.80: (0.0105, -8.0),
    0.90: (0.0164, -12.0),
    0.95: (0.023, -20.0),
    0.98: (0.031, -20.0),
    0.99: (0.039, -20.0),
}
_NETWORK = {
    0.80: (0.0375, -8.0),
    0.90: (0.068, -12.0),
    0.95: (0.1055, -12.0),
    0.98: (0.125, -12.0),
    0.99: (0.15, -12.0),
}
# 90 and 95 % were run (89.7 to 91.3 %, and 95.5 %), the others are guesses from them.
_LAYERS_CIFAR = {
    0.80: (0.0025, -8.0),
    0.90: (0.0032, -8.0),
    0.95: (0.0049, -20.0),
    0.98: (0.006, -20.0),
    0.99: (0.0066, -20.0),
}
# Lambda of Fashion-MNIST's, not calibrated.
_NETWORK_CIFAR = {
    0.80: (0.00903, -8.0),
    0.90: (0.0164, -12.0),
    0.95: (0.0254, -12.0),
    0.98: (0.0301, -12.0),
    0.99: (0.0361, -12.0),
}
RECIPES: dict[str, dict[str, dict[float, tuple[float, float]]]] = {
    "fashion_mobilenet": {"str": _LAYERS, "str_global": _NETWORK},
    "fashion_resnet": {"str": _LAYERS_RESNET, "str_global": _NETWORK},
    "cifar_mobilenet": {"str": _LAYERS_CIFAR, "str_global": _NETWORK_CIFAR},
}
"""threshold_decay and s_init by suite, method and level: 468 steps; CIFAR-10 1,950.

From runs of seed 0 (`calibrate_mobilenet`, `_resnet`, `_cifar`), on a line in the
logarithm of density; those below the least decay tried are from the line beyond it, and
CIFAR-10 was tried at 95 % alone, so that the suite's own row is the check of 90 %. STR
does not hit a level: each row has the sparsity measured. In
mobilenetv1 the last two levels are out of reach: thresholds outrun the weights, from
about 97 % on accuracy falls and layers die, where s_init is farther off a little later.
resnet10's shortcuts keep it alive. Its str_global is not calibrated.

For another data set or length `carry_over` keeps Lambda. That keeps a collapse away but
not the sparsity: in more steps weights make good what thresholds take. At the recipe of
98 %, seed 0, 12, 24 and 36 epochs gave 97.4, 93.6 and 89.8 % (`calibrate_epochs`)."""

TRIED: dict[str, dict[str, Sequence[tuple[float, float]]]] = {
    "fashion_mobilenet": {
        "str": (
            *((0.009, -8.0), (0.012, -8.0), (0.014, -8.0)),
            *((0.0175, -12.0), (0.019, -12.0), (0.0185, -16.0), (0.019, -20.0)),
            *((0.0197, -20.0), (0.0204, -20.0), (0.0215, -20.0), (0.021, -30.0)),
            (0.0235, -30.0),
        ),
        "str_global": (
            *((0.018, -8.0), (0.022, -8.0), (0.026, -8.0), (0.035, -8.0)),
            *((0.05, -8.0), (0.07, -12.0), (0.1, -12.0), (0.175, -12.0)),
            *((0.25, -12.0), (0.13, -30.0)),
        ),
    },
    "fashion_resnet": {
        "str": (
            *((0.0204, -20.0), (0.024, -20.0), (0.0175, -12.0), (0.0113, -8.0)),
            *((0.029, -20.0), (0.034, -20.0)),
        ),
        "str_global": ((0.05, -8.0), (0.1, -12.0)),
    },
    "cifar_mobilenet": {
        "str": ((0.0049, -20.0),),
        "str_global": (),
    },
}
"""Decays and initial logits that the calibration runs."""


def decay_sum(recipe: TrainConfig, steps: int) -> float:
    """Sum of the learning rates over (1 - mu): what a decay of 1 adds up to.

    Args:
        recipe: Its schedule and momentum count.
        steps: Steps of an epoch.
    """
    optimizer = building.create_optimizer(recipe, steps)
    rates = learning_rates(optimizer, steps * recipe.epochs)
    return float(rates.sum() / (1 - recipe.momentum))


def total_decay(recipe: TrainConfig, steps: int) -> float:
    """Lambda = lambda * sum over steps of lr / (1 - mu), of the thresholds' logits.

    While g(s) is 0 in float32, `s(T) = s_init exp(-Lambda)`: equal Lambda and s_init
    carry a recipe from one schedule to another.

    Args:
        recipe: A configuration of the method str.
        steps: Steps of an epoch.
    """
    decay = recipe.threshold_decay
    decay = recipe.weight_decay if decay is None else decay
    return decay * decay_sum(recipe, steps)


def carry_over(
    decay: float, old: TrainConfig, old_steps: int, new: TrainConfig, new_steps: int
) -> float:
    """The decay that has the same Lambda in the new recipe as `decay` in the old.

    Args:
        decay: Of the thresholds' logits, in the old recipe.
        old, new: Recipes.
        old_steps, new_steps: Steps of an epoch.
    """
    return decay * decay_sum(old, old_steps) / decay_sum(new, new_steps)
