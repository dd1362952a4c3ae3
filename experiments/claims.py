"""The paper's claims, tested on the rows of a suite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from experiments import markdown
from experiments.analysis import (
    WIDE,
    WIDE_SPARSITY,
    Result,
    are_led,
    density,
    group,
    interpolate,
    interval,
    mean,
)
from str_keras.reporting.methods import METHODS

COLLAPSED = 0.15
"""An accuracy below this is that of a net that died: ten classes give 0.1 by chance."""
NEAR = math.log(4)
"""In the logarithm of density: a run stands beside another method's only where one of
that is so near; a line from the dense net to the sparsest says nothing between."""
LED = ("str", "str_filter", "str_filter_macs0.5", "lats")
"""Of the presets that are led to a target, those that stand against other libraries."""
RIVALS = ("tfmot", "pquant_autosparse", "pquant_cs")
SHIFTED = 0.005
"""A mean sparsity so far from the level is told beside the values."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One comparison at one level, seed by seed.

    Args:
        title: What is compared.
        level: Sparsity aimed at, in [0, 1].
        sparsity: Mean of the method's runs that have values; None if none has.
        values: Of each seed where both nets live, near the level.
        own_dead, other_dead: Seeds left out as the run itself, or the other's runs
            that it would stand against, collapsed.
        missed: Seeds left out as the run is far from the level.
        beyond: Seeds left out as no run of the other's is near the run's sparsity, or
            their line does not reach it.
        is_ratio: Whether they are ratios; else differences of accuracy.
        is_of_target: Whether the runs were led to a target: told with the 95 % interval
            of the mean.
    """

    title: str
    level: float
    sparsity: float | None
    values: tuple[float, ...]
    own_dead: int = 0
    other_dead: int = 0
    missed: int = 0
    beyond: int = 0
    is_ratio: bool = False
    is_of_target: bool = False


def _curve(results: Sequence[Result], method: str, seed: int) -> list[Result]:
    """Runs of a method and a seed, from the dense one on."""
    return [r for r in results if r.seed == seed and r.method in (method, "dense")]


def _compare(
    results: Sequence[Result],
    title: str,
    method: str,
    other: str,
    value: Callable[[Result], float],
    combine: Callable[[float, float], float],
    is_ratio: bool = False,
    cost: Callable[[Result], float] = density,
) -> list[Claim]:
    """Compares each run of `method` with `other` at the run's own sparsity, or MACs."""
    claims = []
    for (name, level), runs in group(results).items():
        if name != method:
            continue
        values, sparsities = [], []
        left_out = dict.fromkeys(("own_dead", "other_dead", "missed", "beyond"), 0)
        for run in runs:
            curve = _curve(results, other, run.seed)
            if not any(r.method == other for r in curve):
                continue
            if run.accuracy < COLLAPSED or run.missed:
                left_out["own_dead" if run.accuracy < COLLAPSED else "missed"] += 1
                continue
            # The MACs of uniform rates are what they are, also of a dead net.
            alive = [r for r in curve if is_ratio or r.accuracy >= COLLAPSED]
            theirs = interpolate(alive, cost(run), value, cost)
            if not any(
                r.method == other and abs(math.log(cost(r) / cost(run))) < NEAR
                for r in curve
                if r.density > 0
            ):
                left_out["beyond"] += 1
            elif theirs is not None:
                values.append(combine(value(run), theirs))
                sparsities.append(run.sparsity)
            elif _reaches(curve, cost(run), cost):
                left_out["other_dead"] += 1
            else:
                left_out["beyond"] += 1
        if values or any(left_out.values()):
            sparsity = mean(sparsities) if values else None
            claims.append(
                Claim(
                    title, level, sparsity, tuple(values), **left_out, is_ratio=is_ratio
                )
            )
    return claims


def _reaches(
    results: Sequence[Result], at: float, cost: Callable[[Result], float]
) -> bool:
    """Whether the line through these runs has a value there."""
    return interpolate(results, at, lambda r: r.accuracy, cost) is not None


def _twin_of_tfmot(results: Sequence[Result]) -> str:
    """What of ours tfmot's rows stand beside: in a MobileNet it spares some kernels."""
    spared = any(r.method == "gmp_depthwise_dense" for r in results)
    return "gmp_depthwise_dense" if spared else "gmp"


