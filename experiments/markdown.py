"""Markdown tables, and their place in README and the guides."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from str_keras import files

# What experiments write: paths whose changes do not make a revision another.
WRITTEN = ("experiments/results", "README.md", "docs")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """Returns a table; the columns `left` to the left, the others to the right.

    Args:
        columns: Headings.
        rows: Cells as they are to be shown.
        left: Indices of the columns of words.
    """
    rule = ["---" if i in left else "--:" for i in range(len(columns))]
    lines = [columns, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(path: str | pathlib.Path, name: str, text: str) -> None:
    """Writes `text` between the markers `<!-- NAME -->` and `<!-- end of NAME -->`.

    Args:
        path: A file of Markdown.
        name: Of the markers.
        text: What is to stand there, whatever stood there before.

    Raises:
        OSError: if the file cannot be read or written.
        ValueError: if it has not both markers once, in this order.
    """
    whole = pathlib.Path(path).read_text(encoding="utf-8")
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = whole.partition(first)
    _, ended, after = rest.partition(last)
    if not found or not ended or first in rest or last in after:
        raise ValueError(
            f"{path} wants the lines {first} and {last}, once each: the table goes "
            f"between them. Received: name={name!r}"
        )
    files.write_text(path, f"{before}{first}\n{text.strip()}\n{last}{after}")
