"""Which common level of the thresholds brings a model to its target: `Loop`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from str_keras.budget.counting import geometry
from str_keras.budget.file_size import FileSize
from str_keras.targets import Target

OPEN = -1e4
"""The level that prunes nothing, and is a number: g(s - 1e4) = 0."""


class Loop:
    """Solves for the level that all kernels share; made once for a model.

    A weight is pruned if its key is at most the level of its kernel. Keys are the
    model's: g^-1(|w|) - s of learned thresholds, so that the level is what is added to
    every s and the learned differences between the layers stay; |w| over the layer's
    scale of global quantiles; the rank in its kernel of quantiles by layer.

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
        keys = [np.sort(key) for key in self.model.pruning_keys(self.pressure())]
        limit = self.limit_at(reached)
        if reached <= 0:
            kept = np.array([np.count_nonzero(key > OPEN) for key in keys])
            return np.full(len(keys), OPEN), kept
        common = self._common(keys, limit)
        kept = self._kept(keys, common)
        levels = np.full(len(keys), common)
        for i, (key, floor) in enumerate(zip(keys, self.floors, strict=True)):
            if np.count_nonzero(key > common) < floor:
                levels[i] = _between(key, int(floor))
        return levels, kept

    def _kept(self, keys: Sequence[np.ndarray], level: float) -> np.ndarray:
        counts = [key.size - np.searchsorted(key, level, "right") for key in keys]
        return np.maximum(counts, self.floors)

    def _common(self, keys: Sequence[np.ndarray], limit: float) -> float:
        """The lowest level whose cost is within the limit, by bisection."""
        finite = [key[np.isfinite(key)] for key in keys]
        low = min((key[0] for key in finite if key.size), default=0.0)
        high = max((key[-1] for key in finite if key.size), default=0.0)
        low -= 1.0
        if self.cost(self._kept(keys, low)) <= limit:
            return low
        while True:
            middle = (low + high) / 2
            if not low < middle < high:
                break
            if self.cost(self._kept(keys, middle)) <= limit:
                high = middle
            else:
                low = middle
        # Midway to the next key above: rounding in the model decides nothing.
        above = [key[np.searchsorted(key, high, "right") :] for key in keys]
        following = min((key[0] for key in above if key.size), default=high)
        return (high + following) / 2 if math.isfinite(following) else high


def _between(key: np.ndarray, kept: int) -> float:
    """A level that keeps so many of the sorted keys."""
    upper = key[key.size - kept]
    lower = key[key.size - kept - 1] if kept < key.size else -math.inf
    if not math.isfinite(lower):
        return OPEN if kept == key.size else upper - abs(upper) - 1
    return (lower + upper) / 2 if math.isfinite(upper) else lower + 1e-3
