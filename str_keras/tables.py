"""Aligned text tables."""

from __future__ import annotations

import io
from collections.abc import Sequence


def text_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """Returns an aligned table; numbers to the right, the columns `left` to the left.

    Args:
        columns: Headings.
        rows: Cells as they are to be shown; an empty row draws a rule.
        left: Indices of the columns of words.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, column in enumerate(columns):
        justify = "left" if i in left else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for row in rows:
        if row:
            table.add_row(*row)
        else:
            table.add_section()
    # Never cut at the width of a terminal: the text goes to files too. In a notebook
    # rich would show the table at once and leave the text empty.
    console = Console(
        file=io.StringIO(),
        width=10_000,
        color_system=None,
        markup=False,
        force_jupyter=False,
    )
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines).strip("\n")
