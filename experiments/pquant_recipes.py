"""Which knobs bring PQuantML's methods to a sparsity: calibrated, as `recipes` of STR.

RECIPES is what the suites take, TRIED what their calibration runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Knobs = Mapping[str, Any]

RECIPES: dict[str, dict[str, dict[float, Knobs]]] = {"fashion_mobilenet": {}}
"""Knobs by suite, method and level; `pquant_twin` says what a knob is."""

TRIED: dict[str, dict[str, Sequence[Knobs]]] = {
    "fashion_mobilenet": {
        "pquant_autosparse": (
            {},
            {"decay": 0.01},
            {"decay": 0.01, "fine_tuning": 0.25},
            {"threshold_init": -3.5},
        ),
        "pquant_dst": (
            {"alpha": 0.0005},
            {"alpha": 0.0005, "threshold_type": "channelwise"},
            {"alpha": 0.005},
        ),
        "pquant_cs": (
            {"fine_tuning": 0.33},
            {"fine_tuning": 0.33, "threshold_init": -0.1},
            {"fine_tuning": 0.33, "threshold_decay": 1e-5},
        ),
    },
}
"""Knobs that the calibration runs."""


def words(knobs: Knobs) -> str:
    """Knobs as a part of a name."""
    parts = [f"{name}{value}" for name, value in knobs.items()]
    return "-".join(parts) or "shipped"
