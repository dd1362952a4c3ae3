"""What a .tflite file takes and gives: read from its flatbuffer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from str_keras.export.flatbuffer import read_graphs

# "float32", "int8", ...: the schema's names are NumPy's, where NumPy has the kind.
_DTYPES = {
    kind: name.lower()
    for name, kind in vars(schema.TensorType).items()
    if isinstance(kind, int)
}


@dataclasses.dataclass(frozen=True)
class End:
    """An input or output of a file.

    Attributes:
        name: The signature's name of it, the tensor's where there is no signature.
        index: Of the tensor.
        shape: With the batch; a free dimension is -1.
        dtype: NumPy's name; the schema's of a kind that NumPy does not have ("string").
        scale: What a step of a quantized value stands for; 0 if it is not quantized.
        zero_point: The quantized value of zero.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int

    def quantize(self, samples: np.ndarray) -> np.ndarray:
        """Samples `[n, ...]` as the file takes them.

        Float samples become the steps of a quantized input; samples of the input's
        own dtype stay as they are.

        Raises:
            ValueError: for another shape, float samples for raw integers, or integers
                that the input's dtype does not hold.
        """
        wanted = self.shape[1:]
        fits = len(wanted) == samples.ndim - 1 and all(
            n in (-1, m) for n, m in zip(wanted, samples.shape[1:], strict=True)
        )
        if not fits:
            raise ValueError(
                f"the file takes samples (n, {', '.join(map(str, wanted))}). "
                f"Received: inputs of shape {samples.shape}"
            )
        if samples.dtype == self.dtype:
            return samples
        if "float" in self.dtype:
            return samples.astype(self.dtype)
        if samples.dtype.kind != "f":
            values = samples.astype(self.dtype)
            if (values != samples).any():
                raise ValueError(
                    f"the file takes {self.dtype}, which does not hold values from "
                    f"{samples.min()} to {samples.max()}: give float samples, or its "
                    f"own steps. Received: inputs of dtype {samples.dtype}"
                )
            return values
        if not self.scale:
            raise ValueError(
                f"the file takes raw {self.dtype} values, such as pixels. "
                f"Received: inputs of dtype {samples.dtype}"
            )
        bounds = np.iinfo(self.dtype)
        steps = np.round(samples / self.scale) + self.zero_point
        return np.clip(steps, bounds.min, bounds.max).astype(self.dtype)

    def random(self, number: int) -> np.ndarray:
        """Random samples `[number, ...]`: normal ones, of seed 0, or pixels for uint8.

        A free dimension is 1.

        Raises:
            ValueError: if the input takes raw integers, of which nothing is known.
        """
        random, shape = np.random.default_rng(0), (number, *map(abs, self.shape[1:]))
        if self.dtype == "uint8":
            return random.integers(0, 256, shape, dtype="uint8")
        if "float" not in self.dtype and not self.scale:
            raise ValueError(
                f"random inputs cannot stand for {self.dtype} ones: give `images`"
            )
        return random.standard_normal(shape, dtype="float32")

    def dequantize(self, values: np.ndarray) -> np.ndarray:
        """What values of the file stand for: float32 if they are quantized."""
        if not self.scale:
            return values
        return (values.astype("float32") - self.zero_point) * np.float32(self.scale)


@dataclasses.dataclass(frozen=True)
class Ends:
    """All inputs and outputs of a file's first signature, in its order."""

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]

    @property
    def only_input(self) -> End:
        """The input, where samples can be run one by one or in batches.

        Raises:
            ValueError: if there is not one input, it has no axis for the batch, or
                other axes are free.
        """
        if len(self.inputs) != 1:
            raise ValueError(f"the file has {len(self.inputs)} inputs: one is needed")
        shape = self.inputs[0].shape
        if not shape or min(shape[1:], default=1) < 1:
            raise ValueError(
                "the file's input must have an axis for the batch, and a fixed size "
                f"beside it: write it with one. Received: input shape={shape}"
            )
        return self.inputs[0]


def read_ends(content: bytes) -> Ends:
    """Reads what a .tflite file takes and gives.

    Args:
        content: The bytes of the file.

    Raises:
        ValueError: if they are no TensorFlow Lite flatbuffer, or one without a graph.
    """
    graphs = read_graphs(content)
    if not graphs:
        raise ValueError("the .tflite model has no graph")
    model: Any = graphs[0].model
    subgraph = model.subgraphs[0]
    if model.signatureDefs:
        signature = model.signatureDefs[0]
        subgraph = model.subgraphs[signature.subgraphIndex]
        inputs = [(m.name.decode(), m.tensorIndex) for m in signature.inputs]
        outputs = [(m.name.decode(), m.tensorIndex) for m in signature.outputs]
    else:
        inputs = [(_name(subgraph, i), i) for i in subgraph.inputs]
        outputs = [(_name(subgraph, i), i) for i in subgraph.outputs]
    return Ends(
        tuple(_end(subgraph, name, int(i)) for name, i in inputs),
        tuple(_end(subgraph, name, int(i)) for name, i in outputs),
    )


def _name(subgraph: Any, index: int) -> str:
    return subgraph.tensors[index].name.decode()


def _end(subgraph: Any, name: str, index: int) -> End:
    tensor = subgraph.tensors[index]
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization, scale, zero_point = tensor.quantization, 0.0, 0
    if quantization is not None and quantization.scale is not None:
        scale = float(quantization.scale[0])
        if quantization.zeroPoint is not None:
            zero_point = int(quantization.zeroPoint[0])
    return End(
        name=name,
        index=index,
        shape=() if shape is None else tuple(int(n) for n in shape),
        dtype=_DTYPES[tensor.type],
        scale=scale,
        zero_point=zero_point,
    )
