"""In which order an epoch visits images: the same whatever the backend and method.

That of `str_keras.data`, whose package brings TensorFlow; the tests hold both equal.
"""

from __future__ import annotations

import numpy as np


def random_words(seed: int, epoch: int, stream: int, count: int) -> np.ndarray:
    """Random uint64 words; NumPy guarantees raw Philox words for every version.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        stream: 0 for the order, 1 for the augmentation.
        count: How many.
    """
    state = np.random.SeedSequence([seed, epoch]).generate_state(2, np.uint64)
    return np.random.Philox(int(state[stream] >> 1)).random_raw(count)


def epoch_order(seed: int, epoch: int, images: int, batch_size: int) -> np.ndarray:
    """The images of an epoch in their order, whole batches only.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        images: How many there are.
        batch_size: Images a step.

    Returns:
        int64 `(images // batch_size * batch_size,)`, indices.
    """
    order = np.argsort(random_words(seed, epoch, 0, images), kind="stable")
    return order[: images // batch_size * batch_size]
