"""The architecture page shows the present imports, and groups import one way."""

import itertools

import pytest
from test_imports import ROOMS

from tools import draw_architecture as architecture

RENEW = "the imports have changed: run python tools/draw_architecture.py"


def test_picture_and_table_are_those_of_the_imports():
    assert f"{architecture.table()}\n{architecture.LAST}" in (
        architecture.PAGE.read_text()
    ), RENEW
    picture = architecture.PICTURE.read_text()
    assert architecture.digest() in picture, RENEW
    for group in architecture.GROUPS:
        assert group.title.replace("'", "&#x27;") in picture or group.title in picture
        for room in group.rooms:
            assert room in picture


def test_every_room_is_in_one_group_and_groups_import_downwards():
    floors = {group.title: group.floor for group in architecture.GROUPS}
    edges = architecture.group_imports()
    for title, others in edges.items():
        for other in others:
            assert floors[other] < floors[title], (title, other)
    assert sorted(room for g in architecture.GROUPS for room in g.rooms) == sorted(
        ROOMS
    )
    for one, other in itertools.combinations(architecture.GROUPS, 2):
        if one.floor == other.floor:
            assert one.right < other.left or other.right < one.left


def test_arrows_imply_all_imports_and_none_is_implied():
    edges = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"d"}}
    assert architecture.arrows(edges) == {
        "a": {"b"},
        "b": {"c"},
        "c": {"d"},
        "d": set(),
        "e": {"d"},
    }


def test_a_change_shows(tmp_path, monkeypatch):
    path = tmp_path / "a.svg"
    architecture.draw(path)
    assert architecture.digest() in path.read_text()
    changed = {room: set(others) for room, others in architecture.imports().items()}
    changed["export"].remove("run_directory")
    monkeypatch.setattr(architecture, "imports", lambda: changed)
    assert architecture.digest() not in path.read_text()
    assert architecture.table() not in architecture.PAGE.read_text()
    changed["attic"] = {"export"}
    with pytest.raises(ValueError, match=r"name \['attic'\] there.*Received: rooms="):
        architecture.draw(path)
