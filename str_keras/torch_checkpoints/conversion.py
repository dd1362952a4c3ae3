"""State_dicts of the authors' code into our models, and back.

Source of the format: main.py and utils/conv_type.py of
https://github.com/RAIVNLab/STR.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from str_keras import models
from str_keras.layers import ThresholdedKernel
from str_keras.model import find_thresholded
from str_keras.sparsifying import sparsify
from str_keras.stripping import strip as strip_model
from str_keras.torch_checkpoints import names
from str_keras.torch_checkpoints.files import read_state_dict, write_state_dict
from str_keras.torch_checkpoints.names import MOBILENET, TorchWeight

ops: Any = keras.ops  # untyped there

_PREFIX = "module."  # of nn.DataParallel, in which the authors train
# What their code calls the networks.
_ARCHES = {
    name: "MobileNetV1" if name == MOBILENET else name.replace("resnet", "ResNet")
    for name in models.ARCHITECTURES
}


def load(
    path: str | os.PathLike[str],
    architecture: str | None = None,
    *,
    strip: bool = False,
    dense_layers: Collection[str] = (),
    stem: str = "imagenet",
    image_size: int | None = None,
) -> keras.Model:
    """Builds our model from a checkpoint of the authors' code; runs no code of it.

    Args:
        path: The .pth: see `files.read_state_dict`.
        architecture: As of `from_state_dict`.
        strip: Whether to return the plain model with zeros in its kernels.
        dense_layers: As of `from_state_dict`.
        stem: As of `from_state_dict`.
        image_size: As of `from_state_dict`.

    Returns:
        As `from_state_dict`.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if PyTorch is not installed, or too old to be safe.
        ValueError: if the file is damaged, holds more than tensors and a training's
            figures, or does not fit the network.
    """
    state = read_state_dict(path)
    arguments = {"stem": stem, "image_size": image_size, "dense_layers": dense_layers}
    try:
        model = from_state_dict(state, architecture, **arguments)
    except ValueError as error:
        raise ValueError(f"{error} in path={os.fspath(path)!r}") from error
    return strip_model(model) if strip else model


def from_state_dict(
    state: Mapping[str, np.ndarray],
    architecture: str | None = None,
    *,
    dense_layers: Collection[str] = (),
    stem: str = "imagenet",
    image_size: int | None = None,
) -> keras.Model:
    """Builds our model from the arrays of a state_dict; needs no PyTorch.

    Stored sparse weights and counts of batches are left out: the kernel and its logit
    give the first, and nothing reads the second.

    Args:
        state: Arrays by the authors' keys, all or none with "module.".
        architecture: A key of `stk.models.ARCHITECTURES`; None: told by the keys.
            Classes, channels and the width of MobileNetV1 are told by the shapes.
        dense_layers: The authors' modules without a threshold beside others with one,
            such as "conv1" (their --first-layer-dense).
        stem: As of the architectures; the authors' is "imagenet".
        image_size: Height and width of the images; None: 224, or 32 for "small".

    Returns:
        A `SparseModel` with raw kernels and the file's logits; where the state_dict has
        no logits (a dense or dense-compatible one), a plain model.

    Raises:
        ValueError: if the architecture is unknown or keys are missing, left over, of
            another shape, or hold values that no training gives: not finite (but for a
            logit of -inf, whose threshold is 0), no floating-point numbers, variances
            below 0; all of them are named.
    """
    while state and all(key.startswith(_PREFIX) for key in state):
        state = {key.removeprefix(_PREFIX): array for key, array in state.items()}
    architecture = architecture or names.architecture_of(state)
    if architecture is None:
        raise ValueError(
            "The keys are of none of the authors' networks that are known here "
            f"({', '.join(models.ARCHITECTURES)}). Received: keys {_listed(state)}"
        )
    architecture = architecture.lower()
    shapes = {key: array.shape for key, array in state.items()}
    model = _create(shapes, architecture, stem, image_size)
    weights = list(names.torch_weights(model, architecture))
    problems = _problems(shapes, weights, dense_layers) + _bad_values(state, weights)
    if problems:
        raise ValueError(
            f"The checkpoint does not fit {architecture}: {'; '.join(problems)}. "
            f"Received: {len(state)} keys"
        )
    for weight in weights:
        # A copy: some backends would share the buffer of the caller's array.
        weight.variable.assign(np.array(weight.to_keras(state[weight.key])))
    logits = {
        names.layer_name(key.rsplit(".", 1)[0]): float(array.reshape(()))
        for key, array in state.items()
        if key.endswith(f".{names.THRESHOLD}")
    }
    if not logits:
        return model
    sparse = sparsify(model, skip=[names.layer_name(name) for name in dense_layers])
    for item in sparse.thresholded:
        item.logit.assign(logits[item.kernel.layer.name])
    return sparse


def _create(
    shapes: Mapping[str, tuple[int, ...]],
    architecture: str,
    stem: str,
    image_size: int | None,
) -> keras.Model:
    sizes = names.sizes_of(shapes, architecture)
    side = image_size or (32 if stem == "small" else 224)
    sizes["input_shape"] = (side, side, sizes.pop("channels"))
    return models.create(architecture, stem=stem, **sizes)


def _listed(keys: Collection[str]) -> str:
    keys = list(keys)
    more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
    return (", ".join(keys[:5]) or "none") + more


def _problems(
    shapes: Mapping[str, tuple[int, ...]],
    weights: list[TorchWeight],
    dense_layers: Collection[str],
) -> list[str]:
    """Every key that is missing, left over, or of another shape, in one line each."""
    wanted = {weight.key: weight.shape for weight in weights}
    kernels = {weight.module: weight.shape for weight in weights if weight.is_kernel}
    unknown = sorted(set(dense_layers) - set(kernels))
    if unknown:
        return [f"it has no such layer to leave dense: {', '.join(unknown)}"]
    logits = {
        f"{module}.{names.THRESHOLD}": (1, 1)
        for module in kernels
        if module not in dense_layers
    }
    if not logits.keys().isdisjoint(shapes):
        wanted |= logits  # all of them or none
    allowed = wanted | {
        f"{module}.{names.SPARSE_WEIGHT}": shape for module, shape in kernels.items()
    }
    norms = {weight.module for weight in weights} - set(kernels)
    allowed |= {f"{module}.{names.NUM_BATCHES}": () for module in norms}
    other_shape = [
        f"{key} {shape}, not {allowed[key]}"
        for key, shape in shapes.items()
        if key in allowed and shape != allowed[key] and not _is_scalar(key, shape)
    ]
    found = {
        "missing": [key for key in wanted if key not in shapes],
        "left over": [key for key in shapes if key not in allowed],
        "of another shape": other_shape,
    }
    return [f"{kind}: {', '.join(keys)}" for kind, keys in found.items() if keys]


def _bad_values(
    state: Mapping[str, np.ndarray], weights: list[TorchWeight]
) -> list[str]:
    """Every key whose values no trained network has, in one line each."""
    logits = {f"{weight.module}.{names.THRESHOLD}" for weight in weights}
    read = logits | {weight.key for weight in weights}
    broken, negative = [], []
    for key in filter(read.__contains__, state):
        if not keras.backend.is_float_dtype(state[key].dtype.name):
            broken.append(key)
            continue
        with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
            values = state[key].astype("float32")
        dense = (values == -np.inf) & (key in logits)  # g(-inf) = 0
        if not (np.isfinite(values) | dense).all():
            broken.append(key)
        elif key.endswith(".running_var") and (values < 0).any():
            negative.append(key)
    found = {
        "not finite, or not floating-point": broken,
        "with variances below 0": negative,
    }
    return [f"{kind}: {', '.join(keys)}" for kind, keys in found.items() if keys]


def _is_scalar(key: str, shape: tuple[int, ...]) -> bool:
    """Whether a number is meant, with or without axes of size 1."""
    scalars = (names.THRESHOLD, names.NUM_BATCHES)
    return key.endswith(scalars) and set(shape) <= {1}


def to_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Turns one of our models into the arrays of the authors' state_dict.

    Args:
        model: A ResNet or MobileNetV1 of `stk.models`: sparsified by `sparsify` or with
            `SoftThreshold` layers (raw kernels and logits are written), plain or
            stripped (a dense-compatible state_dict).

    Returns:
        Arrays by key, in the order of the model; `num_batches_tracked` is 0.

    Raises:
        ValueError: if it is no such network, or has thresholds that the authors' code
            cannot hold: others than one sigmoid of a logit per layer.
    """
    is_mobilenet = any(layer.name == "conv1_bn" for layer in model.layers)
    architecture = MOBILENET if is_mobilenet else "resnet50"
    weights = list(names.torch_weights(model, architecture))
    thresholds = {id(item.kernel.variable): item for item in find_thresholded(model)}
    state: dict[str, np.ndarray] = {}
    for weight in weights:
        value = np.array(ops.convert_to_numpy(weight.variable))
        state[weight.key] = weight.to_torch(value)
        if item := thresholds.get(id(weight.variable)):
            state[f"{weight.module}.{names.THRESHOLD}"] = _logit(item)
        elif weight.key.endswith(".running_var"):
            state[f"{weight.module}.{names.NUM_BATCHES}"] = np.array(0)
    _check_network(state, weights, model)
    return state


