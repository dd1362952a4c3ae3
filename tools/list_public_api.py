"""Lists every public name with its signature: tests/public_api.txt.

    python tools/list_public_api.py   writes the list anew

Public is what `str_keras.__all__` and its modules' `__all__` name, and of classes the
methods and properties that are defined in this package, without hooks that Keras calls.
A change of the list is a change that users notice: CHANGELOG.md tells of it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pathlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
import str_keras as stk
from str_keras import files

LIST = pathlib.Path(__file__).resolve().parents[1] / "tests" / "public_api.txt"
# Public, and not to be had from the package's top.
MODULES = ("presets", "ready", "reporting")
# What Keras or this package calls, not users.
HOOKS = re.compile(
    "_|on_|add_|follow|(build|build_from_config|call|compute_.*|from_config|get_config"
    "|get_build_config|has_course|inner_loop|inputs?|input_shape|is_led|layers|lead"
    "|outputs?|output_names|output_shape|pruning_keys|update_step)$"
)


def signature(function: Any) -> str:
    """Parameters with their defaults, without annotations, which tell of no break."""
    try:
        found = inspect.signature(function)
    except ValueError:  # a type of C
        return "(...)"
    shown = []
    kind = None
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and kind not in (
            parameter.KEYWORD_ONLY,
            parameter.VAR_POSITIONAL,
        ):
            shown.append("*")
        kind = parameter.kind
        default = parameter.default
        if default is parameter.empty:
            told = ""
        elif isinstance(default, (bool, int, float, str, tuple, type(None))):
            told = f"={default!r}"
        else:
            told = "=..."
        shown.append(f"{stars.get(kind, '')}{parameter.name}{told}")
    return f"({', '.join(shown)})"


def members(path: str, owner: type) -> Iterator[str]:
    """Of a class the methods and properties that this package defines."""
    fields = (
        [f.name for f in dataclasses.fields(owner)]
        if (dataclasses.is_dataclass(owner))
        else []
    )
    for name in sorted({n for base in owner.__mro__ for n in _own(base)}):
        if HOOKS.match(name) or name in fields:
            continue
        member = inspect.getattr_static(owner, name)
        if isinstance(member, property):
            yield f"{path}.{name}"
        elif isinstance(member, staticmethod | classmethod):
            yield f"{path}.{name}{signature(getattr(owner, name))}"
        elif inspect.isfunction(member):
            yield f"{path}.{name}{signature(member)}"


def _own(base: type) -> list[str]:
    return list(vars(base)) if base.__module__.startswith("str_keras") else []


def describe(path: str, thing: Any) -> Iterator[str]:
    """Lines of one public name."""
    if inspect.isclass(thing):
        is_error = issubclass(thing, Exception)
        yield f"class {path}" + ("" if is_error else signature(thing))
        if not is_error:
            yield from members(path, thing)
    elif callable(thing):
        yield f"{path}{signature(thing)}"
    else:
        yield f"{path}: {type(thing).__name__}"


def public_modules() -> dict[str, ModuleType]:
    """Modules that users name, by their path."""
    named = [n for n in stk.__all__ if inspect.ismodule(getattr(stk, n))]
    paths = [f"str_keras.{name}" for name in (*named, *MODULES)]
    return {path: importlib.import_module(path) for path in paths}


def public_names() -> dict[str, Any]:
    """Everything public but modules, by the path that users write."""
    found = {
        f"str_keras.{name}": getattr(stk, name)
        for name in stk.__all__
        if not inspect.ismodule(getattr(stk, name))
    }
    for path, module in public_modules().items():
        found |= {f"{path}.{name}": getattr(module, name) for name in module.__all__}
    return found


def lines() -> list[str]:
    """The list, sorted."""
    found = [f"module {path}" for path in public_modules()]
    for path, thing in public_names().items():
        found += describe(path, thing)
    return sorted(set(found), key=lambda line: line.removeprefix("class "))


if __name__ == "__main__":
    files.write_text(LIST, "\n".join(lines()) + "\n")
