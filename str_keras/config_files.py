"""Configurations from files and dictionaries, with errors that name the mend."""

from __future__ import annotations

import difflib
import json
import pathlib
import tomllib
from typing import Any

from str_keras.config import FIELDS, TrainConfig


def from_dict(values: dict[str, Any], source: str = "the configuration") -> TrainConfig:
    """Makes a configuration of names and values.

    Args:
        values: By field name; what is missing takes the default.
        source: Where they come from, for the message.

    Raises:
        ValueError: for an unknown name (near ones are named) or a value of another
            type.
    """
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 2, 0.5)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(f"{source} has an unknown name{hint}. Received: {name!r}")
        checked[name] = _typed(name, value, source)
    return TrainConfig(**checked)


def _typed(name: str, value: Any, source: str) -> Any:
    kind = str(FIELDS[name].type)
    if value is None and "None" in kind:
        return None
    # By type, not isinstance: True is no count, and 2.5 epochs are none.
    if kind.startswith("float") and type(value) in (int, float):
        return float(value)  # pyright: ignore[reportArgumentType]
    wanted = {"str": (str,), "int": (int,), "bool": (bool,)}
    if type(value) in wanted.get(kind, ()):
        return value
    is_text = isinstance(value, list | tuple) and all(type(v) is str for v in value)
    if "tuple" in kind and is_text:
        return value
    said = "a list of text" if "tuple" in kind else kind.split(" ")[0]
    raise ValueError(f"{source}: {name} wants {said}. Received: {name}={value!r}")


def find(name: str) -> pathlib.Path:
    """The file of `--config`: a path, or a name of one under experiments/configs.

    Raises:
        FileNotFoundError: if there is none; the message lists the names.
    """
    folder = pathlib.Path("experiments") / "configs"
    for path in (pathlib.Path(name), folder / name, folder / f"{name}.toml"):
        if path.is_file():
            return path
    known = sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.toml")
    )
    raise FileNotFoundError(
        "No such configuration file; under experiments/configs are "
        f"{', '.join(known) or 'none (this is not a checkout)'}. "
        f"Received: config={name!r}"
    )


def read(path: pathlib.Path) -> dict[str, Any]:
    """Values of a TOML file, or of a run's config.json.

    Raises:
        ValueError: if the file is not of its format.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            values = json.loads(text)
            values = values.get("config", values)
        else:
            values = tomllib.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not a table of names and values")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return values
