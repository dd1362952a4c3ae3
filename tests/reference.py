"""The published formulas in plain NumPy float64."""

import numpy as np


def sigmoid(s):
    return 1 / (1 + np.exp(-np.asarray(s, np.float64)))


def soft_threshold(w, t):
    """sign(w) relu(|w| - t)."""
    w = np.asarray(w, np.float64)
    return np.sign(w) * np.maximum(np.abs(w) - t, 0)


def gradients(w, t, upstream):
    """To the kernel, and to the threshold before it is summed over its weights."""
    active = np.abs(np.asarray(w, np.float64)) > t
    return active * upstream, -np.sign(w) * upstream * active
