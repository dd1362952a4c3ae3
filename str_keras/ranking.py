"""The weights of kernels in the order in which they are pruned, most never sorted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

SAMPLE = 256
"""Weights of a kernel that are sorted to guess where the others are."""


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


@dataclasses.dataclass(frozen=True)
class Sample:
    """A few values of a kernel, and their keys.

    Args:
        values: Ascending, no NaN.
        keys: Of the same length, float64.
    """

    values: np.ndarray
    keys: np.ndarray


@dataclasses.dataclass(frozen=True)
class Keys:
    """The level from which on each weight of a kernel is pruned: `function(values)`.

    What orders the weights is kept as it is, and of most of them the key is never
    computed: one copy of the kernel, few logarithms, no sort of all.

    Args:
        values: Array `(weights,)` in any order, such as |w| of the kernel.
        function: Element by element from values to keys in float64; it does not fall.
    """

    values: np.ndarray
    function: Callable[[np.ndarray], np.ndarray] = _as_it_is

    def sample(self) -> Sample:
        """Some of the values, spread evenly over the kernel."""
        # Odd: an even stride would meet the same filters again and again.
        stride = max(1, self.values.size // SAMPLE) | 1
        values = self.values[::stride]
        values = np.sort(values[values == values])
        return Sample(values, self.function(values))

    def window(self, sample: Sample, low: float, high: float) -> tuple[np.ndarray, int]:
        """Keys in (low, high), and some beside them.

        Args:
            sample: Of these.
            low, high: Keys.

        Returns:
            The keys in any order, among them the least that is `high` or more; and how
            many are not below it, and not among them.
        """
        first = int(sample.keys.searchsorted(low, "right")) - 1
        last = int(sample.keys.searchsorted(high, "left"))
        inside, above = self.values, 0
        if last < sample.values.size:
            # Asked so, a weight that is no number counts as above.
            inside = inside[inside <= sample.values[last]]
            above = self.values.size - inside.size
        if first >= 0:
            inside = inside[~(inside <= sample.values[first])]
        return self.function(inside), above

    def count_above(self, level: float) -> int:
        """How many keys are above a level."""
        keys, above = self.window(self.sample(), level, np.nextafter(level, np.inf))
        # Asked so, as in `window`.
        return above + keys.size - int(np.count_nonzero(keys <= level))

    def between(self, kept: int) -> tuple[float, float]:
        """The keys of the last weight that goes where so many stay, and of the next.

        -inf and the least key, if all stay.
        """
        size = self.values.size
        places = [max(size - kept - 1, 0), size - kept]
        lower, upper = self.function(np.partition(self.values, places)[places])
        return (lower if kept < size else -np.inf), upper


class Pool:
    """Keys of all kernels in one order, each with the kernel that it is of.

    Args:
        keys: Of each kernel, in any order.
        above: How many more of each kernel are above all of these; None: none.
    """

    def __init__(self, keys: Sequence[np.ndarray], above: Sequence[int] | None = None):
        whole = np.concatenate(keys)
        owners = np.repeat(np.arange(len(keys)), [part.size for part in keys])
        order = np.argsort(whole)
        self.keys, self._owners = whole[order], owners[order]
        self._above = np.array(above or [0] * len(keys))

    def count_above(self, level: float) -> np.ndarray:
        """How many keys of each kernel are above a level: `(kernels,)`, int64."""
        owners = self._owners[self.keys.searchsorted(level, "right") :]
        return self._above + np.bincount(owners, minlength=self._above.size)


def first(values: np.ndarray, holds: Callable[[float], bool]) -> int:
    """Index of the first value that holds, as do all after it; their number if none."""
    low, high = 0, values.size
    while low < high:
        middle = (low + high) // 2
        if holds(values[middle]):
            high = middle
        else:
            low = middle + 1
    return low
