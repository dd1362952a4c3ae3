"""A program's start without the log lines of the libraries that it loads."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile


def import_quietly(module: str) -> None:
    """Imports `module` with the process' standard error set aside.

    TensorFlow's C++ writes a page about processors and CUDA there before anyone can
    set a log level. If the import fails, what was written is shown after all; a module
    that is not installed is passed over.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            loaded = importlib.import_module(module)
            if module == "tensorflow":
                loaded.config.list_physical_devices()  # looks for CUDA, and says so
        except ModuleNotFoundError:
            pass
        except BaseException:
            log.seek(0)
            os.write(saved, log.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
