"""LiteRT's own profiler: which kernels a file's operators ran, and how long.

The Python package does not offer it, but its library libLiteRt.so does, through a C
interface that is not promised to stay; so it is called for the versions alone that it
was tried with. Source: litert/c of github.com/google-ai-edge/LiteRT.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
from collections import defaultdict
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from statistics import median

import numpy as np

TRIED = ("2.3.",)
"""Versions of ai-edge-litert, by their start."""
_OPERATORS = (2, 8)  # an operator of LiteRT's own, one inside XNNPACK
_CPU = 1
_LOCK_WRITE = 1


class ProfilerError(Exception):
    """There is no profile, and why."""


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_size_t), ("in_use", c_size_t), ("private", c_size_t))


class _Event(ctypes.Structure):
    _fields_ = (
        ("tag", c_char_p),
        ("type", c_int),
        ("start", c_uint64),
        ("elapsed", c_uint64),
        ("begin", _Memory),
        ("end", _Memory),
        ("metadata1", c_uint64),
        ("metadata2", c_uint64),
        ("source", c_int),
    )


class _TensorType(ctypes.Structure):
    _fields_ = (
        ("element_type", c_int),
        ("rank", ctypes.c_uint32),
        ("dimensions", ctypes.c_int32 * 8),
        ("strides", ctypes.c_uint32 * 8),
    )


class _Library:
    """Calls by name without the prefix; a status other than 0 raises."""

    def __init__(self) -> None:
        version = importlib.metadata.version("ai-edge-litert")
        if not version.startswith(TRIED):
            raise ProfilerError(
                f"the profiler was tried with ai-edge-litert {TRIED[0]}x, not {version}"
            )
        spec = importlib.util.find_spec("ai_edge_litert")
        folder = os.path.dirname(str(spec and spec.origin))
        try:
            self._library = ctypes.CDLL(os.path.join(folder, "libLiteRt.so"))
        except OSError as error:
            raise ProfilerError(f"libLiteRt.so does not load: {error}") from error

    def __call__(self, name: str, *arguments: object) -> None:
        try:
            function = getattr(self._library, f"LiteRt{name}")
        except AttributeError:
            raise ProfilerError(f"libLiteRt.so has no LiteRt{name}") from None
        function.restype = c_int
        status = function(*arguments)
        if status != 0:
            raise ProfilerError(f"LiteRt{name} failed with status {status}")


class _Compiled:
    """A file compiled for the CPU with its profiler on, and its buffers."""

    def __init__(self, path: str, threads: int) -> None:
        call = self._call = _Library()
        self._environment, model = c_void_p(), c_void_p()
        options, self._model = c_void_p(), c_void_p()
        call("CreateEnvironment", 0, None, byref(self._environment))
        file = c_char_p(os.fsencode(path))
        call("CreateModelFromFile", self._environment, file, byref(model))
        call("CreateOptions", byref(options))
        call("SetOptionsHardwareAccelerators", options, _CPU)
        self._add_options(options, "runtime_options_string", "enable_profiling = true")
        self._add_options(options, "xnnpack", f"num_threads = {threads}")
        call(
            "CreateCompiledModel", self._environment, model, options, byref(self._model)
        )
        signature = c_void_p()
        call("GetModelSignature", model, c_size_t(0), byref(signature))
        self._inputs = self._buffers(signature, "Input")
        self._outputs = self._buffers(signature, "Output")

    def _add_options(self, options: c_void_p, identifier: str, toml: str) -> None:
        libc = ctypes.CDLL(None)
        libc.malloc.restype = c_void_p
        libc.malloc.argtypes = (c_size_t,)
        content = toml.encode() + b"\n\0"
        # The library frees the text by the function that it is given with it.
        text = libc.malloc(len(content))
        ctypes.memmove(text, content, len(content))
        free, made = ctypes.cast(libc.free, c_void_p), c_void_p()
        name = c_char_p(identifier.encode())
        self._call("CreateOpaqueOptions", name, c_void_p(text), free, byref(made))
        self._call("AddOpaqueOptions", options, made)

    def _buffers(self, signature: c_void_p, kind: str) -> list[c_void_p]:
        call, number, buffers = self._call, c_size_t(), []
        call(f"GetNumSignature{kind}s", signature, byref(number))
        for i in range(number.value):
            tensor, shape = c_void_p(), _TensorType()
            needed, buffer = c_void_p(), c_void_p()
            position = c_size_t(i)
            call(f"GetSignature{kind}TensorByIndex", signature, position, byref(tensor))
            call("GetRankedTensorType", tensor, byref(shape))
            if min(shape.dimensions[: shape.rank], default=1) < 0:
                raise ProfilerError("it takes fixed batches alone")
            call(
                f"GetCompiledModel{kind}BufferRequirements",
                *(self._model, c_size_t(0), position, byref(needed)),
            )
            call(
                "CreateManagedTensorBufferFromRequirements",
                *(self._environment, byref(shape), needed, byref(buffer)),
            )
            buffers.append(buffer)
        return buffers

    def set_input(self, values: np.ndarray) -> None:
        """Copies one batch, of the file's own shape and dtype, to the only input."""
        values = np.ascontiguousarray(values)
        (buffer,) = self._inputs
        size, address = c_size_t(), c_void_p()
        self._call("GetTensorBufferSize", buffer, byref(size))
        if size.value < values.nbytes:
            raise ProfilerError(
                f"the input takes {size.value} bytes, the batch has {values.nbytes}"
            )
        self._call("LockTensorBuffer", buffer, byref(address), _LOCK_WRITE)
        ctypes.memmove(address, values.ctypes.data, values.nbytes)
        self._call("UnlockTensorBuffer", buffer)

    def run(self) -> None:
        inputs = (c_void_p * len(self._inputs))(*self._inputs)
        outputs = (c_void_p * len(self._outputs))(*self._outputs)
        self._call(
            "RunCompiledModel",
            *(self._model, c_size_t(0), c_size_t(len(inputs)), inputs),
            *(c_size_t(len(outputs)), outputs),
        )

    def profile_run(self) -> dict[str, int]:
        """Runs once; microseconds by kernel, those of one name added up."""
        profiler, number = c_void_p(), c_int()
        self._call("CompiledModelGetProfiler", self._model, byref(profiler))
        self._call("ResetProfiler", profiler)
        self._call("StartProfiler", profiler)
        self.run()
        self._call("StopProfiler", profiler)
        self._call("GetNumProfilerEvents", profiler, byref(number))
        events = (_Event * number.value)()
        first = ctypes.cast(events, POINTER(_Event))
        self._call("GetProfilerEvents", profiler, number, first)
        spent: dict[str, int] = defaultdict(int)
        for event in events:
            if event.type in _OPERATORS:
                spent[event.tag.decode()] += event.elapsed
        return dict(spent)


def profile(
    path: str, batch: np.ndarray, *, runs: int, threads: int
) -> dict[str, float]:
    """Microseconds a run by kernel, the median over runs, after one to warm up.

    Args:
        path: The .tflite file, of one input.
        batch: That input, of the file's shape and dtype.
        runs: How often to run.
        threads: Of XNNPACK.

    Returns:
        By kernel, such as "Convolution (NCHW, F32) SPMM", in the order of execution.

    Raises:
        ProfilerError: if this LiteRT's interface is another, or the file does not run.
    """
    compiled = _Compiled(path, threads)
    compiled.set_input(batch)
    compiled.run()
    spent = [compiled.profile_run() for _ in range(runs)]
    names = list(spent[0])
    if not names:
        raise ProfilerError("the profiler told of no operator")
    return {name: float(median(run.get(name, 0) for run in spent)) for name in names}
