"""The HTML page of a run: one file that fetches nothing."""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from str_keras.reporting import facts
from str_keras.reporting.drawing import Drawing
from str_keras.reporting.runs import Run

_WORDS = {"run", "method", "layer", "kind", "shape", "no threshold because"}


def render(runs: Sequence[Run], drawings: Sequence[Drawing]) -> str:
    """Returns the page.

    Args:
        runs: The run, then those to compare it with.
        drawings: Figures, embedded in their order.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(_context(runs, drawings))


def _context(runs: Sequence[Run], drawings: Sequence[Drawing]) -> dict[str, Any]:
    run = runs[0]
    kernels, totals = facts.layer_rows(run)
    record = run.record
    versions = record.get("versions")
    return {
        "name": run.name,
        "subtitle": f"{facts.method(run)} · {facts.architecture(run)} · "
        f"{facts.shown(run.config.get('dataset'))}",
        "tiles": _tiles(run),
        "facts": facts.facts(run),
        "note": facts.SMALL_IMAGE_NOTE if facts.has_small_stem(run) else "",
        "comparison": _table(facts.COMPARISON, facts.comparison(runs)),
        "compared": len(runs) > 1,
        "figures": [
            (drawing, base64.b64encode(drawing.png).decode("ascii"))
            for drawing in drawings
        ],
        "layers": _table(facts.LAYERS, kernels, totals),
        "config": [(k, facts.shown(v)) for k, v in run.config.items()],
        "versions": list(versions.items()) if isinstance(versions, dict) else [],
        "revision": facts.shown(record.get("git_revision")),
        "started": facts.shown(record.get("started")),
        "command": facts.shown(record.get("command")),
    }


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """The main numbers: label, value, what it stands beside."""
    row = run.last_evaluated or run.metrics[-1]
    kind = "validation" if run.last_evaluated else "training"
    value = row["val_accuracy"] if run.last_evaluated else row["accuracy"]
    tiles = [(f"{kind} accuracy", facts.percent(value), f"epoch {row['epoch']:.0f}")]
    if run.is_sparse:
        sparsity = facts.percent(run.metrics[-1]["sparsity"])
        tiles.append(("sparsity", sparsity, "of prunable kernels"))
    total = run.summary.total if run.summary else None
    if total and run.is_sparse:
        tiles.append(
            ("non-zero weights", f"{total.nonzeros:,}", f"of {total.params:,}")
        )
        macs = facts.number(total.sparse_macs)
        tiles.append(("MACs with non-zeros", macs, f"of {facts.number(total.macs)}"))
    elif total:
        tiles.append(("weights", f"{total.params:,}", "with batch normalization"))
        tiles.append(("MACs", facts.number(total.macs), "of one image"))
    return tiles


def _table(
    columns: Sequence[str], rows: list[list[str]], totals: Sequence[list[str]] = ()
) -> dict[str, Any]:
    """What the template needs; columns in which no row has anything are left out."""
    everything = [*rows, *totals]
    kept = [
        i
        for i, _ in enumerate(columns)
        if any(row[i] not in ("", facts.NONE) for row in everything)
    ]
    return {
        "columns": [columns[i] for i in kept],
        "words": [columns[i] in _WORDS for i in kept],
        "rows": [[row[i] for i in kept] for row in rows],
        "totals": [[row[i] for i in kept] for row in totals],
    }
