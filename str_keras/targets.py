"""What a training is to end at: a sparsity, a number of MACs, or of bytes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

KINDS = ("sparsity", "macs", "bytes")


@dataclasses.dataclass(frozen=True)
class Target:
    """One of three numbers to end at, and what keeps layers alive on the way.

    Args:
        sparsity: Share of zeros over all kernels that have thresholds, in (0, 1).
        macs: Multiply-adds of the whole model for one example: an absolute number
            above 1, or a share of the dense model's in (0, 1).
        bytes: Of the .tflite file of float16 weights, each kernel dense or sparse,
            that `stk.export.tflite(model, path, weights="float16", sparse=True)`
            writes.
        min_density: Share of weights in [0, 1) that every kernel keeps.
        min_kept: Number of weights that every kernel keeps (all, if it has fewer).
        min_per_channel: Number of weights, times the sum of its shape (inputs, outputs
            and extents), that every kernel keeps: 1 is one a channel, on the average,
            without which narrow layers die on the way to high sparsity. Taken smaller
            where such floors would take more than half of what the target leaves. 0:
            none.
        mac_pressure: Exponent b of 0 or more: thresholds are proportional to the b-th
            power of a layer's MACs per weight, so that at equal sparsity MACs fall
            further. 0: the layers' own differences alone.

    Raises:
        ValueError: if not exactly one of the three is given, or a value is out of its
            range.
    """

    sparsity: float | None = None
    macs: float | None = None
    bytes: float | None = None
    min_density: float = 0.0
    min_kept: int = 1
    min_per_channel: float = 0.0
    mac_pressure: float = 0.0

    def __post_init__(self) -> None:
        given = {k: getattr(self, k) for k in KINDS if getattr(self, k) is not None}
        if len(given) != 1:
            raise ValueError(
                "A target is one of target_sparsity, target_macs and target_bytes. "
                f"Received: {given or None}"
            )
        bounds = {"sparsity": (0, 1), "macs": (0, math.inf), "bytes": (0, math.inf)}
        for name, value in given.items():
            low, high = bounds[name]
            if not _is_number(value) or not low < value < high:
                upper = f" and below {high}" if high < math.inf else ""
                mend = " (90 % is 0.9)" if name == "sparsity" else ""
                raise ValueError(
                    f"target_{name} must be a number above {low}{upper}{mend}. "
                    f"Received: target_{name}={value!r}"
                )
        if self.macs == 1:
            raise ValueError(
                "target_macs is a share below 1 or an absolute number above it. "
                f"Received: target_macs={self.macs!r}"
            )
        if not _is_number(self.min_density) or not 0 <= self.min_density < 1:
            raise ValueError(
                "min_density is a share of weights, from 0 to below 1. "
                f"Received: min_density={self.min_density!r}"
            )
        whole = isinstance(self.min_kept, Integral) and not _is_bool(self.min_kept)
        if not whole or self.min_kept < 0:
            raise ValueError(
                "min_kept is a number of weights, 0 or more. "
                f"Received: min_kept={self.min_kept!r}"
            )
        for name in ("mac_pressure", "min_per_channel"):
            value = getattr(self, name)
            if not _is_number(value) or value < 0:
                raise ValueError(f"{name} is 0 or more. Received: {name}={value!r}")

    @property
    def kind(self) -> str:
        """Which of `KINDS`."""
        return next(k for k in KINDS if getattr(self, k) is not None)

    @property
    def value(self) -> float:
        """The number."""
        return float(getattr(self, self.kind))

    def floor(self, size: int) -> int:
        """How many weights a kernel of `size` keeps at least."""
        return max(math.ceil(self.min_density * size), min(self.min_kept, size))

    def __str__(self) -> str:
        if self.sparsity is not None:
            return f"{100 * self.sparsity:g} % of zeros"
        if self.macs is not None:
            share = self.macs < 1
            return (
                f"{100 * self.macs:g} % of the MACs"
                if share
                else f"{self.macs:,.0f} MACs"
            )
        return f"{self.bytes:,.0f} bytes"

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON takes it."""
        values = dataclasses.asdict(self).items()
        default = {f.name: f.default for f in dataclasses.fields(self)}
        return {name: value for name, value in values if value != default[name]}


def as_target(target: Target | Mapping[str, Any] | None) -> Target | None:
    """A `Target` of itself, of its `to_dict`, or None."""
    if target is None or isinstance(target, Target):
        return target
    return Target(**target)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not _is_bool(value) and math.isfinite(value)