def claims(results: Sequence[Result]) -> list[Claim]:
    """The paper's claims, as these runs have them.

    STR's accuracy less that of GMP, DNW and one-shot pruning with uniform rates, and of
    random zeros at the rates of ERK, at STR's own sparsity and seed by seed; its MACs
    as a share of theirs; and what STR's budget does for GMP and DNW. Beside them,
    whether tfmot's GMP is ours. Of a suite of targets, what `LED` presets are ahead of
    other libraries.
    """
    if are_led(results):
        return _claims_of_targets(results)
    against = (
        ("STR - GMP", "str", "gmp"),
        ("STR - GMP, depthwise dense", "str", "gmp_depthwise_dense"),
        ("STR - DNW", "str", "dnw"),
        ("STR - uniform, one shot", "str", "uniform_oneshot"),
        ("STR - ERK, random", "str", "erk_rigl_static"),
        ("GMP at STR's budget - GMP", "budget_gmp", "gmp"),
        ("DNW at STR's budget - DNW", "budget_dnw", "dnw"),
        ("GMP of tfmot - GMP", "tfmot", _twin_of_tfmot(results)),
        ("GMP of tfmot, masked - GMP", "tfmot_masked", _twin_of_tfmot(results)),
    )
    found = []
    for title, method, other in against:
        found += _compare(
            results, title, method, other, lambda r: r.accuracy, lambda a, b: a - b
        )
    for title, other in (("GMP", "gmp"), ("ERK", "erk_rigl_static")):
        found += _compare(
            results,
            f"MACs, STR / {title}",
            "str",
            other,
            lambda r: math.log(r.sparse_macs),
            lambda a, b: math.exp(a - b),
            is_ratio=True,
        )
    return found


def _claims_of_targets(results: Sequence[Result]) -> list[Claim]:
    """Accuracy of presets less that of other libraries, at equal sparsity and MACs."""
    costs = {"": density, ", at equal MACs": lambda r: float(r.sparse_macs)}
    found = []
    for ending, cost in costs.items():
        for method in LED:
            for other in RIVALS:
                title = f"{METHODS[method].label} - {METHODS[other].label}{ending}"
                found += _compare(
                    results,
                    title,
                    method,
                    other,
                    lambda r: r.accuracy,
                    lambda a, b: a - b,
                    cost=cost,
                )
    return [dataclasses.replace(claim, is_of_target=True) for claim in found]


def _finding(claim: Claim) -> str:
    scale, sign = (1.0, "") if claim.is_ratio else (100.0, "+")
    values = sorted((scale * value for value in claim.values), reverse=True)
    text = ""
    if values and claim.sparsity is not None:
        text = f"{mean(values):{sign}.2f}"
        if not claim.is_ratio and values[0] - values[-1] > WIDE:
            text = " / ".join(f"{value:{sign}.1f}" for value in values)
        elif len(values) > 1 and claim.is_of_target:
            text += f" ± {interval(values):.2f}"
        elif len(values) > 1:
            text += f" ({values[-1]:{sign}.2f} to {values[0]:{sign}.2f})"
        if abs(claim.sparsity - claim.level) >= SHIFTED:
            text += f" at {100 * claim.sparsity:.1f} %"
    counts = {
        "of its own collapsed": claim.own_dead,
        "of the other's collapsed": claim.other_dead,
        "missed the level": claim.missed,
        "far from the other's": claim.beyond,
    }
    parts = [text] if text else []
    parts += [f"{number} {why}" for why, number in counts.items() if number]
    return "; ".join(parts)


def claims_table(results: Sequence[Result]) -> str:
    """The claims as found, a row per comparison and a column per level, as Markdown."""
    found = claims(results)
    levels = sorted({claim.level for claim in found})
    rows = []
    for title in dict.fromkeys(claim.title for claim in found):
        cells = {claim.level: claim for claim in found if claim.title == title}
        row = [title]
        for level in levels:
            claim = cells.get(level)
            row.append(_finding(claim) if claim else "")
        rows.append(row)
    led = any(claim.is_of_target for claim in found)
    told = (
        ": mean over the seeds ± half its 95 % interval (Student's t)"
        if led
        else ", MACs with non-zero weights as a ratio: mean (least to most) over the "
        "seeds"
    )
    columns = ["as found", *(f"{100 * level:g} %" for level in levels)]
    return (
        f"{markdown.table(columns, rows)}\n\nAccuracy in points of percent{told}, or "
        f"each seed's where they differ by more than {WIDE:g} points. A run stands "
        f"against the other method at the run's own sparsity{', or MACs' * led} (told "
        "where its mean is not the level's) and with its seed: on the line through the "
        "other's runs, the dense one included, linear in the logarithm of density and "
        "followed for a quarter of it beyond the last run. Counted instead are seeds "
        "whose net collapsed "
        f"(accuracy below {100 * COLLAPSED:g} %), is more than {WIDE_SPARSITY:g} "
        "points of sparsity from the level, or has no run of the other's near it "
        "(within a factor of four in density)."
    )
