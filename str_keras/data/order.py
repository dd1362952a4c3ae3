"""In which order an epoch visits the images, and which of them one worker reads."""

import dataclasses
from typing import Any

import numpy as np

from str_keras.data.preprocessing import check_positive_int


def epoch_keys(seed: int, epoch: int) -> tuple[int, int]:
    """Returns two independent 63-bit keys, for the order and for the augmentation.

    Raises:
        ValueError: if `seed` or `epoch` is not a non-negative integer.
    """
    for name, value in (("seed", seed), ("epoch", epoch)):
        if not isinstance(value, int | np.integer) or value < 0:
            raise ValueError(
                f"`{name}` must be a non-negative integer. Received: {name}={value!r}"
            )
    state = np.random.SeedSequence([seed, epoch]).generate_state(2, np.uint64)
    return int(state[0] >> 1), int(state[1] >> 1)


def permutation(count: int, key: int) -> np.ndarray:
    """Returns the numbers 0 to `count - 1` (int64) in an order given by `key`.

    Sorts raw Philox words, whose values NumPy guarantees for every version, which it
    does not for `Generator.permutation`.
    """
    return np.argsort(np.random.Philox(key).random_raw(count), kind="stable")


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of each global batch that one input pipeline reads.

    Attributes:
        batch_size: Images in one step over all replicas.
        element_size: Images in one element of the pipeline: `batch_size` without
            sharding, else the batch of one replica.
        pipelines: Number of input pipelines (workers).
        pipeline: Which of them this is.
    """

    batch_size: int
    element_size: int
    pipelines: int = 1
    pipeline: int = 0

    @classmethod
    def of(cls, batch_size: int, input_context: Any = None) -> "Share":
        """Returns the share of an input pipeline.

        Args:
            batch_size: Images in one step over all replicas.
            input_context: `tf.distribute.InputContext`, or None for one pipeline that
                yields global batches.

        Raises:
            ValueError: if the batch cannot be split evenly over the replicas, or the
                replicas over the pipelines.
        """
        check_positive_int("batch_size", batch_size)
        if input_context is None:
            return cls(batch_size, batch_size)
        replicas = input_context.num_replicas_in_sync
        pipelines = input_context.num_input_pipelines
        if batch_size % replicas or replicas % pipelines:
            raise ValueError(
                "`batch_size` must be divisible by the number of replicas, and that "
                f"by the number of input pipelines. Received: batch_size={batch_size}, "
                f"replicas={replicas}, pipelines={pipelines}"
            )
        return cls(
            batch_size,
            batch_size // replicas,
            pipelines,
            input_context.input_pipeline_id,
        )

    @property
    def elements_per_step(self) -> int:
        """Elements that one step takes from this pipeline."""
        return self.batch_size // self.pipelines // self.element_size

    def select(self, order: np.ndarray) -> np.ndarray:
        """Picks this pipeline's examples out of the order of all of them.

        Of every global batch the pipelines read consecutive parts: laid side by side
        they are the batch that a single pipeline reads. Images beyond the last whole
        batch are split as evenly as possible.
        """
        whole = len(order) // self.batch_size * self.batch_size
        batches = order[:whole].reshape(-1, self.pipelines, self.part_size)
        rest = np.array_split(order[whole:], self.pipelines)[self.pipeline]
        return np.concatenate([batches[:, self.pipeline].reshape(-1), rest])

    @property
    def part_size(self) -> int:
        """Images of one global batch that this pipeline reads."""
        return self.batch_size // self.pipelines
