"""Names of operators, as Keras calls their layers."""

from __future__ import annotations

import re
from typing import Any

from str_keras.export.flatbuffer import Graph

_OF_KERNELS = ("convolution", "depthwise", "MatMul", "Tensordot")


def operator_name(graph: Graph, operator: Any) -> str:
    """The Keras layer that an operator comes from, as far as the file tells.

    That of the tensor it gives; of an output, which the converter names anew, that of
    its kernel.
    """
    tensors = [int(operator.outputs[0]), *(int(i) for i in operator.inputs[1:2])]
    names = [(graph.tensors[i].name or b"").decode() for i in tensors if i >= 0]
    return next((layer for layer in map(layer_name, names) if layer), names[0])


def layer_name(tensor: str) -> str | None:
    """The Keras layer in the name of a tensor; None if there is none.

    The converter joins the names of all operations that it fused, such as
    "net_1/conv_relu_1/Relu;net_1/conv_1/convolution": the kernel's layer says most.
    Keras appends a number, as it calls each layer once more to export it.
    """
    parts = [part.split("/") for part in tensor.split(";") if "/" in part]
    kernels = [part for part in parts if part[-1].startswith(_OF_KERNELS)]
    best = next(iter(kernels or parts), None)
    return None if best is None else re.sub(r"_\d+$", "", best[-2])
