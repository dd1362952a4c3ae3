"""What `shrink` took away: channels, parameters, MACs and time, before and after."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from str_keras.budget import KernelRow, summary
from str_keras.tables import text_table


@dataclasses.dataclass(frozen=True)
class LayerChange:
    """One kernel before and after; MACs are None where they are not known.

    Args:
        path: Path of the kernel.
        channels: Output channels before and after.
        params: Weights of the kernel before and after.
        macs: Multiply-accumulates of one example before and after.
    """

    path: str
    channels: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class ShrinkReport:
    """The table of `shrink_report`; `print` it, or take `to_dict`.

    Args:
        name: The model's.
        layers: One per kernel, in order of the model.
        params: All weights before and after: kernels, biases, batch norms.
        latency: Seconds of one batch before and after, if they were measured.
    """

    name: str
    layers: tuple[LayerChange, ...]
    params: tuple[int, int]
    latency: tuple[float, float] | None = None

    def _sum(self, field: str) -> tuple[int, int] | None:
        pairs = [getattr(layer, field) for layer in self.layers]
        if any(number is None for pair in pairs for number in pair):
            return None
        return sum(p[0] for p in pairs), sum(p[1] for p in pairs)

    @property
    def channels(self) -> tuple[int, int]:
        """Output channels of all kernels before and after."""
        return self._sum("channels") or (0, 0)

    @property
    def macs(self) -> tuple[int, int] | None:
        """MACs of one example before and after; None where a layer's are not known."""
        return self._sum("macs")

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as plain Python types, each pair as a list."""
        return {
            "name": self.name,
            "channels": list(self.channels),
            "params": list(self.params),
            "macs": None if self.macs is None else list(self.macs),
            "latency": None if self.latency is None else list(self.latency),
            "layers": [
                {
                    "path": layer.path,
                    "channels": list(layer.channels),
                    "params": list(layer.params),
                    "macs": list(layer.macs),
                }
                for layer in self.layers
            ],
        }

    def __str__(self) -> str:
        def cells(name: str, *pairs: tuple[Any, Any] | None) -> list[str]:
            numbers = [n for pair in pairs for n in (pair or (None, None))]
            return [name, *("-" if n is None else f"{n:,}" for n in numbers)]

        rows = [
            cells(r.path.rsplit("/kernel", 1)[0], r.channels, r.params, r.macs)
            for r in self.layers
        ]
        rows += [[], cells("all weights", self.channels, self.params, self.macs)]
        headings = "layer|channels|after|params|after|MACs|after"
        table = text_table(headings.split("|"), rows)
        if self.latency is None:
            return table
        before, after = (1e3 * seconds for seconds in self.latency)
        times = f"{before:.2f} ms before, {after:.2f} ms after"
        return (
            f"{table}\n\nlatency, median: {times}: {before / after:.2f} times as fast"
        )


def _channels(row: KernelRow) -> int:
    """Output channels of a kernel, by the layout of its kind."""
    if "Depthwise" in row.kind or row.path.endswith("depthwise_kernel"):
        return row.shape[-2] * row.shape[-1]
    return row.shape[-2 if "Transpose" in row.kind else -1]


def measure_latency(
    calls: Sequence[Callable[[], Any]], rounds: int = 50
) -> list[float]:
    """Median time of each call, in seconds.

    The calls take turns, so that what else the machine does falls on all alike; the
    first tenth of the rounds, at least two, warms up and is not counted.

    Args:
        calls: Functions without arguments that wait for their result.
        rounds: How often each is timed.

    Raises:
        ValueError: if `rounds` is below 1.
    """
    if rounds < 1:
        raise ValueError(f"`rounds` must be 1 or more. Received: {rounds=}")
    times: list[list[float]] = [[] for _ in calls]
    warmup = max(2, rounds // 10)
    for number in range(-warmup, rounds):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if number >= 0:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in times]


def shrink_report(
    before: keras.Model,
    after: keras.Model,
    inputs: Any = None,
    rounds: int = 50,
    input_shape: Any = None,
) -> ShrinkReport:
    """Compares a model with its smaller twin, layer by layer.

    Args:
        before: A built model, sparse or stripped.
        after: What `stk.shrink` made of it.
        inputs: A batch: the latency of both on it, through `predict_on_batch`, is
            measured. None: it is not.
        rounds: How often each is timed.
        input_shape: As of `stk.summary`.

    Returns:
        A `ShrinkReport`.

    Raises:
        ValueError: if the models do not have the same kernels.
    """
    counted = summary(before, input_shape), summary(after, input_shape)
    rows = [{row.path: row for row in item.rows} for item in counted]
    if list(rows[0]) != list(rows[1]):
        other = sorted(rows[0].keys() ^ rows[1].keys())[:3]
        raise ValueError(
            "The second model is not a shrunk form of the first: their kernels differ. "
            f"Received: before={before.name}, after={after.name}, differing={other}"
        )
    changes = tuple(
        LayerChange(
            path,
            (_channels(row), _channels(rows[1][path])),
            (row.params, rows[1][path].params),
            (row.macs, rows[1][path].macs),
        )
        for path, row in rows[0].items()
    )
    latency = None
    if inputs is not None:
        calls = [functools.partial(m.predict_on_batch, inputs) for m in (before, after)]
        first, second = measure_latency(calls, rounds)
        latency = first, second
    params = counted[0].total.params, counted[1].total.params
    return ShrinkReport(before.name, changes, params, latency)
