"""Public names and their signatures change on purpose alone."""

import ast
import difflib
import inspect
import itertools
import pathlib

import keras
import pytest

from tools import list_public_api

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="str_keras.data is for TensorFlow"
)


def test_public_names_are_those_of_the_list():
    before = list_public_api.LIST.read_text().splitlines()
    after = list_public_api.lines()
    change = "\n".join(
        difflib.unified_diff(before, after, "listed", "now", lineterm="")
    )
    assert not change, (
        f"{change}\nusers notice: if it is on purpose, run python "
        "tools/list_public_api.py and tell of it in CHANGELOG.md"
    )
    assert len(before) == len(set(before)) > 100


def value_docstrings(path):
    """Names that a file assigns at its top with a string below that tells of them."""
    body = ast.parse(path.read_text()).body
    for statement, below in itertools.pairwise(body):
        told = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if told and isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = getattr(statement, "targets", None) or [statement.target]
            yield from (t.id for t in targets if isinstance(t, ast.Name))


def test_each_public_name_is_told_of_where_it_is_defined():
    package = pathlib.Path(inspect.getfile(list_public_api.stk)).parent
    values = {n for path in package.rglob("*.py") for n in value_docstrings(path)}
    things = dict(list_public_api.public_modules())
    for path, thing in list_public_api.public_names().items():
        if not callable(thing):
            assert path.rpartition(".")[2] in values, path
            continue
        things[path] = thing
        for line in list_public_api.describe(path, thing):
            name = line.split("(")[0].removeprefix("class ").removeprefix(f"{path}.")
            if name != path:
                things[f"{path}.{name}"] = inspect.getattr_static(thing, name)
    for path, thing in things.items():
        told = getattr(thing, "__doc__", None)  # its own, but for a constructor's
        assert told and not told.startswith(f"{path.rpartition('.')[2]}("), path


def test_lines_tell_what_a_caller_writes():
    def function(a, /, b, *rest, c=1.5, d, e="x", f=print, **more): ...

    class Thing:
        def __init__(self, size, *, kept=None): ...

        def on_epoch_end(self): ...

        def grow(self, by=2): ...

        @property
        def size(self): ...

        @classmethod
        def of(cls, other): ...

    Thing.__module__ = "str_keras.things"
    assert list_public_api.signature(function) == (
        "(a, b, *rest, c=1.5, d, e='x', f=..., **more)"
    )
    assert list(list_public_api.describe("stk.Thing", Thing)) == [
        "class stk.Thing(size, *, kept=None)",
        "stk.Thing.grow(by=2)",
        "stk.Thing.of(other)",
        "stk.Thing.size",
    ]
    assert list(list_public_api.describe("stk.N", (1, 2))) == ["stk.N: tuple"]
    assert list(list_public_api.describe("stk.E", ValueError)) == ["class stk.E"]
