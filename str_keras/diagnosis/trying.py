"""Tries a training in a child process, and explains how it ended."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
from typing import Any

from str_keras.diagnosis.environment import BACKENDS, find_backend
from str_keras.diagnosis.finding import Finding

# Not imported: it runs in the child alone.
_MODULE = "str_keras.diagnosis.trial"
MARK = "str_keras trial: "
"""Begins the lines of the child that are for the parent."""
_STAGES = {
    "import": "importing Keras, its backend and str_keras",
    "devices": "listing devices",
    "train": "sparsifying, training and stripping a small net",
    "save": "saving and loading it",
    "command": "what `python -m str_keras.train` needs: data, events",
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """How a trial ended.

    Args:
        passed: What each stage told, by its name.
        failed: Name of the stage that failed; None if none did.
        reason: The last line of the error.
        status: Exit status of the process, negative for a signal; None after a timeout.
    """

    passed: dict[str, dict[str, Any]]
    failed: str | None = None
    reason: str = ""
    status: int | None = 0

    @property
    def devices(self) -> dict[str, int]:
        """Number of devices by kind; none if the trial did not come so far."""
        return self.passed.get("devices", {}).get("devices", {})


def _stages(output: str) -> dict[str, dict[str, Any]]:
    passed = {}
    for line in output.splitlines():
        if line.startswith(MARK):
            told = json.loads(line.removeprefix(MARK))
            passed[told.pop("stage")] = told
    return passed


def _last_line(errors: str) -> str:
    """The exception at the end of a traceback: its first line."""
    lines = [line for line in errors.splitlines() if line.strip()]
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith("Traceback "):
            after = [n for n in lines[i + 1 :] if not n.startswith((" ", "\t"))]
            return (after or lines[-1:])[0].strip()[:300]
    return lines[-1].strip()[:300] if lines else "nothing was printed"


def try_training(timeout: float) -> Trial:
    """Imports, trains, saves and loads in a process of its own.

    Args:
        timeout: Seconds after which the process is ended.

    Raises:
        OSError: if no process can be started.
    """
    # Only the package itself is found by the working directory in a checkout.
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    status: int | None
    try:
        output, errors = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        status = None
    finally:
        if process.poll() is None:  # an interrupt
            process.kill()
            process.wait()
    passed = _stages(output)
    if status == 0:
        return Trial(passed)
    failed = next((stage for stage in _STAGES if stage not in passed), "command")
    reason = _last_line(errors)
    if status is None:
        reason = f"not done after {timeout:g} seconds"
    elif status < 0:
        reason = f"the process was ended by {signal.Signals(-status).name}"
    return Trial(passed, failed, reason, status)


def _mend(trial: Trial, backend: str) -> str:
    """What to do, by how it failed."""
    if trial.status is None:
        return "see what else runs here, or give it more time: --timeout=900"
    if trial.status == -signal.SIGILL:
        return (
            "the wheels use instructions that this processor has not (AVX): train on "
            "another machine, or build TensorFlow for this one"
        )
    if trial.status == -signal.SIGKILL:
        return "the system ends what takes too much memory: make more available"
    module = trial.reason.partition("No module named ")[2].strip("'\"").split(".")[0]
    if module:
        extra = f"[{backend}]" if module == backend != "tensorflow" else ""
        return f"pip install 'str_keras{extra}', or the package of {module} alone"
    if trial.failed == "import" and backend not in BACKENDS:
        return f"set KERAS_BACKEND to one of {', '.join(BACKENDS)}"
    if trial.failed == "import":
        return (
            f"see `python -c 'import {backend}, keras'`; if that fails too, install "
            f"them anew: pip install --force-reinstall {backend} keras"
        )
    return (
        f"see `python -m {_MODULE}` for the traceback, the warnings above for versions "
        "outside of their ranges, and report it if there are none"
    )


def _has_nvidia() -> bool:
    return pathlib.Path("/proc/driver/nvidia/version").exists()


def _devices(trial: Trial, backend: str) -> Finding:
    told = ", ".join(f"{n} {kind}" for kind, n in trial.devices.items())
    unused = _has_nvidia() and not {"GPU", "CUDA"} & set(trial.devices)
    if not unused:
        return Finding("training", "devices", "ok", told)
    cuda = {
        "tensorflow": "pip install 'tensorflow[and-cuda]'",
        "jax": "pip install 'jax[cuda12]'",
        "torch": "install PyTorch's CUDA build",
    }
    mend = f"{cuda.get(backend, 'install its CUDA build')}, and see nvidia-smi"
    told += f"; there is an NVIDIA driver, but {backend} sees no GPU"
    return Finding("training", "devices", "warning", told, mend)


def examine_trial(trial: Trial) -> list[Finding]:
    """Findings of a trial: a line per stage that passed, and the one that failed."""
    backend = trial.passed.get("import", {}).get("backend") or find_backend()
    found = []
    for stage, told in trial.passed.items():
        if stage == "devices":
            found.append(_devices(trial, backend))
            continue
        told = ", ".join(f"{name} {value}" for name, value in told.items())
        found.append(Finding("training", _STAGES[stage], "ok", told))
    if trial.failed is not None:
        mend = _mend(trial, backend)
        name = _STAGES[trial.failed]
        found.append(Finding("training", name, "error", trial.reason, mend))
    return found
