"""Rows of figures with a goal each, as `report` shows them."""

from __future__ import annotations

import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
    *("what", "unit", "median", "low", "high", "goal", "met"),
    *("hardware", "versions", "git_revision", "command"),
)
"""Low and high are quartiles."""


def row(what: str, unit: str, values: Sequence[float], least: Any = None) -> dict:
    """A figure.

    Args:
        what: In words.
        unit: Of the values.
        values: As measured, one a round.
        least: What the median is to be at least; None where there is no goal.
    """
    import numpy as np

    low, median, high = (float(v) for v in np.quantile(values, (0.25, 0.5, 0.75)))
    found = {"what": what, "unit": unit, "median": median, "low": low, "high": high}
    met = "" if least is None else "yes" if median >= least else "no"
    return {**found, "goal": "" if least is None else f"at least {least}", "met": met}


def write(name: str, rows: Sequence[Mapping[str, Any]], threads: Any, path: Any) -> str:
    """Records figures with what they come from; the table in Markdown.

    Args:
        name: Of the module in `benchmarks`.
        rows: What `row` gave.
        threads: Of the CPU; None for all.
        path: The .csv.
    """
    from benchmarks import report
    from experiments import records
    from str_keras.run_directory import git_revision

    revision = git_revision(ignore=["benchmarks/results", "benchmarks/RESULTS.md"])
    same = {
        **records.environment(threads),
        "git_revision": revision or "",
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
    }
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_csv(path, COLUMNS, [{**one, **same} for one in rows])
    return report.section(path)
