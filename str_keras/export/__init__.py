"""From a trained model to files that were loaded, run and compared with Keras."""

from str_keras.export.errors import ExportError
from str_keras.export.node_data import node_data
from str_keras.export.report import (
    FormatReport,
    SavedModelReport,
    TFLiteReport,
    report_table,
)
from str_keras.export.runtimes import verify_runtimes
from str_keras.export.to_onnx import onnx
from str_keras.export.to_openvino import openvino
from str_keras.export.to_saved_model import saved_model
from str_keras.export.to_tflite import tflite
from str_keras.export.to_variants import VariantsReport, variants

__all__ = [
    "ExportError",
    "FormatReport",
    "SavedModelReport",
    "TFLiteReport",
    "VariantsReport",
    "node_data",
    "onnx",
    "openvino",
    "report_table",
    "saved_model",
    "tflite",
    "variants",
    "verify_runtimes",
]
