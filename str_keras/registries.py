"""Names for functions: "feather(3)" is the function called feather, with p = 3."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")
Check = Callable[..., str | None]


def check_free(name: str, known: Callable | None, function: Callable) -> None:
    """Checks that a function may have a name that `known` has.

    It may if both are defined at the same place: a cell of a notebook that is run again
    defines a new function there.

    Raises:
        ValueError: if it may not, with the place of the known one.
    """
    if known is not None and _place(known) != _place(function):
        raise ValueError(
            f"Another one of this name exists, {_place(known)}: choose another name. "
            f"Received: {name=}"
        )


def _place(function: Callable) -> str:
    name = getattr(function, "__qualname__", None) or repr(function)
    return f"{getattr(function, '__module__', None)}.{name}"


class Registry(Generic[Made]):
    """Functions by name, with their parameters in brackets behind it.

    Args:
        kind: What messages call it; `stk.register_{kind}` adds to it.
        tensors: How many arguments a function has before its parameters.
    """

    def __init__(self, kind: str, tensors: int):
        self.kind, self.tensors = kind, tensors
        self._known: dict[str, tuple[Callable, Check, Callable[..., Made]]] = {}

    def register(
        self, name: str, function: Callable, check: Check, make: Callable[..., Made]
    ) -> None:
        """Adds a function.

        Args:
            name: Letters, digits and underscores.
            function: Of `tensors` arguments and the parameters.
            check: Of the parameters (floats): what is wrong with them, or None.
            make: From the name with its parameters, and the parameters, to what `get`
                returns.

        Raises:
            ValueError: if the name is no identifier, or another function has it.
        """
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError(f"The name must be an identifier. Received: {name=}")
        known = self._known.get(name)
        check_free(name, known and known[0], function)
        self._known[name] = function, check, make

    def get(self, identifier: Any) -> Made:
        """What is made of a name and its parameters.

        Raises:
            ValueError: if it is unknown, or its parameters are wrong.
        """
        found = None
        if isinstance(identifier, str):
            found = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", identifier)
        if found is None or found[1] not in self._known:
            raise ValueError(
                f"Unknown {self.kind}: choose one of {sorted(self._known)}, with its "
                'parameter as in "feather(3)", or register yours with '
                f"`stk.register_{self.kind}`. Received: {self.kind}={identifier!r}"
            )
        try:
            return self._make(found[1], found[2] or "")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The parameters are wrong: {error}. "
                f"Received: {self.kind}={identifier!r}"
            ) from error

    def _make(self, name: str, inside: str) -> Made:
        function, check, make = self._known[name]
        parameters = tuple(float(p) for p in inside.split(",") if p.strip())
        if not all(map(math.isfinite, parameters)):
            raise ValueError("they must be finite")
        if trouble := check(*parameters):
            raise ValueError(trouble)
        self._check_number(function, parameters)
        return make(_full_name(name, parameters), *parameters)

    def _check_number(self, function: Callable, parameters: tuple[float, ...]) -> None:
        try:
            signature = inspect.signature(function)
        except ValueError:  # of C, without one
            return
        signature.bind(*[None] * self.tensors, *parameters)


def _full_name(name: str, parameters: tuple[float, ...]) -> str:
    if not parameters:
        return name
    told = (f"{p:g}" if float(f"{p:g}") == p else repr(p) for p in parameters)
    return f"{name}({', '.join(told)})"
