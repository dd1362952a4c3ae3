"""What a model holds and costs, and how sparse each of its layers is to be."""

from str_keras.budget.allocation import erk, uniform
from str_keras.budget.counting import (
    KernelSparsity,
    measure_sparsity,
    overall_sparsity,
    summary,
)
from str_keras.budget.file_size import FileSize, estimate_bytes
from str_keras.budget.published import published
from str_keras.budget.rates import Budget, num_kept
from str_keras.budget.table import COLUMNS, KernelRow, Summary, Total

read = Budget.read

__all__ = [
    "COLUMNS",
    "Budget",
    "FileSize",
    "KernelRow",
    "KernelSparsity",
    "Summary",
    "Total",
    "erk",
    "estimate_bytes",
    "measure_sparsity",
    "num_kept",
    "overall_sparsity",
    "published",
    "read",
    "summary",
    "uniform",
]
