"""Draws which parts of the package import which, from the imports themselves.

    python tools/draw_architecture.py   writes docs/architecture.svg and the table of
                                        docs/architecture.md anew

A room is a module or subpackage right below str_keras; rooms of one purpose form a
group. An arrow leads from a group to one that it imports from; arrows that others imply
are left out. tests/test_architecture.py fails while the picture is not that of the
present imports, or where groups import in a circle.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import pathlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

if __name__ == "__main__":
    os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import files

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "str_keras"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "architecture.svg"
FIRST, LAST = "<!-- rooms -->", "<!-- end of rooms -->"


@dataclass(frozen=True)
class Group:
    """Rooms of one purpose.

    Args:
        title: What they are for.
        rooms: Their names.
        left: Left edge of the box, in [0, 1] of the picture's width.
        right: Right edge of the box.
        floor: Row of the box, 0 at the bottom.
    """

    title: str
    rooms: tuple[str, ...]
    left: float
    right: float
    floor: int


def _group(title: str, rooms: str, left: float, right: float, floor: int) -> Group:
    return Group(title, tuple(rooms.split()), left, right, floor)


# What imports stands above what it imports from.
GROUPS = [
    _group(
        "Machine, files, terminal",
        "processors files locking tables startup cli",
        0,
        0.26,
        0,
    ),
    _group("Thresholds, operators", "registries thresholds operators", 0.3, 0.68, 0),
    _group("Keras' inside, policies", "internals policies", 0.72, 1, 0),
    _group(
        "Which kernels, and how a layer reads them",
        "logits recurrent kernels selection substitution layers",
        0.3,
        1,
        1,
    ),
    _group(
        "Whole models, and back to plain ones",
        "model folding stripping freezing recalibration",
        0.3,
        1,
        2,
    ),
    _group("What a model holds and costs", "targets budget ranking solving", 0, 1, 3),
    _group(
        "Where thresholds come from",
        "steering sources learned leveled pruning presets sparsifying",
        0,
        0.5,
        4,
    ),
    _group("Other forms of a net", "channels ready", 0.53, 0.77, 4),
    _group("Networks, images", "models data", 0.8, 1, 4),
    _group("Rates and forecasts", "schedules optimizers forecasting tuning", 0, 0.5, 5),
    _group(
        "One training",
        "distribution methods config config_files building checkpoint run_directory "
        "monitoring alarms training",
        0,
        1,
        6,
    ),
    _group("Files for devices", "export torch_checkpoints", 0, 1, 7),
    _group(
        "Programs",
        "evaluation train evaluate reporting report diagnosis doctor",
        0,
        1,
        8,
    ),
]


def modules() -> list[pathlib.Path]:
    """Every module of the package but the package's own."""
    return sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


def room_of(path: pathlib.Path) -> str:
    """Name of the room that a module is in."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: pathlib.Path) -> Iterator[str]:
    """Modules of ours that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "str_keras":
                yield from (f"str_keras.{alias.name}" for alias in node.names)
            elif node.module.startswith("str_keras."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("str_keras."))


@functools.cache
def imports() -> dict[str, set[str]]:
    """Of each room the other rooms that it imports from."""
    found: dict[str, set[str]] = {room_of(path): set() for path in modules()}
    for path in modules():
        room = room_of(path)
        rooms = {module.split(".")[1] for module in imports_of(path)}
        found[room] |= rooms & found.keys() - {room}
    return found


def group_imports() -> dict[str, set[str]]:
    """Of each group, by title, the other groups that it imports from.

    Raises:
        ValueError: if a room is in no group, or in two, or a group names none of ours.
    """
    titles = {room: group.title for group in GROUPS for room in group.rooms}
    named = sorted(room for group in GROUPS for room in group.rooms)
    if named != sorted(imports()):
        raise ValueError(
            "GROUPS of tools/draw_architecture.py wants every room once: name "
            f"{sorted(set(imports()) - set(named))} there, and take out "
            f"{sorted(set(named) - set(imports()))}. Received: rooms={named}"
        )
    found: dict[str, set[str]] = {group.title: set() for group in GROUPS}
    for room, others in imports().items():
        found[titles[room]] |= {titles[o] for o in others} - {titles[room]}
    return found


