"""Exact forms of the graph that XNNPACK's sparse kernels ask for.

The rules are those of XNNPACK's `xnn_check_nchw_compatibility` (src/subgraph.c) as of
2026. A graph that breaks one where sparse kernels are on is not only slower: its
outputs may be wrong there, and nothing says so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from str_keras.export.flatbuffer import Graph
from str_keras.export.rewrite.editing import (
    OP,
    TYPE,
    Editor,
    float_constant,
    set_inputs,
)


def make_ready(content: bytes) -> bytes:
    """Rewrites a float32 .tflite, exactly, so that sparse kernels take more of it.

    - A convolution of stride 2 with "same" padding over an odd height and width gets
      its padding by a PAD and is "valid". (TensorFlow's converter folds Keras'
      `ZeroPadding2D` of such a layer into "same", which XNNPACK refuses.)
    - A constant that is added or multiplied gets four dimensions and comes first.
    - Pooled features that go to a 1x1 convolution, or another operator on four
      dimensions, which is the last before the classes, are flattened and reshaped on
      the way: XNNPACK's sparse inference then ends at the pooling. (Without it such a
      file does not load where sparse kernels are on, or gives zeros.)

    Args:
        content: The bytes of the file; dense or sparse-encoded.

    Returns:
        The bytes of a file with the same inputs, outputs and values; `content` itself
        if there is nothing to rewrite.

    Raises:
        ValueError: if `content` is no TensorFlow Lite flatbuffer.
    """
    return rewrite_graph(content)[0]


def rewrite_graph(content: bytes) -> tuple[bytes, tuple[str, ...]]:
    """As `make_ready`, and a line for each operator that was rewritten."""
    editor = Editor(content)
    steps: list[Callable[[Editor, Graph], list[str]]]
    steps = [_pad_apart, _constants_first, _flatten_pooling]
    done: list[str] = []
    for step in steps:
        for graph in editor.graphs():  # anew: a step moves operators
            done += step(editor, graph)
    return (editor.to_bytes() if done else content), tuple(done)


def _name(graph: Graph, index: int) -> str:
    """A tensor's name: of what the converter made one of, the first."""
    return graph.tensors[index].name.decode().partition(";")[0]


def _signature(graph: Graph, index: int) -> tuple[int, ...]:
    """Shape of a tensor with -1 for what is free."""
    tensor = graph.tensors[index]
    free = tensor.shapeSignature
    return graph.shape(index) if free is None else tuple(int(n) for n in free)


def _is_float(graph: Graph, index: int) -> bool:
    return graph.tensors[index].type == TYPE.FLOAT32


def _pad_apart(editor: Editor, graph: Graph) -> list[str]:
    operators, done = [], []
    for code, operator in graph.operators:
        if code in (OP.CONV_2D, OP.DEPTHWISE_CONV_2D) and _pads_evenly(graph, operator):
            operators.append(_insert_pad(editor, graph, operator))
            done.append(f"padding set apart: {_name(graph, int(operator.outputs[0]))}")
        operators.append(operator)
    graph.subgraph.operators = operators
    return done


def _pads_evenly(graph: Graph, operator: Any) -> bool:
    """Whether "same" means half the kernel on each side: odd extents, stride 2."""
    options, source = operator.builtinOptions, int(operator.inputs[0])
    kernel = graph.shape(int(operator.inputs[1]))[1:3]
    return (
        options.padding == schema.Padding.SAME
        and (options.strideH, options.strideW) == (2, 2)
        and (options.dilationHFactor, options.dilationWFactor) == (1, 1)
        and _is_float(graph, source)
        # A free extent is -1 and counts as odd too: what it is, is not known.
        and all(n > 0 and n % 2 for n in _signature(graph, source)[1:3])
        and all(n % 2 for n in kernel)
        and max(kernel) > 1
    )


