"""Which knobs bring PQuantML's methods to a sparsity: calibrated, as `recipes` of STR.

RECIPES is what the suites take, TRIED what their calibration runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Knobs = Mapping[str, Any]

RECIPES: dict[str, dict[str, dict[float, Knobs]]] = {"fashion_mobilenet": {}}
"""Knobs by suite, method and level; `pquant_twin` says what a knob is."""

_TUNED = {"fine_tuning": 0.33}
_LATE = {"threshold_init": -20.0}
_FILTERS = {"threshold_type": "channelwise"}
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
}
"""Knobs that the calibration runs."""


def words(knobs: Knobs) -> str:
    """Knobs as a part of a name."""
    parts = [f"{name}{value}" for name, value in knobs.items()]
    return "-".join(parts) or "shipped"
