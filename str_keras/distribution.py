"""Strategies of `tf.distribute` by name, and what workers say to each other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from str_keras.cli import UserError

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker_mirrored", "tpu")


class WorkerLost(UserError):
    """Another worker is gone, and with it what all have to do together."""


class Workers:
    """The processes that train together under a strategy: one, unless it has several.

    All run the same program on the same flags. What one of them learns alone (a signal,
    a directory that is in use) it tells the others by `gather`, which all have to call
    at the same places.

    Args:
        strategy: Of `tf.distribute`.

    Attributes:
        count: How many processes.
        index: Of this one, from 0.
    """

    def __init__(self, strategy: Any):
        import tensorflow as tf

        self.strategy = strategy
        self.count, self.index = 1, 0
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            resolver: Any = strategy.cluster_resolver
            jobs = resolver.cluster_spec().as_dict()
            chiefs = len(jobs.get("chief", ()))
            self.count = max(1, chiefs + len(jobs.get("worker", ())))
            after_chief = chiefs if resolver.task_type == "worker" else 0
            self.index = (resolver.task_id or 0) + after_chief
        # A graph: several times as fast.
        self._sum = tf.function(lambda v: strategy.reduce("SUM", v, axis=None))

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run directory."""
        return self.index == 0

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """What each worker called it with.

        Args:
            numbers: As many on every worker; float32 holds them.

        Returns:
            float32 `[count, len(numbers)]`.
        """
        rows = np.zeros((self.count, len(numbers)), np.float32)
        rows[self.index] = numbers
        if self.count == 1:
            return rows
        import tensorflow as tf

        def once(context: Any) -> Any:  # and not once a replica
            local = context.replica_id_in_sync_group * self.count
            first = local % context.num_replicas_in_sync == 0
            return tf.constant(rows if first else np.zeros_like(rows))

        values = self.strategy.experimental_distribute_values_from_function(once)
        return self._sum(values).numpy()

    def check_same(self, **parts: Any) -> None:
        """Checks that all workers have the same.

        Args:
            **parts: By what they are called, as JSON takes them.

        Raises:
            ValueError: on all of them, with the first part that differs.
        """
        if self.count == 1:
            return
        for name, part in parts.items():
            text = json.dumps(part, sort_keys=True).encode()
            digests = self.gather(list(hashlib.sha256(text).digest()))
            others = np.flatnonzero((digests != digests[0]).any(1))
            if len(others):
                raise ValueError(
                    f"The workers differ in the {name.replace('_', ' ')}: give all the "
                    "same flags, data and run directory. Received: workers 0 and "
                    f"{others[0]}, here {part}"
                )

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Lets the others end too where one of them fails inside the block.

        The block itself has nothing in it that the workers do together.

        Raises:
            UserError: if another worker failed.
        """
        try:
            yield
        except Exception:
            self.gather([1.0])
            raise
        failed = np.flatnonzero(self.gather([0.0])[:, 0])
        if len(failed):
            raise UserError(
                f"Worker {failed[0]} cannot start, and says why: mend that, and start "
                "all again."
            )

    @contextlib.contextmanager
    def told_of_loss(self, good: Callable[[], str]) -> Iterator[None]:
        """Turns the error that the loss of another worker leads to into a `WorkerLost`.

        Args:
            good: Tells what there is to go on from, as a clause.
        """
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            if self.count == 1 or not _is_of_lost_worker(error):
                raise
            raise WorkerLost(
                "Another worker is gone: it ended, was killed, or cannot be reached. "
                f"See its last lines, and start all {self.count} workers again: "
                f"{good()}."
            ) from error


def _is_of_lost_worker(error: Any) -> bool:
    """Whether TensorFlow tells of a peer: its connection, or its missing heartbeats."""
    import tensorflow as tf

    return isinstance(error, tf.errors.UnavailableError | tf.errors.AbortedError)


def _mirrored_devices() -> list[str]:
    """All GPUs; without any, the CPU's logical devices, of which tests make two."""
    import tensorflow as tf

    kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def _multi_worker() -> Any:
    text = os.environ.get("TF_CONFIG", "")
    try:
        told = json.loads(text or "{}")
        workers = told.get("cluster", {}).get("worker")
        task = told.get("task", {}).get("type", "worker")
    except (ValueError, AttributeError):
        workers = task = None
    if not workers or task not in ("worker", "chief"):
        raise ValueError(
            "multi_worker_mirrored wants the cluster in TF_CONFIG, as "
            '\'{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", '
            f'"index": 0}}}}\'. Received: TF_CONFIG={text!r}'
        )
    import tensorflow as tf

    from str_keras.internals import mend_fit_of_workers

    mend_fit_of_workers()
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
            all logical CPU devices; "multi_worker_mirrored": as TF_CONFIG says, once
            all of its workers have come; "tpu": as TPU_NAME says, "local" if it is not
            set.

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
