"""CSV and JSON files read with care: what is damaged is named, by file and line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

SHARES = ("accuracy", "val_accuracy", "sparsity")
"""Columns whose numbers lie in [0, 1]."""


def damaged(path: pathlib.Path, reason: object) -> ValueError:
    """The error for a file that cannot be what it should be."""
    return ValueError(
        f"{path} is damaged: {reason}. Restore the file, or train the run again."
    )


def read_text(path: pathlib.Path) -> str:
    """Reads a file of text.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(path, "it is no UTF-8 text") from error


def read_json(path: pathlib.Path, required: dict[str, type]) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
        path: The file.
        required: Names it must have, with the types of their values.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no JSON, or lacks one of `required`.
    """
    try:
        record = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise damaged(path, f"it is no JSON ({error})") from error
    except RecursionError:
        raise damaged(path, "its JSON is nested too deeply") from None
    if not isinstance(record, dict):
        raise damaged(path, "it holds no table of names and values")
    for name, kind in required.items():
        if type(record.get(name)) is not kind:
            raise damaged(path, f'"{name}" is missing or no {kind.__name__}')
    return record


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a CSV file.

    Args:
        path: The file.
        number: Of the line, from 1, the heading counted.
        cells: By column.
    """

    path: pathlib.Path
    number: int
    cells: dict[str, str]

    def damaged(self, reason: str) -> ValueError:
        """The error for this line."""
        return damaged(self.path, f"line {self.number}: {reason}")

    def parse(self, name: str, kind: Callable[[str], Any] = float) -> Any:
        """The cell `name` as `kind`; None if it is empty.

        Raises:
            ValueError: if it is not of that kind, or a share outside of [0, 1].
        """
        text = self.cells[name]
        if not text:
            return None
        try:
            value = kind(text)
        except ValueError as error:
            raise self.damaged(f"{name}={text!r} is no number") from error
        if name in SHARES and not 0 <= value <= 1:
            raise self.damaged(f"{name}={text!r} is not in [0, 1]")
        return value

    def need(self, name: str, kind: Callable[[str], Any] = float) -> Any:
        """The cell `name` as `kind`.

        Raises:
            ValueError: as `parse`, and if the cell is empty.
        """
        value = self.parse(name, kind)
        if value is None:
            raise self.damaged(f"{name} is empty")
        return value


def read_csv(path: pathlib.Path, required: Sequence[str]) -> list[Line]:
    """Reads a CSV file with a heading.

    Args:
        path: The file.
        required: Columns it must have.

    Raises:
        OSError: if it cannot be read.
        ValueError: if a column is missing or a line is cut off.
    """
    text = read_text(path)
    if not text.endswith("\n"):
        raise damaged(path, "its last line is cut off" if text else "it is empty")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    lines = []
    try:
        columns = reader.fieldnames or ()
        for cells in reader:
            line = Line(path, reader.line_num, cells)
            if None in cells or None in cells.values():
                raise line.damaged(
                    f"it has not the {len(columns)} cells of the heading"
                )
            lines.append(line)
    except csv.Error as error:
        raise damaged(path, f"line {reader.line_num}: {error}") from error
    missing = [name for name in required if name not in columns]
    if missing:
        raise damaged(path, f"it has no column {', '.join(missing)}")
    return lines
