"""Checkpoint files of PyTorch, read without running what is pickled in them.

The one file of the package that imports torch, and only when it is called.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from str_keras.files import written_aside

# weights_only=True ran code before 2.6 (CVE-2025-32434) and could corrupt memory
# before 2.10 (CVE-2026-24747).
_SAFE_SINCE = (2, 10)


class _Inert:
    """Stands in for an object that is not wanted: built from anything, holds nothing.

    A checkpoint of a training holds figures and flags beside its tensors. Their types
    are not even looked up: what the file calls by their names is this class.
    """

    def __new__(cls, *_: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_INERT = (
    "argparse.Namespace",
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    "numpy.dtype",
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise ModuleNotFoundError(
            "PyTorch is needed to read and write its checkpoints: "
            "pip install 'str_keras[torch]'"
        ) from error
    return torch


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the state_dict of a checkpoint as arrays; runs no code of the file.

    Args:
        path: What `torch.save` wrote, in the format of today or of before torch 1.6: a
            dict with a "state_dict" in it, or the state_dict itself. Tensors of a GPU
            are read on the CPU; what else a training has put there is left out.

    Returns:
        Arrays by key in the file's order; floating-point ones of 16 bits as float32.

    Raises:
        FileNotFoundError: if there is no such file.
        ModuleNotFoundError: if PyTorch is not installed, or older than 2.10.
        ValueError: if the file needs code to be run, is damaged, or holds no tensors
            by name.
    """
    torch = _import_torch()
    if torch.__version__ < _SAFE_SINCE:
        raise ModuleNotFoundError(
            "PyTorch 2.10 or newer is needed: older ones can be made to run code by a "
            "checkpoint. Upgrade: pip install --upgrade 'str_keras[torch]' "
            f"Received: torch {torch.__version__}"
        )
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"There is no such checkpoint. Received: path={os.fspath(path)!r}"
        )
    found = _load(torch, path)
    state = found.get("state_dict", found) if isinstance(found, Mapping) else None
    if not isinstance(state, Mapping) or not any(map(torch.is_tensor, state.values())):
        keys = list(found)[:20] if isinstance(found, Mapping) else type(found).__name__
        raise ValueError(
            "The file holds neither a state_dict nor a dict with one under "
            f"'state_dict', but {keys}. Received: path={os.fspath(path)!r}"
        )
    others = [key for key, value in state.items() if not _is_dense(torch, key, value)]
    if others:
        raise ValueError(
            "The state_dict holds other things than dense tensors by name: "
            f"{', '.join(map(repr, others))}. Received: path={os.fspath(path)!r}"
        )
    return {key: _as_array(torch, value) for key, value in state.items()}


def _load(torch: Any, path: str | os.PathLike[str]) -> Any:
    inert = [(_Inert, name) for name in _INERT]
    try:
        # An open file: by name torch.load turns to safetensors for some suffixes.
        with (
            open(path, "rb") as file,
            warnings.catch_warnings(),
            torch.serialization.safe_globals(inert),
        ):
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises whatever the damage leads to
        text = " ".join(str(error).split())
        refused = re.search(r"(?:GLOBAL|function) (\S+)", text)
        if refused:
            raise ValueError(
                "The file holds more than tensors, and to load it would run code of "
                f"it ({refused[1]}), which is never done: save its state_dict alone, "
                f"where you trust it. Received: path={os.fspath(path)!r}"
            ) from error
        reason = text.split("WeightsUnpickler error: ")[-1][:200]
        raise ValueError(
            "The file is damaged, or no checkpoint of tensors (TorchScript, and the "
            ".tar of torch 0.1, must be saved anew as a state_dict): "
            f"{type(error).__name__}: {reason} Received: path={os.fspath(path)!r}"
        ) from error


def _is_dense(torch: Any, key: Any, value: Any) -> bool:
    return (
        isinstance(key, str)
        and torch.is_tensor(value)
        and value.layout is torch.strided
        and not value.is_quantized
        and not value.is_complex()
        and value.device.type == "cpu"  # and not "meta", which has no values
    )


def _as_array(torch: Any, tensor: Any) -> np.ndarray:
    if tensor.is_floating_point() and tensor.dtype != torch.float64:
        tensor = tensor.float()
    return tensor.detach().numpy()


def write_state_dict(
    state: Mapping[str, np.ndarray], path: str | os.PathLike[str], arch: str
) -> None:
    """Writes arrays as a checkpoint of the authors' form, whole or not at all.

    Args:
        state: Arrays by key.
        path: The file; read it by `torch.load(path, weights_only=True)`.
        arch: The network's name in the authors' code, such as "ResNet50".

    Raises:
        ModuleNotFoundError: if PyTorch is not installed.
        OSError: if the file cannot be written.
    """
    torch = _import_torch()
    tensors = OrderedDict(
        (key, torch.from_numpy(np.array(array, order="C")))
        for key, array in state.items()
    )
    with written_aside(path) as aside:
        torch.save({"epoch": 0, "arch": arch, "state_dict": tensors}, aside)
