"""Writes the zeros of each operator of a .tflite file as Model Explorer's node data.

python tools/node_data.py --model=model.tflite --output=model.zeros.json
"""

import os

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_MODEL = flags.DEFINE_string("model", None, "The .tflite file, best a dense one.")
_OUTPUT = flags.DEFINE_string("output", None, "The .json file to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a file that exists.")


def main() -> None:
    """Writes the file that the flags ask for; prints what is in it."""
    from str_keras import export
    from str_keras.tables import text_table

    shares = export.node_data(_MODEL.value, _OUTPUT.value, overwrite=_OVERWRITE.value)
    rows = [
        # Of what the converter made one operator of, the first is enough to read.
        (f"{share:.2%}", output.partition(";")[0])
        for results in shares.values()
        for output, share in results.items()
    ]
    print(text_table(("zeros", "output of the operator"), rows, left=(1,)))


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "output"])
    cli.run(main)
