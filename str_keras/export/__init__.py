"""From a trained model to files that were loaded, run and compared with Keras."""

from str_keras.export.errors import ExportError
from str_keras.export.report import SavedModelReport, TFLiteReport, report_table
from str_keras.export.to_saved_model import saved_model
from str_keras.export.to_tflite import tflite

__all__ = [
    "ExportError",
    "SavedModelReport",
    "TFLiteReport",
    "report_table",
    "saved_model",
    "tflite",
]
