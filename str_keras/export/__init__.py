"""From a trained model to files that were loaded, run and compared with Keras.

What needs TensorFlow loads it on first use: a .tflite is checked without.
"""

import importlib
from typing import TYPE_CHECKING, Any

from str_keras.export.checking import check_sparse
from str_keras.export.counting import ZeroCount, count_zeros
from str_keras.export.errors import ExportError
from str_keras.export.node_data import node_data
from str_keras.export.report import (
    FormatReport,
    SavedModelReport,
    TFLiteReport,
    report_table,
)
from str_keras.export.xnnpack import SparseCheck

if TYPE_CHECKING:
    from str_keras.export.benchmarking import BenchmarkReport, benchmark
    from str_keras.export.kinds import Kind
    from str_keras.export.runtimes import verify_runtimes
    from str_keras.export.to_onnx import onnx
    from str_keras.export.to_openvino import openvino
    from str_keras.export.to_saved_model import saved_model
    from str_keras.export.to_tflite import tflite
    from str_keras.export.to_variants import VariantsReport, variants

__all__ = [
    "BenchmarkReport",
    "ExportError",
    "FormatReport",
    "Kind",
    "SavedModelReport",
    "SparseCheck",
    "TFLiteReport",
    "VariantsReport",
    "ZeroCount",
    "benchmark",
    "check_sparse",
    "count_zeros",
    "node_data",
    "onnx",
    "openvino",
    "report_table",
    "saved_model",
    "tflite",
    "variants",
    "verify_runtimes",
]
_LAZY = {
    "BenchmarkReport": "benchmarking",
    "Kind": "kinds",
    "benchmark": "benchmarking",
    "onnx": "to_onnx",
    "openvino": "to_openvino",
    "saved_model": "to_saved_model",
    "tflite": "to_tflite",
    "VariantsReport": "to_variants",
    "variants": "to_variants",
    "verify_runtimes": "runtimes",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'str_keras.export' has no attribute {name!r}")
    module = importlib.import_module(f"str_keras.export.{_LAZY[name]}")
    return getattr(module, name)