def _insert_pad(editor: Editor, graph: Graph, operator: Any) -> Any:
    inputs = [int(i) for i in operator.inputs]
    height, width = (n // 2 for n in graph.shape(inputs[1])[1:3])
    widths = np.array([[0, 0], [height, height], [width, width], [0, 0]], "<i4")
    added = widths.sum(axis=1)
    name, subgraph = graph.tensors[inputs[0]].name, graph.subgraph
    signature = [
        n if n < 0 else n + int(more)
        for n, more in zip(_signature(graph, inputs[0]), added, strict=True)
    ]
    paddings = editor.add_tensor(
        subgraph, name + b"/paddings", widths.shape, "int32", values=widths
    )
    padded = editor.add_tensor(
        subgraph,
        name + b"/padded",
        [n + int(more) for n, more in zip(graph.shape(inputs[0]), added, strict=True)],
        signature=signature if min(signature) < 0 else None,
    )
    set_inputs(operator, [padded, *inputs[1:]])
    operator.builtinOptions.padding = schema.Padding.VALID
    return editor.operator(
        "PAD", [inputs[0], paddings], [padded], options=schema.PadOptionsT()
    )


def _constants_first(editor: Editor, graph: Graph) -> list[str]:
    done = []
    for code, operator in graph.operators:
        if code not in (OP.ADD, OP.MUL):
            continue
        inputs = [int(i) for i in operator.inputs]
        constants = [i for i in inputs if float_constant(graph, i) is not None]
        if len(constants) != 1:
            continue
        (constant,) = constants
        (other,) = (i for i in inputs if i != constant)
        shape = graph.shape(constant)
        broadcast = sum(n > 1 for n in shape) <= 1 and len(shape) <= 4
        if not broadcast or len(graph.shape(other)) != 4:
            continue
        if len(shape) < 4:
            constant = _with_four_dimensions(editor, graph, constant)
        if [constant, other] != inputs:
            set_inputs(operator, [constant, other])
            name = _name(graph, int(operator.outputs[0]))
            done.append(f"constant of 4 dimensions first: {name}")
    return done


def _with_four_dimensions(editor: Editor, graph: Graph, index: int) -> int:
    """A tensor of the same data and leading dimensions of one."""
    made, shape = copy.copy(graph.tensors[index]), graph.shape(index)
    made.shape, made.shapeSignature = [1] * (4 - len(shape)) + list(shape), None
    made.hasRank, made.name = True, made.name + b"/4d"
    graph.subgraph.tensors.append(made)
    return len(graph.subgraph.tensors) - 1


def _flatten_pooling(editor: Editor, graph: Graph) -> list[str]:
    operators, done = [], []
    for code, operator in graph.operators:
        operators.append(operator)
        if code == OP.MEAN and _pools_for_a_head(graph, operator):
            name = _name(graph, int(operator.outputs[0]))
            operators.append(_reshape_after(editor, graph, operator))
            done.append(f"pooled features flattened before the head: {name}")
    graph.subgraph.operators = operators
    return done


def _pools_for_a_head(graph: Graph, operator: Any) -> bool:
    source, output = int(operator.inputs[0]), int(operator.outputs[0])
    shape = graph.shape(output)
    pooled = operator.builtinOptions.keepDims and len(shape) == 4
    if not pooled or shape[1:3] != (1, 1) or not _is_float(graph, source):
        return False
    return not _becomes_spatial(graph, output) and any(
        _leaves_soon(graph, int(user.outputs[0]), int(code == OP.CONV_2D))
        for code, user in _users(graph, output)
        if len(graph.shape(int(user.outputs[0]))) == 4
    )


def _users(graph: Graph, index: int) -> list[tuple[int, Any]]:
    return [(c, op) for c, op in graph.operators if index in map(int, op.inputs)]


def _leaves_soon(graph: Graph, index: int, convolutions: int) -> bool:
    """Whether a path leaves four dimensions, or the graph, after one convolution.

    After two it is right: the first has given the tensor its own dimensions again.
    """
    if convolutions > 1:
        return False
    if index in map(int, graph.subgraph.outputs):
        return True
    return any(
        len(graph.shape(int(user.outputs[0]))) != 4
        or _leaves_soon(
            graph, int(user.outputs[0]), convolutions + (code == OP.CONV_2D)
        )
        for code, user in _users(graph, index)
    )


def _becomes_spatial(graph: Graph, index: int) -> bool:
    reached = {index}
    for _, operator in graph.operators:  # in order of execution
        if reached & {int(i) for i in operator.inputs}:
            reached.update(int(output) for output in operator.outputs)
    shapes = [graph.shape(i) for i in reached]
    return any(len(s) == 4 and math.prod(s[1:3]) > 1 for s in shapes)


def _reshape_after(editor: Editor, graph: Graph, operator: Any) -> Any:
    """Lets a MEAN drop its dimensions; returns the RESHAPE that brings them back."""
    output = int(operator.outputs[0])
    batch, _, _, channels = graph.shape(output)
    free, name = _signature(graph, output)[0] < 0, graph.tensors[output].name
    flat = editor.add_tensor(
        graph.subgraph,
        name + b"/flat",
        [batch, channels],
        signature=[-1, channels] if free else None,
    )
    shape = [-1 if free else batch, 1, 1, channels]
    target = editor.add_tensor(
        graph.subgraph, name + b"/shape", [4], "int32", values=np.array(shape, "<i4")
    )
    operator.outputs, operator.builtinOptions.keepDims = [flat], False
    options = schema.ReshapeOptionsT()
    options.newShape = shape
    return editor.operator("RESHAPE", [flat, target], [output], options=options)
