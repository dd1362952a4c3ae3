"""Convolutions with the padding and kernel size that sparse kernels want."""

from __future__ import annotations

from collections.abc import Sequence

from keras import layers

from str_keras.ready.graph import Graph, Node, Part, Value
from str_keras.ready.report import Notes
from str_keras.ready.windows import Pair, Reach, Windows, embed, flip, pair

STEM_SIZES, DEPTHWISE_SIZES = (3,), (3, 5)
STEM_CHANNELS = 3
Zeros = tuple[Pair, Pair]


def sizes_wanted(node: Node) -> tuple[int, ...]:
    """Kernels that XNNPACK runs sparse nets with, of a call's kind; () of others.

    A convolution that is neither the stem (stride 2, three channels) nor depthwise has
    to be 1x1, and then has no windows to care for.
    """
    part = node.part
    if part.kind is layers.DepthwiseConv2D:
        strides = pair(part.config["strides"])
        plain = part.config["depth_multiplier"] == 1 and strides in ((1, 1), (2, 2))
        return DEPTHWISE_SIZES if plain else ()
    if part.kind is layers.Conv2D and part.config["groups"] == 1:
        strides = pair(part.config["strides"])
        stem = strides == (2, 2) and node.inputs[0].shape[-1] == STEM_CHANNELS
        return STEM_SIZES if stem else ()
    return ()


def fit(node: Node, reaches: Sequence[Reach | None]) -> tuple[int, Pair] | None:
    """The smallest kernel for these windows, padded by half of it on every side.

    Returns:
        Its size, and where the taps of the node's own stand in it; None if none does.
    """
    for size in sizes_wanted(node):
        rows, columns = (None if r is None else r.place(size) for r in reaches)
        if rows is not None and columns is not None:
            return size, (rows, columns)
    return None


class Placing:
    """Rewrites the convolutions of a graph, one by one.

    Args:
        graph: It is changed.
        notes: Gets what was changed.
    """

    def __init__(self, graph: Graph, notes: Notes):
        self.graph, self.notes = graph, notes
        self._parts: dict[tuple, Part] = {}

    def place(self, node: Node, windows: Windows, order: tuple[bool, bool]) -> None:
        """Gives a convolution kernel and padding for the way its image stands.

        Args:
            node: Its call.
            windows: What it reads in the model.
            order: Whether its image stands turned along height and width.
        """
        if windows.size == (1, 1) and windows.strides == (1, 1):
            return
        reaches = [
            reach.turned() if turn and reach is not None else reach
            for reach, turn in zip(windows.reach, order, strict=True)
        ]
        plan = fit(node, reaches)
        if plan is not None:
            size = plan[0]
            half = size // 2
            zeros = None if windows.strides == (1, 1) else ((half, half), (half, half))
            if not any(order) and _fits_already(windows, size):
                return
        elif any(order):
            size = None
            zeros = None if windows.is_centered() else _ends(reaches)
        else:
            return
        key = (id(node.part), order, plan, zeros is None)
        if key not in self._parts:
            self._parts[key] = _rewritten(node.part, windows, order, plan, zeros)
        node.part = self._parts[key]
        source = windows.source if plan is not None else node.inputs[0]
        if zeros is not None:
            source = padded(self.graph, windows.source, zeros, node)
        node.args, node.kwargs = (source,), {}
        self.notes.add(node.path, "convolution", _told(windows, order, size, zeros))


def _rewritten(
    part: Part,
    windows: Windows,
    order: tuple[bool, bool],
    plan: tuple[int, Pair] | None,
    zeros: Zeros | None,
) -> Part:
    kernel, *others = part.values()
    kernel = flip(kernel, order)
    changes: dict = {"padding": "same" if zeros is None else "valid"}
    if plan is not None:
        size, offsets = plan
        kernel = embed(kernel, windows.dilation, offsets, size)
        changes |= {"kernel_size": (size, size), "dilation_rate": (1, 1)}
    return part.change(weights=[kernel, *others], **changes)


def _fits_already(windows: Windows, size: int) -> bool:
    if windows.size != (size, size) or windows.dilation != (1, 1):
        return False
    half = (size // 2, size // 2)
    if windows.same:
        return windows.is_centered()
    return windows.zeros == (half, half)


def _ends(reaches: Sequence[Reach | None]) -> Zeros:
    """Zeros around; pixels behind the last window need not be cut off."""
    rows, columns = ((r.before, max(r.after, 0)) for r in reaches if r is not None)
    return rows, columns


def padded(graph: Graph, source: Value, zeros: Zeros, before: Node) -> Value:
    """`source` with zeros around it, or pixels cut off where they are negative.

    Args:
        graph: Gets the layers that are needed.
        source: `[batch, height, width, channels]`.
        zeros: At both ends of height and width.
        before: The call that reads the result; the new layers are named after it.
    """
    name, dtype = before.part.name, before.part.config.get("dtype")
    for kind, option, sign in (
        (layers.Cropping2D, "cropping", -1),
        (layers.ZeroPadding2D, "padding", 1),
    ):
        ends = tuple((max(sign * a, 0), max(sign * b, 0)) for a, b in zeros)
        if not any(map(any, ends)):
            continue
        named = f"{name}_{'pad' if sign > 0 else 'crop'}"
        config = kind(**{option: ends}, name=named, dtype=dtype).get_config()
        rows, columns = (
            None if n is None else n + sign * sum(pair)
            for n, pair in zip(source.shape[1:3], ends, strict=True)
        )
        shape = (source.shape[0], rows, columns, source.shape[3])
        node = Node(
            Part(kind, config), (source,), [Value(shape, source.dtype)], before.path
        )
        graph.insert(node, before)
        source = node.output
    return source


def _told(
    windows: Windows, order: tuple[bool, bool], size: int | None, zeros: Zeros | None
) -> str:
    """What was done, for the report."""
    told = []
    if any(order):
        told.append("kernel turned")
    spread = max(windows.dilation) > 1
    if size is not None and (windows.size != (size, size) or spread):
        old = "x".join(map(str, windows.size)) + " dilated" * spread
        told.append(f"{old} -> {size}x{size}, with zeros")
    if zeros is not None and (known := _ends(windows.reach)) != zeros:
        told.append(f"zeros {_ends_told(known)} -> {_ends_told(zeros)}")
    return "; ".join(told) or "its padding as a layer"


def _ends_told(zeros: Zeros) -> str:
    flat = {n for pair in zeros for n in pair}
    if len(flat) == 1:
        return f"{flat.pop()} on every side"
    rows, columns = zeros
    return f"{rows}" if rows == columns else f"{rows}, {columns}"
