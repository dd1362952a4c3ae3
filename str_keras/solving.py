"""Which common level of the thresholds brings a model to its target: `Loop`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from str_keras.budget.counting import geometry
from str_keras.budget.file_size import FileSize
from str_keras.ranking import Keys, Pool, first
from str_keras.targets import Target

OPEN = -1e4
"""The level that prunes nothing, and is a number: g(s - 1e4) = 0."""

MARGIN = 24
"""Keys of the sample on each side of the guess between which a level is looked for."""


class Loop:
    """Solves for the level that all kernels share; made once for a model.

    A weight is pruned if its key is at most the level of its kernel. Keys are the
    model's (`Keys`): of learned thresholds (g^-1(|w|) - s) / r, so that the level is
    the pressure under which s rises by r times it, r as `SparseModel` says; |w| over
    the layer's scale of global quantiles; the rank in its kernel of quantiles by layer.

    Args:
        model: With a target, and `thresholded` and `pruning_keys()`.

    Raises:
        ValueError: if the target cannot be reached even with every kernel at its floor,
            or is above what the dense model has.
    """

    def __init__(self, model: Any):
        self.model = model
        self.target: Target = model.target
        rows = {id(v): row for row, v in geometry(model.model)}
        own = [rows[id(item.kernel.variable)] for item in model.thresholded]
        self.sizes = np.array([row.params for row in own])
        self.floors = np.array([self.target.floor(row.params) for row in own])
        self.widths = np.array([sum(row.shape) for row in own])
        self.uses: np.ndarray | None = None
        if None not in [row.macs for row in rows.values()]:
            self.uses = np.array([(row.macs or 0) / row.params for row in own])
            total = sum(row.macs or 0 for row in rows.values())
            self.fixed = total - float(self.uses @ self.sizes)
        self.cost = self._cost()
        self.dense = self.cost(self.sizes)
        self.limit = self._limit()
        self.floors = self._raised_floors()
        least = self.cost(self.floors)
        self.pressure()  # of unknown MACs it raises: now, and not in training
        # By as much a target may be missed: a weight of each kernel, and 0.1 %.
        ones = np.minimum(self.floors + 1, self.sizes)
        self.slack = self.cost(ones) - least + 0.001 * self.dense
        if not least <= self.limit <= self.dense:
            raise ValueError(
                "The target is out of reach: the dense model has "
                f"{self.told(self.dense)}, and with every kernel at its floor "
                "(min_density, min_kept, layers without thresholds) it has "
                f"{self.told(least)}. "
                f"Received: target_{self.target.kind}={self.target.value:g}"
            )

    def _cost(self) -> Callable[[np.ndarray], float]:
        if self.target.kind == "bytes":
            size = FileSize(self.model, weights="float16")
            return lambda kept: float(size(kept))
        if self.target.kind == "sparsity":
            return lambda kept: float(np.sum(kept))
        if self.uses is None:
            raise ValueError(
                "The MACs of a kernel are not known: give the model an input of fixed "
                "size, or set another target. "
                f"Received: target_macs={self.target.value:g}"
            )
        uses, fixed = self.uses, self.fixed
        return lambda kept: fixed + float(uses @ kept)

    def _raised_floors(self) -> np.ndarray:
        """The floors with `min_per_channel`, as far as half of what is left goes."""
        nothing = self.cost(np.zeros_like(self.sizes))
        most = nothing + (self.limit - nothing) / 2
        number = self.target.min_per_channel
        while number > 0.01:
            wanted = np.minimum(np.ceil(number * self.widths), self.sizes)
            floors = np.maximum(self.floors, wanted.astype(self.floors.dtype))
            if self.cost(floors) <= most:
                return floors
            number *= 0.95
        return self.floors

    def _limit(self) -> float:
        if self.target.kind == "sparsity":
            return float(round(self.dense * (1 - self.target.value)))
        if self.target.kind == "macs" and self.target.value < 1:
            return self.dense * self.target.value
        return self.target.value

    def told(self, cost: float) -> str:
        """A cost with its unit."""
        unit = {"sparsity": "weights", "macs": "MACs", "bytes": "bytes"}
        return f"{cost:,.0f} {unit[self.target.kind]}"

    def pressure(self) -> np.ndarray:
        """By kernel the factor of its threshold that `mac_pressure` asks for.

        Its MACs per weight over their geometric mean, to that power; 1 without.
        """
        power = self.target.mac_pressure
        if power == 0:
            return np.ones(len(self.sizes))
        if self.uses is None:
            raise ValueError(
                "The MACs of a kernel are not known: leave mac_pressure out. "
                f"Received: mac_pressure={power}"
            )
        logs = np.log(np.maximum(self.uses, 1e-9))
        return np.exp(power * (logs - np.average(logs, weights=self.sizes)))

    def limit_at(self, reached: float) -> float:
        """What the ramp asks for, in weights, MACs or bytes."""
        return self.dense + (self.limit - self.dense) * reached

    def solve(self, reached: float) -> tuple[np.ndarray, np.ndarray]:
        """The levels at a share of the way from dense to the target.

        Args:
            reached: In [0, 1].

        Returns:
            Two arrays `(kernels,)`: the level of each kernel, float64, equal but where
            a floor holds it; and the weights it keeps, int64.
        """
        keys: list[Keys] = self.model.pruning_keys(self.pressure())
        if reached <= 0:
            kept = np.array([key.count_above(OPEN) for key in keys])
            return np.full(len(keys), OPEN), kept
        common, counts = self._common(keys, self.limit_at(reached))
        levels = np.full(len(keys), common)
        for i in np.flatnonzero(counts < self.floors):
            levels[i] = _between(keys[i], int(self.floors[i]))
        return levels, np.maximum(counts, self.floors)

    def _within(self, counts: np.ndarray, limit: float) -> bool:
        return self.cost(np.maximum(counts, self.floors)) <= limit

    def _common(self, keys: list[Keys], limit: float) -> tuple[float, np.ndarray]:
        """The lowest level whose cost is within the limit, and what is above it.

        Looked for about where a sample of the keys has it: to sort all of them took
        most of the time of a change.
        """
        samples = [key.sample() for key in keys]
        few = Pool([sample.keys for sample in samples])
        pairs = list(zip(keys, samples, strict=True))
        shares = [key.values.size / max(some.keys.size, 1) for key, some in pairs]

        def is_enough(level: float) -> bool:
            counts = np.rint(few.count_above(level) * shares)
            return self._within(counts.astype(self.sizes.dtype), limit)

        known = few.keys[np.isfinite(few.keys)]
        place, margin = first(known, is_enough), MARGIN
        while True:
            start, end = place - margin, place + margin
            low = known[start] if start >= 0 else -math.inf
            high = known[end] if end < known.size else math.inf
            windows = [key.window(sample, low, high) for key, sample in pairs]
            pool = Pool([k for k, _ in windows], [above for _, above in windows])
            found = self._inside(pool, low, high, limit)
            if found is not None:
                return found
            margin *= 8

    def _inside(
        self, pool: Pool, low: float, high: float, limit: float
    ) -> tuple[float, np.ndarray] | None:
        """`_common`, if it is in [low, high); else None."""
        finite = pool.keys[np.isfinite(pool.keys)]
        lowest = low if low > -math.inf else (finite[0] if finite.size else 0.0) - 1.0
        if self._within(pool.count_above(lowest), limit):
            return (lowest, pool.count_above(lowest)) if low == -math.inf else None
        levels = finite[(lowest <= finite) & (finite < high)]
        place = first(levels, lambda x: self._within(pool.count_above(x), limit))
        if place == levels.size and high < math.inf:
            return None
        # Where all that has a level is not enough, the last one is taken.
        level = levels[min(place, levels.size - 1)] if levels.size else lowest
        # Midway to the next key above: rounding in the model decides nothing.
        above = pool.keys[pool.keys.searchsorted(level, "right") :]
        if above.size and math.isfinite(above[0]):
            # Of two neighbors it is one of them, and not the upper.
            level = min((level + above[0]) / 2, np.nextafter(above[0], -math.inf))
        return float(level), pool.count_above(level)


def _between(key: Keys, kept: int) -> float:
    """A level that keeps so many of the keys."""
    lower, upper = key.between(kept)
    if not math.isfinite(lower):
        return OPEN if kept == key.values.size else upper - abs(upper) - 1
    return (lower + upper) / 2 if math.isfinite(upper) else lower + 1e-3