def _logit(item: Any) -> np.ndarray:
    """The logit of a kernel in the authors' shape."""
    theirs = isinstance(item, ThresholdedKernel) and item.g.name == "sigmoid"
    if not theirs or np.prod(item.logit.shape) != 1:
        raise ValueError(
            "The authors' code knows one logit per layer and g = sigmoid: strip the "
            f"model first. Received: the threshold of {item.kernel.path}"
        )
    return np.array(ops.convert_to_numpy(item.logit)).reshape(1, 1)


def _check_network(
    state: Mapping[str, np.ndarray], weights: list[TorchWeight], model: keras.Model
) -> None:
    """Raises ValueError unless the weights are those of a whole network of ours."""
    architecture = names.architecture_of(state)
    if architecture is None:
        raise ValueError(
            f"Only {', '.join(models.ARCHITECTURES)} have the authors' names. "
            f"Received: model={model.name}"
        )
    shapes = {key: array.shape for key, array in state.items()}
    small = shapes.get("conv1.weight", ())[2:] == (3, 3)
    built = _create(shapes, architecture, "small" if small else "imagenet", None)
    dense = [w.module for w in weights if w.is_kernel and not _has_logit(state, w)]
    theirs = list(names.torch_weights(built, architecture))
    if problems := _problems(shapes, theirs, dense):
        raise ValueError(
            f"The model is no {architecture} of the authors' widths: "
            f"{'; '.join(problems)}. Received: model={model.name}"
        )


def _has_logit(state: Mapping[str, np.ndarray], weight: TorchWeight) -> bool:
    return f"{weight.module}.{names.THRESHOLD}" in state


def save(
    model: keras.Model, path: str | os.PathLike[str], data_parallel: bool = False
) -> None:
    """Writes one of our models as a checkpoint that the authors' naming loads.

    Args:
        model: As of `to_state_dict`.
        path: The .pth: a dict with the keys "epoch", "arch" and "state_dict".
        data_parallel: Whether each key gets the "module." of `nn.DataParallel`, which
            their `--pretrained` wants: it skips keys without it and says nothing.

    Raises:
        ModuleNotFoundError: if PyTorch is not installed.
        ValueError: as `to_state_dict`.
        OSError: if the file cannot be written.
    """
    state = to_state_dict(model)
    arch = _ARCHES[str(names.architecture_of(state))]
    prefix = _PREFIX if data_parallel else ""
    state = {f"{prefix}{key}": array for key, array in state.items()}
    write_state_dict(state, path, arch)
