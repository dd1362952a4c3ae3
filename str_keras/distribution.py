"""Strategies of `tf.distribute` by name."""

from __future__ import annotations

import json
import os
from typing import Any

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker_mirrored", "tpu")


def _mirrored_devices() -> list[str]:
    """All GPUs; without any, the CPU's logical devices, of which tests make two."""
    import tensorflow as tf

    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def _multi_worker() -> Any:
    import tensorflow as tf

    workers = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    if not workers.get("worker"):
        raise ValueError(
            "multi_worker_mirrored wants the cluster in TF_CONFIG, as "
            '\'{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
            '"index": 0}}\'. Received: TF_CONFIG='
            f"{os.environ.get('TF_CONFIG', '')!r}"
        )
    if len(workers["worker"]) > 1:
        raise ValueError(
            "Keras 3.15's fit fails under MultiWorkerMirroredStrategy with several "
            "workers (it reduces a PerReplica value of one worker): train on the GPUs "
            "of one host with --strategy=mirrored, or on a pod slice with "
            f"--strategy=tpu. Received: {len(workers['worker'])} workers"
        )
    return tf.distribute.MultiWorkerMirroredStrategy()


def _tpu() -> Any:
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            os.environ.get("TPU_NAME", "local")
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ValueError(
            "No TPU answers: name one in TPU_NAME, or choose another --strategy. "
            f"Received: {str(error).splitlines()[0] if str(error) else type(error)}"
        ) from error


def create_strategy(name: str) -> Any:
    """Returns the `tf.distribute.Strategy` of a name.

    Args:
        name: "auto": mirrored over the GPUs if there are several, else one device;
            "one_device": TensorFlow's default; "mirrored": all GPUs of the host, or
            all logical CPU devices; "multi_worker_mirrored": as TF_CONFIG says;
            "tpu": as TPU_NAME says, "local" if it is not set.

    Raises:
        ValueError: if the name is unknown, or the devices are not there.
    """
    import tensorflow as tf

    if name == "auto":
        several = len(tf.config.list_logical_devices("GPU")) > 1
        name = "mirrored" if several else "one_device"
    if name == "one_device":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy(_mirrored_devices())
    if name == "multi_worker_mirrored":
        return _multi_worker()
    if name == "tpu":
        return _tpu()
    raise ValueError(
        f"`strategy` is one of {', '.join(STRATEGIES)}. Received: strategy={name!r}"
    )