def arrows(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The edges of a graph without circles that no path of others implies."""

    def below(node: str) -> set[str]:
        return {node}.union(*(below(other) for other in edges[node]))

    return {
        node: {
            other
            for other in others
            if not any(other in below(between) for between in others - {other})
        }
        for node, others in edges.items()
    }


def purpose(room: str) -> str:
    """First line of the room's docstring."""
    path = PACKAGE / f"{room}.py"
    path = path if path.is_file() else PACKAGE / room / "__init__.py"
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ")


def table() -> str:
    """All rooms as Markdown: of each its purpose and what it imports from."""
    lines = ["| room | what it is | imports from |", "| --- | --- | --- |"]
    for group in reversed(GROUPS):
        lines.append(f"| **{group.title}** | | |")
        for room in group.rooms:
            others = ", ".join(f"`{other}`" for other in sorted(imports()[room]))
            lines.append(f"| `{room}` | {purpose(room)} | {others} |")
    return "\n".join(lines)


def digest() -> str:
    """Of what the picture shows: groups with their places, rooms, imports."""
    shown = (GROUPS, sorted((room, sorted(o)) for room, o in imports().items()))
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:32]


def draw(path: pathlib.Path) -> None:
    """Writes the picture.

    Args:
        path: The .svg file.

    Raises:
        ValueError: if a room is in no group.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

    edges = arrows(group_imports())
    height, gap = 0.72, 0.28
    rc: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "str_keras",
        "font.size": 9,
    }
    with pyplot.rc_context(rc):
        figure, axes = pyplot.subplots(figsize=(9, 9))
        boxes = {}
        for group in GROUPS:
            bottom = group.floor * (height + gap)
            width = group.right - group.left
            box = FancyBboxPatch(
                (group.left, bottom),
                width,
                height,
                boxstyle="round,pad=0,rounding_size=0.015",
                mutation_aspect=8,
                facecolor="#eef3f8",
                edgecolor="#33658a",
            )
            axes.add_patch(box)
            boxes[group.title] = group
            axes.text(
                group.left + width / 2,
                bottom + height - 0.08,
                group.title,
                ha="center",
                va="top",
                weight="bold",
                color="#12304a",
            )
            rooms = textwrap.fill(", ".join(group.rooms), int(width * 96))
            axes.text(
                group.left + width / 2,
                bottom + (height - 0.27) / 2,
                rooms,
                ha="center",
                va="center",
                color="#222222",
                linespacing=1.35,
            )
        for title, others in edges.items():
            for other in sorted(others):  # the same file at every run
                axes.add_patch(
                    FancyArrowPatch(
                        *_ends(boxes[title], boxes[other], height, gap),
                        arrowstyle="-|>",
                        mutation_scale=9,
                        color="#86a5bd",
                        linewidth=1.1,
                        shrinkA=0,
                        shrinkB=1,
                        zorder=0,
                    )
                )
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.05, (GROUPS[-1].floor + 1) * (height + gap) - gap + 0.05)
        axes.set_axis_off()
        figure.savefig(
            path,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata={"Date": None, "Description": digest()},
        )
        pyplot.close(figure)


def _ends(
    upper: Group, lower: Group, height: float, gap: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves the upper box and meets the lower one."""
    step = height + gap
    left = max(upper.left, lower.left)
    right = min(upper.right, lower.right)
    if left < right:  # one above the other: straight down
        start = end = (left + right) / 2
    else:
        start = upper.right - 0.03 if lower.left > upper.left else upper.left + 0.03
        end = lower.left + 0.03 if lower.left > upper.left else lower.right - 0.03
    return (start, upper.floor * step), (end, lower.floor * step + height)


def write() -> None:
    """Writes picture and table."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(FIRST)
    _, _, after = rest.partition(LAST)
    draw(PICTURE)
    files.write_text(PAGE, f"{before}{FIRST}\n{table()}\n{LAST}{after}")


if __name__ == "__main__":
    write()
