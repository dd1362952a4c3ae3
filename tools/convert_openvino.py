"""Converts a .keras model to OpenVINO's .xml and .bin, loaded, run and compared.

python tools/convert_openvino.py --model=run/best.keras --output=model.xml \
    --dataset=fashion_mnist_5k

Needs pip install 'str_keras[openvino]'.
"""

import os

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_MODEL = flags.DEFINE_string(
    "model", None, "The .keras file: sparsified, with SoftThreshold layers, or plain."
)
_OUTPUT = flags.DEFINE_string("output", None, "The .xml to write; its .bin too.")
_DATASET = flags.DEFINE_string(
    "dataset",
    "",
    "Data set whose test images the file is verified on, such as fashion_mnist_5k; "
    "empty: that of the run the model lies in, else random inputs.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data set.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images", 256, "Test images to verify on; 0: all."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> int:
    """Runs the conversion that the flags ask for."""
    from str_keras import export
    from str_keras.export import format_commands

    return format_commands.convert_format(
        export.openvino,
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
