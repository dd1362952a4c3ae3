"""Rewrites a .tflite file: how its kernels are stored, and exact forms of its graph."""

from str_keras.export.rewrite.encoding import DTYPES, Storage
from str_keras.export.rewrite.ready import make_ready, rewrite_graph
from str_keras.export.rewrite.storing import Weight, store, weights

__all__ = [
    "DTYPES",
    "Storage",
    "Weight",
    "make_ready",
    "rewrite_graph",
    "store",
    "weights",
]
