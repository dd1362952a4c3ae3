"""Median and quartiles of what was measured several times."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Spread:
    """The middle half of several measurements.

    Attributes:
        median: Half of them are above it.
        low: First quartile: a quarter is below it.
        high: Third quartile: a quarter is above it.
        number: How many there are.
    """

    median: float
    low: float
    high: float
    number: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Of measurements in any order; None of none.

        Between two measurements quartiles are interpolated linearly.
        """
        if not values:
            return None
        low, median, high = np.quantile(np.asarray(values, float), (0.25, 0.5, 0.75))
        return cls(float(median), float(low), float(high), len(values))


def ratios(baseline: Sequence[float], others: Sequence[float]) -> Spread | None:
    """How many times the others are in the baseline, turn by turn.

    Args:
        baseline: Seconds of the baseline's run in each turn.
        others: Seconds of another file's run in the same turns.

    Returns:
        Median and quartiles of the turns' ratios, which a change of the machine's speed
        between turns leaves alone; None if either was not measured.

    Raises:
        ValueError: if they are not of the same turns.
    """
    if not baseline or not others:
        return None
    pairs = zip(baseline, others, strict=True)
    return Spread.of([base / other for base, other in pairs])
