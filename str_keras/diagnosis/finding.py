"""One thing found out, and tables of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from str_keras.tables import text_table

STATES = ("ok", "note", "warning", "error")
"""As it should be; good to know; something will not work; training will not work."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found out.

    Args:
        topic: What it belongs to: packages, machine, ...
        name: What was looked at.
        state: One of `STATES`.
        told: What was found.
        mend: What to do about it; empty if nothing is to be done.
    """

    topic: str
    name: str
    state: str
    told: str
    mend: str = ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    try:
        return text_table(columns, rows, left=range(len(columns)))
    except ImportError:  # rich is missing, which the table is about to say
        return "\n".join("  ".join(row) for row in [columns, *rows])


def as_text(findings: Sequence[Finding]) -> str:
    """Returns a table per topic, and what is to be mended below them."""
    parts = []
    for topic in dict.fromkeys(finding.topic for finding in findings):
        rows = [(f.name, f.state, f.told) for f in findings if f.topic == topic]
        parts.append(_table((topic, "state", "found"), rows))
    order = sorted(findings, key=lambda f: -STATES.index(f.state))
    mends = [f"- {f.state}: {f.name}: {f.mend}" for f in order if f.mend]
    if mends:
        parts.append("\n".join(["What to do:", *mends]))
    return "\n\n".join(parts)


def as_record(findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns the findings as JSON takes them.

    Returns:
        "works" (no finding is an error), "counts" by state, and "findings".
    """
    counts = {s: sum(f.state == s for f in findings) for s in STATES}
    return {
        "works": counts["error"] == 0,
        "counts": counts,
        "findings": [dataclasses.asdict(finding) for finding in findings],
    }
