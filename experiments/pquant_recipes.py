"""Which knobs bring PQuantML's methods to a sparsity: calibrated, as `recipes` of STR.

RECIPES is what the suites take, TRIED what their calibration runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Knobs = Mapping[str, Any]

_TUNED = {"fine_tuning": 0.33}
_LATE = {"threshold_init": -20.0}
_FILTERS = {"threshold_type": "channelwise"}
RECIPES: dict[str, dict[str, dict[float, Knobs]]] = {
    "fashion_mobilenet": {
        "pquant_autosparse": {
            0.80: {"decay": 0.0039},
            0.90: {"decay": 0.0053},
            0.95: {"decay": 0.0085},
        },
        "pquant_dst": {0.80: {**_FILTERS, "alpha": 0.0005}},
        "pquant_cs": {
            0.80: {**_TUNED, "threshold_decay": 2.2e-6},
            0.90: {**_TUNED, "threshold_decay": 7.1e-6},
            0.95: {**_TUNED, "threshold_decay": 2e-5},
            0.98: {**_TUNED, "threshold_decay": 5.3e-5},
            0.99: {**_TUNED, "threshold_decay": 1.3e-4},
        },
    },
    "fashion_resnet": {
        "pquant_autosparse": {
            0.80: {"decay": 0.0035},
            0.90: {"decay": 0.0045},
            0.95: {"decay": 0.0059},
            0.98: {"decay": 0.0086},
            0.99: {"decay": 0.013},
        },
        "pquant_dst": {
            0.80: {**_FILTERS, "alpha": 0.00051},
            0.90: {**_FILTERS, "alpha": 0.00089},
            0.95: {**_FILTERS, "alpha": 0.00145},
        },
        "pquant_cs": {
            0.80: {**_TUNED, "threshold_decay": 1.9e-6},
            0.90: {**_TUNED, "threshold_decay": 3.8e-6},
            0.95: {**_TUNED, "threshold_decay": 7.9e-6},
            0.98: {**_TUNED, "threshold_decay": 2e-5},
            0.99: {**_TUNED, "threshold_decay": 4e-5},
        },
    },
}
"""Knobs by suite, method and level; `pquant_twin` says what a knob is.

From runs of seed 0 (`calibrate_pquant`, `calibrate_pquant_resnet`), on a line in the
logarithm of density between two of them, for CS also beyond the first and the last.
The ResNet lives at all of them. Levels of the MobileNet that are not here were not
reached:
- AutoSparse stays below 96 % from a decay of 0.01 on, at which sparsity no longer
  follows the decay; from an initial threshold of -20 too.
- DST's loss becomes infinite: by filter from an alpha of 0.0018 on; with one for
  each weight, as it ships, at 0.0025. From 80 % of zeros on, weights and thresholds of
  the last layers grow a hundredfold within 13 steps. The likely cause: batch norm
  multiplies gradients of filters that are all zero by 1 / sqrt(epsilon), 316.
- CS gets to 98 and 99 %, but at accuracies of 66 and 44 %."""

TRIED: dict[str, dict[str, Sequence[Knobs]]] = {
    "fashion_mobilenet": {
        "pquant_autosparse": [
            *({"decay": decay} for decay in (0.003, 0.0045, 0.006, 0.01, 0.013, 0.016)),
            *({**_LATE, "decay": decay} for decay in (0.02, 0.03)),
        ],
        "pquant_dst": [
            *({**_FILTERS, "alpha": a} for a in (0.0005, 0.0012, 0.0015, 0.0018)),
            *({"alpha": alpha} for alpha in (0.0025, 0.005)),
        ],
        "pquant_cs": [
            *({**_TUNED, "threshold_decay": d} for d in (3e-6, 1e-5, 2e-5, 3e-5, 5e-5)),
            {**_TUNED, "threshold_decay": 1e-4},
        ],
    },
    "fashion_resnet": {
        "pquant_autosparse": [{"decay": d} for d in (0.003, 0.005, 0.008, 0.013, 0.02)],
        "pquant_dst": [
            *({**_FILTERS, "alpha": a} for a in (0.0005, 0.001, 0.0018, 0.0027, 0.0044))
        ],
        "pquant_cs": [
            {**_TUNED, "threshold_decay": d} for d in (5e-6, 1.5e-5, 5e-5, 1.5e-4)
        ],
    },
}
"""Knobs that the calibration runs."""


def words(knobs: Knobs) -> str:
    """Knobs as a part of a name."""
    parts = [f"{name}{value}" for name, value in knobs.items()]
    return "-".join(parts) or "shipped"
