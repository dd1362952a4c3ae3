"""Strategy, XLA and steps per dispatch: what goes together, and what does not.

Measured with TensorFlow 2.21 and Keras 3.15.1; a test runs what one machine can run.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping

from str_keras.diagnosis.environment import find_workers
from str_keras.diagnosis.finding import Finding

TOPIC = "combinations"


def explain(replicas: int, xla: bool, several: bool, accumulate: bool) -> str:
    """Why `fit` refuses a combination under MirroredStrategy; empty if it does not.

    Args:
        replicas: Devices that train together.
        xla: `jit_compile=True`, `--xla`.
        several: `steps_per_execution` above 1.
        accumulate: `gradient_accumulation_steps` of the optimizer.
    """
    if replicas < 2:
        return ""
    if xla:
        return "leave --xla (jit_compile=True) out, or train on one device"
    if several:
        return "leave steps_per_execution at 1, or train on one device"
    if accumulate:
        return "take a larger batch in place of accumulation, or one device"
    return ""


def _several_devices(name: str, replicas: int) -> list[Finding]:
    found = []
    for xla, several in itertools.product((False, True), repeat=2):
        mend = explain(replicas, xla, several, False)
        xla_told = "XLA" if xla else "no XLA"
        steps = "several steps" if several else "one step"
        title = f"{name}, {xla_told}, {steps} per dispatch"
        told = "fails in Keras 3.15" if mend else "works"
        found.append(
            Finding(TOPIC, title, "note" if mend else "ok", f"{told} here", mend)
        )
    if mend := explain(replicas, False, False, True):
        title = f"{name}, gradient_accumulation_steps"
        found.append(Finding(TOPIC, title, "note", "fails in Keras 3.15 here", mend))
    return found


def _mirrored(devices: Mapping[str, int]) -> list[Finding]:
    kind = "GPU" if devices.get("GPU") else "CPU"
    replicas = devices.get(kind, 1)
    shown = f"mirrored ({replicas} {kind})"
    return _several_devices(shown, replicas)


def _multi_worker() -> Finding:
    workers, name = find_workers(), "multi_worker_mirrored"
    if workers:
        if len(workers) == 1:
            return Finding(TOPIC, name, "ok", "one worker: works as mirrored")
        told = f"{len(workers)} workers: works in str_keras.train, not by `fit` alone"
        return Finding(TOPIC, name, "ok", told)
    mend = "name the cluster in TF_CONFIG if one is wanted"
    return Finding(TOPIC, name, "note", "no cluster: TF_CONFIG names no worker", mend)


def _tpu(devices: Mapping[str, int]) -> Finding:
    told = os.environ.get("TPU_NAME")
    if devices.get("TPU") or told:
        return Finding(TOPIC, "tpu", "note", f"TPU_NAME={told or 'local'}, not tried")
    mend = "name one in TPU_NAME if there is one"
    return Finding(TOPIC, "tpu", "note", "no TPU is seen", mend)


def examine_combinations(backend: str, devices: Mapping[str, int]) -> list[Finding]:
    """Says what will not work with the devices of this machine.

    Args:
        backend: Keras' backend.
        devices: Their number by kind, as the backend lists them.
    """
    one = Finding(TOPIC, "one_device", "ok", "XLA and several steps per dispatch work")
    if backend != "tensorflow":
        told = "--strategy is for TensorFlow alone"
        mend = "KERAS_BACKEND=tensorflow, or the backend's own way to several devices"
        return [one, Finding(TOPIC, "all others", "note", told, mend)]
    chosen = "mirrored" if devices.get("GPU", 0) > 1 else "one_device"
    auto = Finding(TOPIC, "auto", "ok", f"takes {chosen} here")
    return [auto, one, *_mirrored(devices), _multi_worker(), _tpu(devices)]
