"""The threshold logit s as a weight of a layer."""

from __future__ import annotations

import keras
import numpy as np

from str_keras.thresholds import ThresholdFunction


def check_s_init(s_init: float | None, g: ThresholdFunction) -> float:
    """Returns `s_init` as a float, or the default of `g`.

    Raises:
        ValueError: if it is not a finite number.
    """
    value = g.s_init if s_init is None else s_init
    # float() would read these: True as 1, "1_0" as 10.
    number = not isinstance(value, bool | np.bool_ | str | bytes)
    try:
        value = float(value) if number else float("nan")
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not abs(value) < float("inf"):
        raise ValueError(f"`s_init` must be a finite number. Received: {s_init=}")
    return value


def add_logit(
    owner: keras.Layer,
    name: str,
    shape: tuple[int, ...],
    s_init: float,
    dtype: str = "float32",
) -> keras.Variable:
    """Adds a threshold logit to a layer: float32, or float64 beside float64 kernels.

    Args:
        owner: The layer whose weight it becomes.
        name: Begins with `thresholds.THRESHOLD_LOGIT`.
        shape: That of the kernel, or one that broadcasts to it.
        s_init: Initial value of every element.
        dtype: The kernel's; 16 bits cannot hold s (bfloat16 has a spacing of 16 near
            the paper's -3200, where one step of decay is 0.15).
    """
    return owner.add_weight(
        name=name,
        shape=shape,
        initializer=keras.initializers.Constant(s_init),
        dtype="float64" if dtype == "float64" else "float32",
        autocast=False,
    )
