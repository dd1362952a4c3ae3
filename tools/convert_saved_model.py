"""Converts a .keras model to a SavedModel that was loaded, run and compared.

python tools/convert_saved_model.py --model=run/best.keras --output=served \
    --dataset=fashion_mnist_5k
"""

import os

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_MODEL = flags.DEFINE_string(
    "model", None, "The .keras file: sparsified, with SoftThreshold layers, or plain."
)
_OUTPUT = flags.DEFINE_string("output", None, "The directory to write.")
_DATASET = flags.DEFINE_string(
    "dataset",
    "",
    "Data set that the model was trained on, such as fashion_mnist_5k: it gives the "
    "preprocessing of the signature serve_images, and test images to verify on; "
    "empty: that of the run the model lies in, else a signature for tensors alone, "
    "verified on random inputs.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data set.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 256, "Test images to verify on; 0: all."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a SavedModel that exists.")


def main() -> int:
    """Runs the conversion that the flags ask for."""
    from str_keras.export import commands

    return commands.convert_saved_model(
        _MODEL.value,
        _OUTPUT.value,
        dataset=_DATASET.value,
        data_dir=_DATA_DIR.value,
        num_images=_NUM_IMAGES.value,
        overwrite=_OVERWRITE.value,
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "output"])
    cli.run(main)
