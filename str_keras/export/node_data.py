"""Zeros of each operator of a .tflite file, for Model Explorer to color its graph."""

from __future__ import annotations

import os
from pathlib import Path

from str_keras.export import targets
from str_keras.export.flatbuffer import operator_kernels, read_graphs
from str_keras.files import claim_file

# Shares up to which a node has a color, light to dark. Absolute, unlike a gradient,
# which Model Explorer stretches over the file's own smallest to largest value. Sparse
# kernels need more than two thirds of zeros.
_COLORS = {
    0.0: "#ffffff",
    0.5: "#e8f0fe",
    0.6667: "#c6dafc",
    0.8: "#a1c2fa",
    0.9: "#7baaf7",
    0.95: "#5e97f6",
    1.0: "#4285f4",
}


def node_data(
    tflite_path: str | os.PathLike[str],
    json_path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> dict[str, dict[str, float]]:
    """Writes the share of zeros of each operator's kernel as node data.

    In Model Explorer (`pip install ai-edge-model-explorer`, `model-explorer
    model.tflite`) "Load node data" adds it as a column and colors the graph. Give it
    the dense file: its nodes are the layers, without the operators that unpack sparse
    kernels. Format: `GraphNodeData` of model_explorer.node_data_builder, by subgraph,
    with a node's first output tensor for its key.

    Args:
        tflite_path: A .tflite file of any weights.
        json_path: The file to write.
        overwrite: Whether a file at `json_path` may be replaced.

    Returns:
        By subgraph and name of the operator's output tensor, the share of zeros, in
        [0, 1], of the kernels that it takes (int8: of the zero point), to 4 digits.

    Raises:
        ValueError: if `tflite_path` is no TensorFlow Lite file, or `json_path` the file
            beside it that the export wrote.
        OSError: if it cannot be read, or `json_path` exists or cannot be written.
    """
    content = Path(tflite_path).read_bytes()
    description = Path(tflite_path).with_suffix(".json")
    if Path(json_path).resolve() == description.resolve():
        raise ValueError(
            "that .json describes the model: choose another path, such as "
            f"{Path(tflite_path).stem}.zeros.json. "
            f"Received: json_path={str(json_path)!r}"
        )
    target = claim_file(json_path, overwrite)
    shares = {}
    for graph in read_graphs(content):
        name = (graph.subgraph.name or b"").decode() or "main"
        counts: dict[str, list[int]] = {}
        for operator, kernel in operator_kernels(graph):
            output = graph.tensors[int(operator.outputs[0])].name.decode()
            count = counts.setdefault(output, [0, 0])
            count[0] += kernel.size - kernel.nonzeros
            count[1] += kernel.size
        if counts:
            shares[name] = {
                output: round(zeros / size, 4)
                for output, (zeros, size) in counts.items()
            }
    thresholds = [{"value": v, "bgColor": color} for v, color in _COLORS.items()]
    targets.write_json(
        target,
        {
            graph: {
                "name": "share of zeros",
                "results": {key: {"value": share} for key, share in results.items()},
                "thresholds": thresholds,
            }
            for graph, results in shares.items()
        },
    )
    return shares
