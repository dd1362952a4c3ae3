"""Packages that one kind of export needs and the others do not."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


def require(extra: str, *packages: str) -> list[Any]:
    """Imports the packages of an extra of ours.

    Args:
        extra: Its name in `setup.cfg`.
        packages: The modules to import.

    Returns:
        The modules, in that order.

    Raises:
        ModuleNotFoundError: naming what is missing and the extra that brings it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"this export needs {', '.join(missing)}: pip install "
            f"'str_keras[{extra}]', or pip install {' '.join(missing)}",
            name=missing[0],
        )
    return [importlib.import_module(name) for name in packages]
