"""Tells whether XNNPACK's sparse kernels run on a model, and if not, why and the mend.

python tools/check_sparse.py --model=model.tflite
python tools/check_sparse.py --model=run/best.keras --json=check.json --require=safe

The exit status is 0 if what --require names holds, else 1.
"""

import os

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "A .tflite file, checked as it is, or a .keras file, checked as "
    "tools/convert_tflite.py --sparse would write it.",
)
_JSON = flags.DEFINE_string("json", "", "Where to write all that was found, or empty.")
_REQUIRE = flags.DEFINE_string(
    "require",
    "sparse",
    "sparse: sparse kernels run wherever there are any (Arm, WebAssembly, x86 without "
    "AVX). safe: on every kind of CPU the file loads and its outputs are right. "
    "nothing: only print.",
)


def main() -> int:
    """Checks the file that the flags name."""
    from str_keras.export.check_commands import check_file

    return check_file(_MODEL.value, _JSON.value, _REQUIRE.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["model"])
    cli.run(main)
