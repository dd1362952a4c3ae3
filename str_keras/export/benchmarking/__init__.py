"""Times .tflite files against each other, on all runtimes of this machine.

A machine that others use too slows down and speeds up: so the files run in turn, each
time of a file stands beside that of the baseline in the same turn, and what is reported
of both times and ratios is the median with its quartiles.
"""

from str_keras.export.benchmarking.measuring import benchmark
from str_keras.export.benchmarking.report import BenchmarkReport, BenchmarkRow
from str_keras.export.benchmarking.spread import Spread

__all__ = ["BenchmarkReport", "BenchmarkRow", "Spread", "benchmark"]
