"""Variables and files that change what Keras and TensorFlow do."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from str_keras.diagnosis.finding import Finding

BACKENDS = ("tensorflow", "jax", "torch")


def _keras_file() -> tuple[pathlib.Path, dict[str, Any] | None]:
    """Keras' own file of defaults: its path, and what it holds (None: unreadable)."""
    home = os.environ.get("KERAS_HOME")
    folder = pathlib.Path(home) if home else pathlib.Path.home() / ".keras"
    path = folder / "keras.json"
    if not path.is_file():
        return path, {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return path, None
    return path, values if isinstance(values, dict) else None


def find_backend() -> str:
    """Name of the backend that Keras will take, as its import decides it."""
    told = os.environ.get("KERAS_BACKEND")
    if told:
        return told
    return str((_keras_file()[1] or {}).get("backend", "tensorflow"))


def find_workers() -> list[str] | None:
    """Workers that TF_CONFIG names; None if it is not what TensorFlow reads."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return []
    try:
        workers = json.loads(text).get("cluster", {}).get("worker", [])
    except (ValueError, AttributeError, RecursionError):
        return None
    return [str(w) for w in workers] if isinstance(workers, list) else None


def _backend() -> Finding:
    name = find_backend()
    origin = "KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else "keras.json"
    if name == "tensorflow":
        return Finding("environment", "backend", "ok", name)
    if name in BACKENDS:
        told = (
            f"{name}, by {origin}: layers and models train; the training command, "
            "data and export are for TensorFlow"
        )
        mend = "for those, KERAS_BACKEND=tensorflow"
        return Finding("environment", "backend", "note", told, mend)
    return Finding(
        "environment",
        "backend",
        "warning",
        f"{name}, by {origin}, is no backend that trains",
        f"set it to one of {', '.join(BACKENDS)}",
    )


def _keras_defaults() -> list[Finding]:
    path, values = _keras_file()
    if values is None:
        told, mend = f"{path} is no JSON of names and values", f"mend or remove {path}"
        return [Finding("environment", "keras.json", "warning", told, mend)]
    wanted = {"floatx": "float32", "image_data_format": "channels_last"}
    wrong = {n: values[n] for n, v in wanted.items() if values.get(n, v) != v}
    if not wrong:
        return []
    told = f"{path} has " + ", ".join(f"{n}={v!r}" for n, v in wrong.items())
    mend = "set " + ", ".join(f"{n} to {wanted[n]!r}" for n in wrong)
    return [Finding("environment", "keras.json", "warning", told, mend)]


def _legacy() -> Finding:
    value = os.environ.get("TF_USE_LEGACY_KERAS", "")
    if value.lower() not in ("1", "true"):
        told = value or "not set"
        return Finding("environment", "TF_USE_LEGACY_KERAS", "ok", told)
    told = (
        f"{value}: tf.keras is the old tf_keras, whose layers fit no model of Keras 3"
    )
    mend = "unset TF_USE_LEGACY_KERAS, and import keras, never tf.keras"
    return Finding("environment", "TF_USE_LEGACY_KERAS", "warning", told, mend)


def _cluster() -> list[Finding]:
    if "TF_CONFIG" not in os.environ:
        return []
    workers = find_workers()
    if workers is None:
        mend = (
            'write \'{"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            '"worker", "index": 0}}\', or unset TF_CONFIG'
        )
        told = f"TensorFlow cannot read it: {os.environ['TF_CONFIG'][:80]!r}"
        return [Finding("environment", "TF_CONFIG", "warning", told, mend)]
    told = f"{len(workers)} workers: {', '.join(workers)}" if workers else "no workers"
    return [Finding("environment", "TF_CONFIG", "note", told)]


def _told() -> list[Finding]:
    """Variables that are as good set as not, but explain what is seen."""
    names = ("CUDA_VISIBLE_DEVICES", "TPU_NAME", "TF_XLA_FLAGS", "XLA_FLAGS")
    found = [
        Finding("environment", name, "note", os.environ[name] or "set, but empty")
        for name in names
        if name in os.environ
    ]
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        mend = "unset CUDA_VISIBLE_DEVICES if a GPU is to be used"
        told = "hides all GPUs"
        found[0] = Finding("environment", "CUDA_VISIBLE_DEVICES", "note", told, mend)
    return found


def examine_environment() -> list[Finding]:
    """Looks at what decides backend, Keras and cluster before the first import."""
    return [_backend(), *_keras_defaults(), _legacy(), *_cluster(), *_told()]
