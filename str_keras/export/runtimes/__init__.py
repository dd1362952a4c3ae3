"""Runs .tflite files where phones and browsers would, on this machine.

Four runtimes: ai-edge-litert on this CPU, and emulated on x86 without AVX and on 64-bit
Arm, where XNNPACK's sparse kernels are on; LiteRT.js in a browser.
`tools/setup_runtimes.sh` installs what they need.
"""

from str_keras.export.runtimes.installed import NAMES, available
from str_keras.export.runtimes.outcome import (
    Outcome,
    sparse_kernels_by_work,
    work_ratio,
)
from str_keras.export.runtimes.running import run

__all__ = [
    "NAMES",
    "Outcome",
    "available",
    "run",
    "sparse_kernels_by_work",
    "work_ratio",
]
