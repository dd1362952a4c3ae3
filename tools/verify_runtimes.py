"""Runs a .tflite file on this CPU, on x86 without AVX, on Arm and in a browser.

python tools/verify_runtimes.py --model=model.tflite --keras=run/best.keras \
    --dataset=fashion_mnist_5k

tools/setup_runtimes.sh installs the runtimes. Exit status 1 if one of them does not run
the file, or gives outputs beyond the tolerance.
"""

import os
import shlex
import sys

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_MODEL = flags.DEFINE_string("model", None, "The .tflite file.")
_KERAS = flags.DEFINE_string(
    "keras",
    "",
    "The .keras file that it was made of, whose outputs are right; empty: the file's "
    "own run on this CPU is what the others are compared with.",
)
_DATASET = flags.DEFINE_string(
    "dataset",
    "",
    "Data set whose test images are run, such as fashion_mnist_5k; empty: that of the "
    "run that --keras, or the file, lies in, else eight random inputs.",
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the data set.")
_NUM_IMAGES = flags.DEFINE_integer(
    "num_images",
    16,
    "Test images to run, 0 for all; an emulator takes seconds for one of a large net.",
)
_RUNTIMES = flags.DEFINE_list(
    "runtimes", [], "Of native, x86_no_avx, arm64 and wasm; empty: all four."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance",
    None,
    "Largest max|difference| / max|y|, to Keras and between runtimes; if not given, to "
    "Keras 1e-4 for float32, 5e-3 for float16 and what is not broken for int8; between "
    "runtimes 1e-4, and 0.02 for int8.",
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Timed runs of a batch; in the browser 20 at the least."
)
_THREADS = flags.DEFINE_integer("threads", 1, "Of XNNPACK.")
_COUNT = flags.DEFINE_bool(
    "count", False, "Count the instructions of a run too, under the emulators."
)
_AGAINST_DENSE = flags.DEFINE_bool(
    "against_dense",
    False,
    "Run the same file with its zeros stored beside it everywhere, for the ratio of "
    "work; in the browser it always is.",
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 300.0, "Seconds without progress after which a runtime is ended.", 0.1
)
_JSON = flags.DEFINE_string("json", "", "File to write the report to.")


def main() -> int:
    """Runs the file as the flags ask for."""
    from str_keras.export.runtimes import command

    return command.verify_file(
        _MODEL.value,
        keras_model=_KERAS.value,
        dataset=_DATASET.value,
        data_dir=_DATA_DIR.value,
        num_images=_NUM_IMAGES.value,
        runtimes=_RUNTIMES.value,
        json_path=_JSON.value,
        command=shlex.join(["python", *sys.argv]),
        tolerance=_TOLERANCE.value,
        repeats=_REPEATS.value,
        threads=_THREADS.value,
        count=_COUNT.value,
        against_dense=_AGAINST_DENSE.value,
        timeout=_TIMEOUT.value,
    )


if __name__ == "__main__":
    flags.mark_flags_as_required(["model"])
    cli.run(main)
