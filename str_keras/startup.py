"""Programs without the log lines of the libraries that they use."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def stderr_aside() -> Iterator[None]:
    """Sets the process' standard error aside; shows it if the block fails.

    TensorFlow's C++ writes pages there (about processors and CUDA as it starts, about
    every step of a conversion) before and beyond any log level. A ValueError or OSError
    says for itself what is wrong and stays alone. For programs: what other threads
    write is set aside too.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except (ValueError, OSError):
            raise
        except BaseException:
            log.seek(0)
            os.write(saved, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


def import_quietly(module: str) -> None:
    """Imports `module` with standard error aside; passes over one not installed."""
    with stderr_aside():
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError:
            return
        if module == "tensorflow":
            loaded.config.list_physical_devices()  # looks for CUDA, and says so
