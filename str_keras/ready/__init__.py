"""Nets in the form that sparse kernels want, by exact rewrites of a Keras model."""

from str_keras.ready.making import make_sparse_ready, sparse_ready_report
from str_keras.ready.report import Change, Obstacle, ReadyReport

__all__ = [
    "Change",
    "Obstacle",
    "ReadyReport",
    "make_sparse_ready",
    "sparse_ready_report",
]
