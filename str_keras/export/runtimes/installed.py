"""Which runtimes are there, and how their guest programs are started."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

NAMES = ("native", "x86_no_avx", "arm64", "wasm")
"""This CPU; x86 without AVX and 64-bit Arm, emulated; LiteRT.js in Chromium."""
EMULATED = ("x86_no_avx", "arm64")
_EMULATORS = {"x86_no_avx": "qemu-x86_64", "arm64": "qemu-aarch64"}
# The last of Intel's cores without AVX, and an Arm core whose int8 kernels qemu 7.2
# computes right: under `-cpu max` they give wrong outputs.
_PROCESSORS = {"x86_no_avx": "Nehalem", "arm64": "cortex-a72"}
_GUESTS = Path(__file__).parent / "guests"
_SETUP = "tools/setup_runtimes.sh"
# Of this process' environment, what would reach into the guest's.
_NOT_PASSED = ("OPENBLAS_CORETYPE", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONSAFEPATH")


@dataclasses.dataclass(frozen=True)
class Program:
    """A guest program, ready to be started on a job's file.

    Attributes:
        arguments: The command line, but for the job at `job_at`.
        job_at: Where among the arguments the path of the job goes.
        environment: All of it.
    """

    arguments: tuple[str, ...]
    job_at: int
    environment: dict[str, str]

    def on(self, job: Path) -> list[str]:
        """The command line on a job's file."""
        arguments = list(self.arguments)
        arguments.insert(self.job_at, str(job))
        return arguments


def home() -> Path:
    """The folder of the runtimes: $STR_KERAS_RUNTIMES, or .runtimes in the checkout."""
    told = os.environ.get("STR_KERAS_RUNTIMES")
    if told:
        return Path(told).absolute()
    checkout = Path(__file__).parents[3]
    in_checkout = (checkout / _SETUP).is_file()
    return (checkout if in_checkout else Path.cwd()) / ".runtimes"


def check_name(name: str) -> None:
    """Refuses what is no runtime.

    Raises:
        ValueError: naming those that there are.
    """
    if name not in NAMES:
        raise ValueError(f"a runtime is one of {NAMES}. Received: {name!r}")


def available(name: str) -> str:
    """Whether a runtime can be used here.

    Args:
        name: One of `NAMES`.

    Returns:
        An empty string if it can, else one line: what is missing and how to get it.

    Raises:
        ValueError: if there is no such runtime.
    """
    check_name(name)
    missing = ""
    if name == "x86_no_avx" and platform.machine() != "x86_64":
        return (
            "the runtime x86_no_avx emulates this environment's own programs, so it "
            f"needs an x86-64 machine. Received: {platform.machine()}"
        )
    if name in EMULATED:
        missing = _missing_programs(_EMULATORS[name])
    if name == "arm64":
        missing = missing or _missing_arm64()
    if name == "wasm":
        missing = _missing_programs("node", "chromium") or _missing_web()
    if not missing:
        return ""
    return f"the runtime {name} is not set up: {missing}; run {_SETUP}"


def _missing_programs(*programs: str) -> str:
    absent = [program for program in programs if shutil.which(program) is None]
    return f"no program {', '.join(absent)} on the path" if absent else ""


def _stamp(part: str) -> str | None:
    try:
        return (home() / part / ".stamp").read_text(encoding="utf-8")
    except OSError:
        return None


def _missing_arm64() -> str:
    stamp, version = _stamp("arm64"), importlib.metadata.version("ai-edge-litert")
    if stamp is None:
        return f"no arm64 Python in {home()}"
    if f"ai-edge-litert=={version}" not in stamp.split():
        return f"{home() / 'arm64'} is not of ai-edge-litert {version}, as here"
    return ""


def _missing_web() -> str:
    stamp = _stamp("web")
    lock = hashlib.sha256((_GUESTS / "package-lock.json").read_bytes()).hexdigest()
    if stamp is None:
        return f"no LiteRT.js in {home()}"
    if lock not in stamp:
        return f"the packages in {home() / 'web'} are of other versions"
    return ""


def runtime_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of what runs the files, for a record beside the numbers.

    Args:
        names: Of `NAMES`, all available.
    """
    found = {"ai-edge-litert": importlib.metadata.version("ai-edge-litert")}
    for name in names:
        if name in EMULATED:
            found[_EMULATORS[name]] = _first_line(_EMULATORS[name], "--version")
        if name == "wasm":
            found["chromium"] = _first_line("chromium", "--version")
            package = home() / "web/node_modules/@litertjs/core/package.json"
            told = json.loads(package.read_text(encoding="utf-8"))
            found["@litertjs/core"] = told["version"]
    return found


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].strip()


def counting_plugin() -> Path | None:
    """qemu's plugin that counts instructions, None where there is none."""
    library = home() / "plugin" / "libcount_instructions.so"
    return library if library.is_file() else None


def program(name: str, count_to: Path | None = None) -> Program:
    """The guest program of a runtime that is available.

    Args:
        name: One of `NAMES`.
        count_to: On an emulator: where its plugin writes the counts of instructions.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_PASSED}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
    guest = str(_GUESTS / "run_litert.py")
    if name == "native":
        return Program((sys.executable, guest), 2, environment)
    if name == "wasm":
        web, chromium = str(home() / "web"), str(shutil.which("chromium"))
        script = str(_GUESTS / "browse.mjs")
        return Program(("node", script, web, chromium), 2, environment)
    emulator = [_EMULATORS[name], "-cpu", _PROCESSORS[name]]
    if count_to is not None:
        emulator += ["-plugin", str(counting_plugin())]
        emulator += ["-d", "plugin", "-D", str(count_to)]
    if name == "x86_no_avx":
        # OpenBLAS asks the emulated processor in a way that gets the real one's
        # answer, and dies of SIGILL at NumPy's import: it is told the kernels.
        environment["OPENBLAS_CORETYPE"] = "Nehalem"
        arguments = (*emulator, sys.executable, guest)
        return Program(arguments, len(arguments), environment)
    root = home() / "arm64"
    environment |= {"PYTHONHOME": f"{root}/usr", "PYTHONPATH": f"{root}/site"}
    python = f"{root}/usr/bin/python3.11"
    arguments = (*emulator, "-L", str(root), python, guest)
    return Program(arguments, len(arguments), environment)
