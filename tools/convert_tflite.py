"""Converts a .keras model to a .tflite file that was loaded, run and compared.

python tools/convert_tflite.py --model=run/best.keras --output=model.tflite \
    --weights=float16 --sparse --dataset=fashion_mnist_5k
"""

import os

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_MODEL = flags.DEFINE_string(
    "model", None, "The .keras file: sparsified, with SoftThreshold layers, or plain."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "The .tflite file to write; its .json is written beside it."
)
_WEIGHTS = flags.DEFINE_string(
    "weights",
    "float32",
    "float32, float16, int8 (calibrated on training images of --dataset), int8_weights "
    "(kernels alone in 8 bits, computed with in float32), or all: every kind, one file "
    "each (OUTPUT-float16-sparse...), with their sizes and which to take for what.",
)
_SPARSE = flags.DEFINE_bool(
    "sparse",
    False,
    "Store a kernel without its zeros where that is smaller, and rewrite the graph, "
    "exactly, to what sparse kernels ask for; not of int8.",
)
_SMALLEST = flags.DEFINE_enum(
    "smallest",
    "file",
    ["file", "download"],
    "With --sparse, what is to be small: the file, or its compressed download.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "Images a batch, fixed in the file; 0 leaves it free."
)
_DATASET = flags.DEFINE_string(
    "dataset",
    "",
    "Data set whose test images the file is verified on, such as fashion_mnist_5k; "
    "empty: that of the run the model lies in, else random inputs, and no int8.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data set.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    256,
    "Test images to verify on, 0 for all, and training images to calibrate on (500 at "
    "most).",
)
_UINT8_INPUT = flags.DEFINE_bool(
    "uint8_input", False, "Take raw uint8 pixels and normalize them inside the file."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance",
    None,
    "Largest max|difference| / max|y| to Keras; 1e-4 for float32, 5e-3 for float16 and "
    "0.1 for int8_weights if not given (rounding a deep network to float16 can alone "
    "reach 1e-2).",
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> int:
    """Runs the conversion that the flags ask for."""
    from str_keras.export import commands

    return commands.convert_tflite(
        _MODEL.value,
        _OUTPUT.value,
        weights=_WEIGHTS.value,
        sparse=_SPARSE.value,
        smallest=_SMALLEST.value,
        batch_size=_BATCH_SIZE.value,
        dataset=_DATASET.value,
        data_dir=_DATA_DIR.value,
        num_images=_NUM_IMAGES.value,
        uint8_input=_UINT8_INPUT.value,
        tolerance=_TOLERANCE.value,
        overwrite=_OVERWRITE.value,
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "output"])
    cli.run(main)
