"""Processor, memory and disk."""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import tempfile

from str_keras.diagnosis.finding import Finding
from str_keras.processors import usable_cores

_CPUINFO = pathlib.Path("/proc/cpuinfo")
_MEMINFO = pathlib.Path("/proc/meminfo")
# Version 2 of control groups, and version 1.
_LIMITS = (
    pathlib.Path("/sys/fs/cgroup/memory.max"),
    pathlib.Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_VECTORS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile")
_X86 = ("x86_64", "amd64", "i686", "i386")
_GIB = 1 << 30
LOW_MEMORY = 2 * _GIB
"""Bytes; importing TensorFlow and training the quickstart's net take about one GiB."""
LOW_DISK = 1 * _GIB
"""Bytes; a ResNet50's run holds three checkpoints of about 200 MB."""


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(text: str) -> dict[str, str]:
    """The first value of each "name : value"."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _processor() -> Finding:
    fields, machine = _fields(_read(_CPUINFO)), platform.machine()
    count = usable_cores()
    name = fields.get("model name") or machine
    flags = fields.get("flags", "").split()
    has = [vector for vector in _VECTORS if vector in flags]
    told = f"{name}, {count} {'core' if count == 1 else 'cores'}"
    if machine.lower() not in _X86 or not flags:
        return Finding("machine", "processor", "ok", f"{told}, {machine}")
    if "avx" in has:
        return Finding("machine", "processor", "ok", f"{told}, {' '.join(has)}")
    return Finding(
        "machine",
        "processor",
        "warning",
        f"{told}, without AVX, which TensorFlow's wheels are compiled for",
        "train on a processor with AVX (in a virtual machine, pass the host's on), or "
        "build TensorFlow for this one; .tflite files run here all the same",
    )


def _memory() -> Finding:
    fields = _fields(_read(_MEMINFO))
    try:
        total = int(fields["MemTotal"].split()[0]) * 1024
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (KeyError, ValueError, IndexError):
        return Finding("machine", "memory", "note", "unknown: no /proc/meminfo")
    limits = [int(t) for p in _LIMITS if (t := _read(p).strip()).isdigit()]
    told = f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} available"
    limit = min(limits, default=total)
    if limit < total:  # without one, version 1 names nearly 2**63
        told += f", limited to {limit / _GIB:.1f} by the control group"
    if min(free, limit) < LOW_MEMORY:
        mend = "end other programs, or lower --batch_size and --image_size"
        return Finding("machine", "memory", "warning", told, mend)
    return Finding("machine", "memory", "ok", told)


def _disk(name: str, folder: pathlib.Path) -> Finding:
    path = folder.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        free = shutil.disk_usage(path).free
    except OSError as error:
        return Finding("machine", name, "warning", f"{folder}: {error.strerror}")
    told = f"{free / _GIB:.1f} GiB free in {folder}"
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        why = "no permission to write to it" if path.is_dir() else f"{path} is a file"
        mend = "choose another folder, or allow it"
        return Finding("machine", name, "warning", f"{told}; {why}", mend)
    if free < LOW_DISK:
        mend = "make room: checkpoints and exported files take some hundred MB"
        return Finding("machine", name, "warning", told, mend)
    return Finding("machine", name, "ok", told)


def examine_machine(folder: str | os.PathLike[str]) -> list[Finding]:
    """Looks at the operating system, the processor, memory and disk.

    Args:
        folder: Where runs will be written; it need not exist.
    """
    temporary = pathlib.Path(tempfile.gettempdir())
    return [
        Finding("machine", "system", "ok", platform.platform()),
        Finding("machine", "python", "ok", platform.python_version()),
        _processor(),
        _memory(),
        _disk("disk of runs", pathlib.Path(folder)),
        _disk("disk of temporary files", temporary),
    ]
