"""Times .tflite files against each other: here, emulated, and in a browser.

python tools/benchmark_tflite.py --model=sparse.tflite --threads=1,2
python tools/benchmark_tflite.py --model=dense.tflite --model=sparse.tflite \
    --runtimes=wasm,arm64,x86_no_avx --json=times.json

One run of each file in turn, and the ratios turn by turn, so that a busy machine does
not favor any. A single sparse file is timed against its dense twin.
tools/setup_runtimes.sh installs the emulators and the browser. Exit status 1 if a file
does not run somewhere, or gives other outputs than on this CPU.
"""

import os
import shlex
import sys

from absl import flags

os.environ["STR_KERAS_PROGRAM"] = "1"  # a start without TensorFlow's log
from str_keras import cli

_MODELS = flags.DEFINE_multi_string(
    "model",
    [],
    "A .tflite file; again for more. The first is the baseline, or if it is stored "
    "sparse, its dense twin: the same file with its zeros stored, made on the spot.",
)
_RUNTIMES = flags.DEFINE_list(
    "runtimes",
    ["native"],
    "Of native (this CPU), wasm (LiteRT.js in Chromium), x86_no_avx and arm64 (both "
    "emulated: their times are a measure of work, no latency).",
)
_THREADS = flags.DEFINE_list(
    "threads", ["1"], "Numbers of threads, such as 1,2,4; one under emulators."
)
_REPEATS = flags.DEFINE_integer("repeats", 30, "Timed runs of each file.")
_EMULATED_REPEATS = flags.DEFINE_integer(
    "emulated_repeats", 5, "The same under emulators, where one may take seconds."
)
_WARMUP = flags.DEFINE_integer("warmup", 3, "Runs before, not timed.")
_COUNT = flags.DEFINE_bool("count", True, "Count instructions, under emulators.")
_PROFILE = flags.DEFINE_bool(
    "profile", True, "Tell the share of each kernel, by LiteRT's profiler; not in wasm."
)
_TOLERANCE = flags.DEFINE_float(
    "tolerance",
    None,
    "Largest max|difference| / max|y| to the outputs on this CPU; if not given 1e-4, "
    "for int8 0.02.",
)
_TIMEOUT = flags.DEFINE_float(
    "timeout", 300.0, "Seconds without progress after which a runtime is ended.", 0.1
)
_JSON = flags.DEFINE_string("json", "", "File to write all numbers to.")


def main() -> int:
    """Times the files as the flags ask for."""
    from str_keras.export.benchmarking import command

    return command.benchmark_files(
        _MODELS.value,
        runtimes=_RUNTIMES.value,
        threads=_THREADS.value,
        json_path=_JSON.value,
        command=shlex.join(["python", *sys.argv]),
        repeats=_REPEATS.value,
        emulated_repeats=_EMULATED_REPEATS.value,
        warmup=_WARMUP.value,
        count=_COUNT.value,
        profile=_PROFILE.value,
        tolerance=_TOLERANCE.value,
        timeout=_TIMEOUT.value,
    )


if __name__ == "__main__":
    cli.run(main)
