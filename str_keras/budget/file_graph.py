"""What a .tflite file holds beside kernels, estimated from the graph of a model."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import keras
from keras import layers

from str_keras import internals
from str_keras.kernels import is_matrix
from str_keras.layers import SoftThreshold
from str_keras.model import asked_for_shapes

# Fitted to written files: what an operator takes with the tables of its tensors, and
# each kind of operator beside.
_CONVOLUTION, _DEPTHWISE, _CONNECTED, _OTHER, _KIND = 169, 198, 122, 73, 92
_CONVOLUTION_KIND = ("Conv", _CONVOLUTION)
_DENSE_KIND = ("Dense", _CONNECTED)
_OUTPUT = "StatefulPartitionedCall:0"

_NOTHING = (
    layers.InputLayer,
    layers.Dropout,
    layers.SpatialDropout2D,
    layers.GaussianNoise,
    layers.GaussianDropout,
    layers.Identity,
    layers.ActivityRegularization,
)
_POOLS = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
)


@dataclass
class _Call:
    """One call of a layer in the graph."""

    layer: Any
    path: str
    inputs: list[Any]
    output: Any
    shape: tuple[int | None, ...]


@dataclass
class Structure:
    """What stands beside the kernels.

    Args:
        bytes: Their number, with all constants in float32.
        biases: By id of a layer the number of values of its bias, batch
            normalization folded in.
        kinds: Of the operators.
    """

    bytes: float = 0.0
    biases: dict[int, int] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)

    def add_operator(self, kind: str, taken: int = _OTHER) -> None:
        """Adds an operator but for its tensors' shapes, names and data."""
        self.bytes += taken + _KIND * (kind not in self.kinds)
        self.kinds.add(kind)

    def add_tensor(self, name: str, dimensions: int, values: int = 0) -> None:
        """Adds a tensor, of so many values of 4 bytes if it is a constant."""
        # A name has its length before it, and zeros to a multiple of four behind.
        self.bytes += len(name) // 4 * 4 + 8 + 4 * dimensions + 4 * values


def structure(model: keras.Model) -> Structure:
    """Estimates what a file of a model holds beside its kernels.

    Args:
        model: A built Functional or Sequential model, with or without thresholds.
    """
    with asked_for_shapes(model):
        calls, outputs = _calls(model)
    readers = Counter(id(tensor) for call in calls for tensor in call.inputs)
    readers.update(id(tensor) for tensor in outputs)
    by_input: dict[int, list[_Call]] = {}
    for call in calls:
        for tensor in call.inputs:
            by_input.setdefault(id(tensor), []).append(call)
    ends = {id(tensor) for tensor in outputs}
    made, done = Structure(), set()
    for tensor in model.inputs:
        made.add_tensor("serve_tensors:0", len(tensor.shape))
    shared: set[Any] = set()
    for call in calls:
        if id(call) in done or _is_nothing(call.layer):
            continue
        chain = [call]
        while readers[id(chain[-1].output)] == 1 and by_input.get(id(chain[-1].output)):
            (following,) = by_input[id(chain[-1].output)]
            if not (_is_nothing(following.layer) or _joins(chain, following)):
                break
            chain.append(following)
        done.update(id(joined) for joined in chain)
        _write(made, chain, by_input, id(chain[-1].output) in ends, shared)
    return made


def _calls(model: keras.Model) -> tuple[list[_Call], list[Any]]:
    calls: list[_Call] = []

    def visit(operation: Any, prefix: str, *args: Any, **kwargs: Any) -> Any:
        path = f"{prefix}{operation.name}_1"
        graph = None
        if isinstance(operation, keras.Model):
            graph = internals.functional_graph(operation)
        if graph is not None:
            first = internals.first_argument(operation, args, kwargs)

            def below(inner: Any, *a: Any, **k: Any) -> Any:
                return visit(inner, f"{path}/", *a, **k)

            return internals.run_graph(graph, first, below)
        outputs = operation.compute_output_spec(*args, **kwargs)
        inner = operation.layer if isinstance(operation, SoftThreshold) else operation
        flat = keras.tree.flatten(outputs)
        inputs = [
            tensor
            for tensor in keras.tree.flatten((args, kwargs))
            if isinstance(tensor, keras.KerasTensor)
        ]
        calls.append(_Call(inner, path, inputs, flat[0], tuple(flat[0].shape)))
        return outputs

    inputs = model.inputs
    outputs = visit(model, "", inputs[0] if len(inputs) == 1 else inputs)
    return calls, keras.tree.flatten(outputs)


def _is_nothing(layer: Any) -> bool:
    """Whether a call of the layer leaves nothing in a file."""
    linear = isinstance(layer, layers.Activation) and (
        layer.activation is keras.activations.linear
    )
    return linear or isinstance(layer, _NOTHING)


def _is_relu(layer: Any) -> bool:
    if isinstance(layer, layers.ReLU):
        return not layer.negative_slope and not layer.threshold
    activation = getattr(layer, "activation", None)
    return activation in (keras.activations.relu, keras.activations.relu6)


def _has_kernel(layer: Any) -> bool:
    return any(is_matrix(weight) for weight in getattr(layer, "weights", []))


def _joins(chain: list[_Call], following: _Call) -> bool:
    """Whether a call becomes part of the operator that the chain ends with."""
    kinds = [call.layer for call in chain if not _is_nothing(call.layer)]
    last, layer = kinds[-1], following.layer
    if isinstance(layer, layers.BatchNormalization):
        return len(kinds) == 1 and _has_kernel(last) and not _own_activation(last)
    if isinstance(layer, layers.ReLU | layers.Activation) and _is_relu(layer):
        sums = layers.Add | layers.Multiply | layers.Subtract
        joined = isinstance(last, sums | layers.BatchNormalization)
        return joined or (_has_kernel(last) and not _own_activation(last))
    return False


