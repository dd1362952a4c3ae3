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
from str_keras.export.runtimes.report import RuntimeRow, RuntimesReport
from str_keras.export.runtimes.running import run
from str_keras.export.runtimes.twin import dense_twin
from str_keras.export.runtimes.verifying import verify_runtimes

__all__ = [
    "NAMES",
    "Outcome",
    "RuntimeRow",
    "RuntimesReport",
    "available",
    "dense_twin",
    "run",
    "sparse_kernels_by_work",
    "verify_runtimes",
    "work_ratio",
]
