"""Structured sparsity: thresholds on batch norms, and networks with fewer channels."""

from str_keras.channels.batch_norm import ChannelThreshold, sparsify_channels
from str_keras.channels.report import ShrinkReport, measure_latency, shrink_report
from str_keras.channels.shrinking import shrink

__all__ = [
    "ChannelThreshold",
    "ShrinkReport",
    "measure_latency",
    "shrink",
    "shrink_report",
    "sparsify_channels",
]
