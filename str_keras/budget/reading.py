"""Files of budgets: tables of paths and rates."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from str_keras.budget.table import COLUMNS

Path = str | os.PathLike[str]
WANTED = ("path", "sparsity")


def read(path: Path) -> tuple[str, dict[str, float], str]:
    """Returns name, rates and source of a file; see `Budget.read`.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is neither .csv nor .json, or damaged.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise ValueError(f"A budget is a .csv or a .json file. Received: path={path}")
    text = path.read_bytes().decode("utf-8-sig")
    if suffix == ".csv":
        rows, record = _parse_csv(text), {}
    else:
        rows, record = _parse_json(text)
    name, source = record.get("name"), record.get("source")
    return str(name or path.stem), _rates(rows), str(source or path)


def to_csv(rates: Mapping[str, float]) -> str:
    """Returns the table of the rates, a header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([WANTED, *rates.items()])
    return text.getvalue()


def to_json(name: str, rates: Mapping[str, float], source: str) -> str:
    """Returns an object of the three, the rates as a list "layers"."""
    layers = [dict(zip(WANTED, item, strict=True)) for item in rates.items()]
    return json.dumps({"name": name, "source": source, "layers": layers}, indent=1)


def _parse_csv(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        rows, columns = list(reader), reader.fieldnames or ()
    except csv.Error as error:
        raise ValueError(f"it is no CSV: {error}") from error
    if len(set(columns)) < len(columns):
        raise ValueError(f"a column stands twice. Received: {', '.join(columns)}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has not as many cells as the heading")
    return rows


def _whole(digits: str) -> int | float:
    # Python refuses thousands of digits, and float() an int beyond 1e308.
    return int(digits) if len(digits) < 20 else float(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; the standard library keeps the last of equal keys."""
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"a key stands twice: leave one out. Received: key={twice!r}")
    return record


def _parse_json(text: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        record = json.loads(text, parse_int=_whole, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    except RecursionError:
        raise ValueError("it is no budget: its JSON is nested too deeply") from None
    rows = record.get("layers") if isinstance(record, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError('a list "layers" of objects with path and sparsity is wanted')
    return rows, record


def _rates(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The rates of a table, its columns checked; `Budget` checks their values."""
    rates: dict[str, float] = {}
    for number, row in enumerate(rows, 1):
        if lacking := [column for column in WANTED if column not in row]:
            raise ValueError(
                f"the columns path and sparsity are wanted; row {number} has no "
                f"{' and no '.join(lacking)}. Received: {', '.join(row)}"
            )
        if unknown := [column for column in row if column not in COLUMNS]:
            raise ValueError(
                f"a budget has no such column: remove it, or name one of "
                f"{', '.join(COLUMNS)}. Received: {', '.join(unknown)}"
            )
        path, cell = row["path"], row["sparsity"]
        if not isinstance(path, str):
            raise ValueError(f"a path is a string. Received: path={path!r}")
        if path in rates:
            raise ValueError(f"a layer has two rates: leave one out. Received: {path}")
        # float() would take True for 1, and "1_0" for 10.
        refused = isinstance(cell, bool) or "_" in str(cell)
        try:
            rates[path] = float("" if refused else cell)
        except (TypeError, ValueError):
            raise ValueError(
                "a rate is a number from 0 to 1. "
                f"Received: {path}={cell!r} in row {number}"
            ) from None
    return rates