def _own_activation(layer: Any) -> bool:
    return getattr(layer, "activation", None) not in (None, keras.activations.linear)


def _write(
    made: Structure,
    chain: list[_Call],
    by_input: dict[int, list[_Call]],
    ends: bool,
    shared: set[Any],
) -> None:
    """Adds one operator, or the few that a layer becomes."""
    call, rank = chain[0], len(chain[-1].shape)
    layer, path = call.layer, call.path
    joined = [c for c in chain[1:] if not _is_nothing(c.layer)]
    act = "".join(f"{c.path}/Relu;" for c in joined if _is_relu(c.layer))
    norm = [c for c in joined if isinstance(c.layer, layers.BatchNormalization)]
    if _has_kernel(layer):
        _write_kernel(made, chain[-1], call, norm, act, ends, shared)
        return
    if isinstance(layer, layers.ZeroPadding2D) and _is_same(call, by_input):
        return
    kind, values = type(layer).__name__, int(call.shape[-1] or 0)
    made.add_tensor(_OUTPUT if ends else f"{act}{path}/{kind[:4]}", rank)
    if isinstance(layer, layers.BatchNormalization):
        made.add_operator("Multiply")
        made.add_operator("Add")
        made.add_tensor(f"{path}/batchnorm/mul_1", rank)
        for name in ("mul", "sub"):
            made.add_tensor(f"{path}/batchnorm/{name}", 1, values)
            made.add_tensor("/4d", 4)  # sparse kernels ask for four dimensions
        return
    made.add_operator(kind)
    if isinstance(layer, _POOLS):
        made.add_tensor(f"{path}/Mean/reduction_indices", 1, 2)
    elif isinstance(layer, layers.Rescaling | layers.Normalization):
        made.add_operator("Add")
        made.add_tensor(f"{path}/mul", rank)
        for name in ("x", "y"):
            made.add_tensor(f"{path}/Cast/{name}", 1, 1)
    elif isinstance(layer, layers.Flatten | layers.Reshape | layers.ZeroPadding2D):
        pads = isinstance(layer, layers.ZeroPadding2D)
        if (pads, rank) not in shared:  # the converter merges equal ones
            shared.add((pads, rank))
            made.add_tensor("arith.constant", 1 + pads, 8 if pads else rank)


def _write_kernel(
    made: Structure,
    last: _Call,
    call: _Call,
    norm: list[_Call],
    act: str,
    ends: bool,
    shared: set[Any],
) -> None:
    layer, path, rank = call.layer, call.path, len(last.shape)
    kernels = [weight for weight in layer.weights if is_matrix(weight)]
    dense = isinstance(layer, layers.Dense | layers.EinsumDense)
    depthwise = isinstance(layer, layers.DepthwiseConv1D | layers.DepthwiseConv2D)
    own = f"{path}/Relu;" if _is_relu(layer) else act
    kernel = name = f"{path}/{'MatMul' if dense else 'convolution'}"
    values = int(call.shape[-1] or 0)
    biased = getattr(layer, "use_bias", False) or bool(norm)
    if depthwise:
        kernel = name = f"{path}/depthwise"
    if norm:
        batch = f"{norm[0].path}/batchnorm"
        if depthwise:
            kernel = f"{batch}/mul_1;{name};{batch}/mul"
            name = kernel
        name = f"{own}{batch}/add_1;{name};{batch}/sub"
    elif biased and dense:
        name = f"{own}{path}/BiasAdd"
    elif biased:
        name = f"{own}{path}/BiasAdd;{name};{path}/Squeeze"
    else:
        name = own + name
    made.add_tensor(_OUTPUT if ends else f"{name}1", rank)
    for weight in kernels:
        made.add_tensor(kernel, max(len(weight.shape), 2))
        if depthwise or weight.name == "depthwise_kernel":
            made.add_operator("DepthwiseConv", _DEPTHWISE)
        else:
            made.add_operator(*(_DENSE_KIND if dense else _CONVOLUTION_KIND))
    if biased:
        if id(layer) not in made.biases:
            made.biases[id(layer)] = values
            made.add_tensor(name, 1, values)
    elif not dense and values not in shared:  # zeros, one constant of a length
        shared.add(values)
        made.add_tensor("arith.constant", 1, values)
    if not dense and _own_activation(layer) and not _is_relu(layer):
        made.add_operator("Activation")
        made.add_tensor(f"{path}/Activation", rank)


def _is_same(call: _Call, by_input: dict[int, list[_Call]]) -> bool:
    """Whether the padding becomes "same" of the convolution that reads it.

    Not where it is even and the stride 2: there export sets it apart again.
    """
    users = by_input.get(id(call.output), [])
    if len(users) != 1 or not hasattr(users[0].layer, "kernel_size"):
        return False
    (user,) = users
    if getattr(user.layer, "padding", "") != "valid":
        return False
    sizes = call.inputs[0].shape[1:3]
    if None in sizes:
        return False
    for size, given, kernel, stride in zip(
        sizes,
        call.layer.padding,
        user.layer.kernel_size,
        user.layer.strides,
        strict=True,
    ):
        wanted = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        if tuple(given) != (wanted // 2, wanted - wanted // 2):
            return False
        if stride > 1 and wanted % 2 == 0:
            return False
    return True
