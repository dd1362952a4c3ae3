"""Paddings that fit where no exact rewrite exists: outputs change."""

from __future__ import annotations

import keras

from str_keras.ready.forms import use_known_forms
from str_keras.ready.graph import Graph, Node
from str_keras.ready.placing import padded, sizes_wanted
from str_keras.ready.report import Notes
from str_keras.ready.tracing import build, trace
from str_keras.ready.turning import Order, Turning
from str_keras.ready.windows import Pair, Reach, Windows


def align(model: keras.Model, notes: Notes) -> keras.Model | None:
    """Shifts the windows of the first convolution whose padding fits neither way.

    Args:
        model: Plain; it is not changed.
        notes: Gets what was changed.

    Returns:
        A model in which it fits, the way the rest of the net stands best; None if
        there is no such convolution, or the net does not allow another extent.
    """
    graph = trace(model)
    use_known_forms(graph, Notes())
    found = _first_misfit(graph)
    if found is None:
        return None
    node, windows, order, size = found
    rows, columns = (
        _shifted(reach, turn, size)
        for reach, turn in zip(windows.reach, order, strict=True)
        if reach is not None
    )
    node.args, node.kwargs = (
        (padded(graph, windows.source, (rows, columns), node),),
        {},
    )
    node.part = node.part.change(padding="valid")
    try:
        aligned = build(graph)
    except ValueError:  # shapes of branches, or of a Dense layer, do not match
        return None
    told = f"windows shifted: zeros {rows}, {columns}; fine-tune"
    notes.add(node.path, "convolution", told, exact=False)
    return aligned


def _first_misfit(
    graph: Graph,
) -> tuple[Node, Windows, Order, int] | None:
    turning = Turning(graph, Notes())
    for node in graph.nodes:
        windows, sizes = turning.windows.get(id(node)), sizes_wanted(node)
        if windows is None or not sizes or None in windows.reach:
            continue
        order = turning.order(node)
        known = [r for r in windows.reach if r is not None]
        ways = [
            reach.turned() if turn else reach
            for reach, turn in zip(known, order, strict=True)
        ]
        large = [s for s in sizes if all(r.taps <= s for r in ways)]
        if large and not any(
            all(way.place(size) is not None for way in ways) for size in sizes
        ):
            return node, windows, order, large[0]
    return None


def _shifted(reach: Reach, turned: bool, size: int) -> Pair:
    """Zeros before and after so that the windows fit a kernel of `size`."""
    way = reach.turned() if turned else reach
    half = size // 2
    before = min(max(way.before, half - (size - way.taps)), half)
    count = (reach.extent - 1) // reach.stride + 1
    after = (count - 1) * reach.stride + reach.taps - reach.extent - before
    return (after, before) if turned else (before, max(after, 0))
