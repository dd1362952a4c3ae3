"""Other layers for the same function: those that sparse kernels know."""

from __future__ import annotations

import numpy as np
from keras import layers

from str_keras.ready.graph import Graph, Node, Part, Value
from str_keras.ready.placing import STEM_CHANNELS, padded
from str_keras.ready.report import Notes
from str_keras.ready.windows import Windows, is_changed_by_keras, pair

_KEPT = ("name", "trainable", "dtype")


def _kept(part: Part) -> dict:
    return {key: part.config[key] for key in _KEPT if key in part.config}


def _create(part: Part, kind: type, weights: list, **config: object) -> Part:
    """A new part with all options of its kind."""
    return Part(kind, kind(**_kept(part) | config).get_config(), weights)


def use_known_forms(graph: Graph, notes: Notes) -> None:
    """Rewrites separable and fully grouped convolutions, and averages of everything.

    Args:
        graph: It is changed.
        notes: Gets what was changed.
    """
    made: dict[int, list[Part]] = {}
    for node in list(graph.nodes):
        part = node.part
        if is_changed_by_keras(part.layer):
            continue
        if part.kind is layers.SeparableConv2D:
            _separate(graph, node, made, notes)
        elif part.kind is layers.Conv2D and _is_depthwise(node):
            if id(part) not in made:
                made[id(part)] = [_depthwise(part)]
            node.part = made[id(part)][0]
            notes.add(node.path, "convolution", "one group a channel -> depthwise")
        elif part.kind is layers.AveragePooling2D and _is_global(node):
            node.part = _create(part, layers.GlobalAveragePooling2D, [], keepdims=True)
            notes.add(node.path, "pooling", "average of all pixels -> global")
    _keep_pixels(graph, notes)
    _widen_stems(graph, notes)
    graph.drop_unread()


def _separate(
    graph: Graph, node: Node, made: dict[int, list[Part]], notes: Notes
) -> None:
    part = node.part
    if id(part) not in made:
        config = part.config
        depthwise, pointwise, *bias = part.values()
        names = [f"{part.name}_{half}" for half in ("depthwise", "pointwise")]
        shared = ("kernel_size", "strides", "padding", "dilation_rate")
        made[id(part)] = [
            _create(
                *(part, layers.DepthwiseConv2D, [depthwise]),
                **{key: config[key] for key in shared},
                depth_multiplier=config["depth_multiplier"],
                use_bias=False,
                name=names[0],
            ),
            _create(
                *(part, layers.Conv2D, [pointwise, *bias]),
                filters=config["filters"],
                kernel_size=1,
                use_bias=config["use_bias"],
                activation=config["activation"],
                name=names[1],
            ),
        ]
    first, second = made[id(part)]
    (x,), y = node.inputs, node.output
    channels = x.shape[-1]
    assert channels is not None  # a kernel was built for it
    between = Value(
        (*y.shape[:-1], channels * part.config["depth_multiplier"]), y.dtype
    )
    graph.insert(Node(first, (x,), [between], node.path), node)
    node.part, node.args, node.kwargs = second, (between,), {}
    notes.add(node.path, "convolution", "separable -> depthwise and 1x1")


def _is_depthwise(node: Node) -> bool:
    config, channels = node.part.config, node.inputs[0].shape[-1]
    return channels != 1 and config["groups"] == config["filters"] == channels


def _depthwise(part: Part) -> Part:
    kernel, *bias = part.values()
    shared = ("kernel_size", "strides", "padding", "dilation_rate")
    return _create(
        *(part, layers.DepthwiseConv2D, [np.swapaxes(kernel, 2, 3), *bias]),
        **{key: part.config[key] for key in (*shared, "use_bias", "activation")},
    )


def _is_global(node: Node) -> bool:
    """Whether one window of a pooling covers the image, and nothing else."""
    (x,) = node.inputs
    covers = pair(node.part.config["pool_size"]) == x.shape[1:3]
    return covers and node.output.is_pixel and node.part.config["padding"] == "valid"


def _keep_pixels(graph: Graph, notes: Notes) -> None:
    """A pooling and a Reshape to one pixel: the pooling can keep the two axes."""
    consumers = graph.consumers()
    for node in graph.nodes:
        readers = consumers.get(id(node.output), [])
        if (
            node.part.kind is layers.GlobalAveragePooling2D
            and len(readers) == 1
            and readers[0].part.kind is layers.Reshape
            and readers[0].output.shape[1:] == (1, 1, node.output.shape[-1])
            and not graph.is_output(node.output)
        ):
            node.part = node.part.change(keepdims=True)
            node.outputs = [Value(readers[0].output.shape, node.output.dtype)]
            graph.replace(readers[0].output, node.output)
            notes.add(readers[0].path, "reshape", "the pooling keeps both axes")
    graph.drop_unread()


def _widen_stems(graph: Graph, notes: Notes) -> None:
    """An image of one channel three times over, and zeros for two in the kernel."""
    producers = graph.producers()
    for node in list(graph.nodes):
        part = node.part
        if part.kind is not layers.Conv2D or node.inputs[0].shape[-1] != 1:
            continue
        windows = Windows(node, producers)
        if windows.strides != (2, 2) or is_changed_by_keras(part.layer):
            continue
        kernel, *bias = part.values()
        more = np.zeros((*kernel.shape[:2], STEM_CHANNELS - 1, kernel.shape[3]))
        weights = [np.concatenate([kernel, more], axis=2), *bias]
        source = windows.source
        wide = Value((*source.shape[:-1], STEM_CHANNELS), source.dtype)
        copies = _create(part, layers.Concatenate, [], name=f"{part.name}_channels")
        graph.insert(Node(copies, ([source] * STEM_CHANNELS,), [wide], node.path), node)
        node.part = part.change(weights=weights)
        node.args, node.kwargs = (padded(graph, wide, windows.zeros, node),), {}
        told = "the one channel three times, zeros for two"
        notes.add(node.path, "convolution", told)
