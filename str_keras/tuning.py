"""Short runs that find s_init and decay for a sparsity: STR exactly as published."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import keras

from str_keras import files
from str_keras.budget import measure_sparsity, overall_sparsity
from str_keras.forecasting import forecast, suggest_s_init
from str_keras.schedules import check_count, check_number
from str_keras.sparsifying import sparsify

START = 3.0
"""Lambda of the first run: the suites' recipes of 80 to 98 % have 1.4 to 4."""

STEP = 1.5
"""Factor of the next decay while the target is not bracketed."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One short run.

    Args:
        threshold_decay: Of its thresholds' logits.
        s_init: Their start.
        total_decay: Lambda, see `Forecast`.
        sparsity: Overall share of zeros that it ended with, in [0, 1].
        seconds: That it took.
    """

    threshold_decay: float
    s_init: float
    total_decay: float
    sparsity: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What `tune` found; `print` it.

    Args:
        threshold_decay: For the training of `steps` steps, by equal Lambda.
        s_init: Likewise.
        sparsity: Of the nearest short run, in [0, 1].
        target_sparsity: What was wanted.
        steps: Length of the training.
        short_steps: Length of the runs.
        trials: All runs, in their order.
    """

    threshold_decay: float
    s_init: float
    sparsity: float
    target_sparsity: float
    steps: int
    short_steps: int
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        lines = ["threshold_decay     s_init  Lambda  sparsity  seconds"]
        for t in self.trials:
            lines.append(
                f"{t.threshold_decay:15.5g}{t.s_init:11.4g}{t.total_decay:8.3g}"
                f"{100 * t.sparsity:8.2f} %{t.seconds:8.1f}"
            )
        lines.append(
            f"for {self.steps:,} steps: threshold_decay={self.threshold_decay:.5g}, "
            f"s_init={self.s_init:.4g} (runs of {self.short_steps:,} steps came to "
            f"{100 * self.sparsity:.2f} % of {100 * self.target_sparsity:g} %)"
        )
        if self.short_steps < self.steps:
            lines.append(
                "a longer training at equal Lambda ends less sparse: runs=1 with "
                "share=1.0 tells by how much"
            )
        return "\n".join(lines)


class _Search:
    """Where to try next: a bracket in the logarithm of the decay, then its chord.

    Sparsity rises with the decay; the logarithm of the density is near a line in it.
    """

    def __init__(self, target: float):
        self.wanted = math.log(1 - target)
        self.points: list[tuple[float, float]] = []  # log decay, log density

    def add(self, decay: float, sparsity: float) -> None:
        density = max(1 - sparsity, 1e-6)
        self.points.append((math.log(decay), math.log(density)))

    def next(self) -> float:
        """The decay to try, after at least one."""
        below = [p for p in self.points if p[1] > self.wanted]  # too dense
        above = [p for p in self.points if p[1] <= self.wanted]
        if not above:
            return math.exp(max(below)[0]) * STEP
        if not below:
            return math.exp(min(above)[0]) / STEP
        (x0, y0), (x1, y1) = max(below), min(above)
        share = (self.wanted - y0) / (y1 - y0) if y1 != y0 else 0.5
        # Off the ends: a bracket that only one side of moves narrows slowly.
        return math.exp(x0 + (x1 - x0) * min(max(share, 0.1), 0.9))


def tune(
    model: keras.Model,
    optimizer: Callable[[float, int], keras.optimizers.Optimizer],
    fit: Callable[[keras.Model, keras.optimizers.Optimizer, int], Any],
    steps: int,
    target_sparsity: float,
    *,
    runs: int = 6,
    share: float = 0.25,
    tolerance: float = 0.01,
    record: str | pathlib.Path | None = None,
    **arguments: Any,
) -> Tuning:
    """Finds threshold_decay and s_init that lead STR to a sparsity by decay alone.

    Each run trains a fresh copy of the model for a share of the steps; s_init is what
    `suggest_s_init` gives for its decay. The best run's decay is carried over to the
    whole length by equal Lambda (`Forecast.total_decay`). `stk.sparsify(...,
    target_sparsity=...)` needs none of this: it is for who wants the published method
    with nothing beside it.

    Args:
        model: Built dense model; not touched.
        optimizer: From threshold_decay and a number of steps to an optimizer of
            `str_keras.optimizers` whose schedule ends after so many.
        fit: Trains the sparse model it is given with the optimizer it is given for so
            many steps: `model.compile(optimizer, ...)`, `model.fit(...)`.
        steps: Length of the training that settings are wanted for.
        target_sparsity: Overall share of zeros, in (0, 1).
        runs: At most so many; fewer if the target is met before.
        share: Of the steps in a run, in (0, 1].
        tolerance: Distance to the target that is near enough, as a share.
        record: JSON file of all runs, written after each; those of the same settings
            are not run again.
        **arguments: Of `stk.sparsify`: g, granularity, skip, policy.

    Returns:
        The `Tuning`.

    Raises:
        ValueError: if a number makes no sense, or a record is of other settings.
        TypeError: as `forecast`, for an optimizer without coupled decay.

    Source: Kusupati et al. 2020; the authors set both by hand for each sparsity.
    """
    target = check_number("target_sparsity", target_sparsity, below=1.0)
    share = check_number("share", share)
    if not target or not 0 < share <= 1:
        raise ValueError(
            "target_sparsity is above 0, share above 0 and at most 1. "
            f"Received: {target_sparsity=}, {share=}"
        )
    check_number("tolerance", tolerance)
    runs, steps = check_count("runs", runs), check_count("steps", steps)
    short = max(1, round(share * steps))
    unit = forecast(optimizer(1.0, short), short).total_decay
    scale = unit / forecast(optimizer(1.0, steps), steps).total_decay
    settings = {
        "steps": steps,
        "short_steps": short,
        "target_sparsity": target,
        "lambda_per_decay": unit,
        "kernels": [[*w.shape] for w in model.weights if len(w.shape) > 1],
        "arguments": {name: _named(arguments[name]) for name in sorted(arguments)},
    }
    path = None if record is None else pathlib.Path(record)
    trials = _read(path, settings)
    search = _Search(target)
    for trial in trials:
        search.add(trial.threshold_decay, trial.sparsity)

    def distance(trial: Trial) -> float:
        return abs(trial.sparsity - target)

    from tqdm import tqdm  # late: the core does without

    with tqdm(total=runs, initial=len(trials), desc="tune", disable=None) as bar:
        while len(trials) < runs:
            if trials and min(map(distance, trials)) <= tolerance:
                break
            decay = search.next() if trials else START / unit
            trial = _run(model, optimizer, fit, short, decay, unit, arguments)
            trials.append(trial)
            search.add(decay, trial.sparsity)
            _write(path, settings, trials)
            bar.set_postfix(sparsity=f"{100 * trial.sparsity:.2f} %", refresh=False)
            bar.update()
    best = min(trials, key=distance)
    return Tuning(
        threshold_decay=best.threshold_decay * scale,
        s_init=best.s_init,
        sparsity=best.sparsity,
        target_sparsity=target,
        steps=steps,
        short_steps=short,
        trials=tuple(trials),
    )


def _named(value: Any) -> str:
    """What an argument is called: an address in memory is another each time."""
    return getattr(value, "__qualname__", None) or repr(value)


def _run(
    model: keras.Model,
    optimizer: Callable[[float, int], Any],
    fit: Callable[..., Any],
    steps: int,
    decay: float,
    unit: float,
    arguments: dict[str, Any],
) -> Trial:
    started, chosen = time.monotonic(), optimizer(decay, steps)
    s_init = suggest_s_init(chosen, steps, arguments.get("g", "sigmoid"))
    sparse = sparsify(model, s_init, **arguments)
    fit(sparse, chosen, steps)
    sparsity = overall_sparsity(measure_sparsity(sparse))
    seconds = round(time.monotonic() - started, 2)
    return Trial(decay, s_init, decay * unit, sparsity, seconds)


def _read(path: pathlib.Path | None, settings: dict[str, Any]) -> list[Trial]:
    if path is None or not path.is_file():
        return []
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        trials = [Trial(**trial) for trial in stored.pop("trials")]
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(f"{path} is no record of tune: {error}") from error
    if stored != settings:
        changed = [name for name in settings if stored.get(name) != settings[name]]
        raise ValueError(
            "The record is of other settings: name another file, or remove it. "
            f"Received: record={str(path)!r}, other {', '.join(changed)}"
        )
    return trials


def _write(
    path: pathlib.Path | None, settings: dict[str, Any], trials: list[Trial]
) -> None:
    if path is not None:
        rows = [dataclasses.asdict(trial) for trial in trials]
        text = json.dumps({**settings, "trials": rows}, indent=1)
        files.write_text(path, text + "\n")
