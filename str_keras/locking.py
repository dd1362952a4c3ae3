"""One process at a time in a directory."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

from tqdm import tqdm

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a directory; the system frees it when the process is killed.

    The file .lock in it names the holder. Where the file system has no locks a line
    says so, and none is held.

    Args:
        folder: It exists.

    Raises:
        BlockingIOError: if another process holds it, with its number and host.
        OSError: if the folder cannot be written.
    """
    # Here: who only reads a run needs no locks.
    import filelock

    path = folder / LOCK
    lock = filelock.FileLock(path, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BlockingIOError(
            "Another process is at work in the run directory: wait for its end, end "
            f"it, or name another directory. Received: run_dir={folder}, "
            f"{_read_owner(path)}"
        ) from None
    except (OSError, NotImplementedError) as error:
        if not path.is_file() or isinstance(error, PermissionError):
            raise  # nor can anything else be written
        tqdm.write(
            f"warning: no locks on this file system ({error}): see to it that no two "
            f"runs write to {folder}",
            file=sys.stderr,
        )
    try:
        if lock.is_locked:
            owner = {"pid": os.getpid(), "host": socket.gethostname()}
            path.write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        if lock.is_locked:
            # Who waits looks whether the file that it locked is still there.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


def _read_owner(path: pathlib.Path) -> str:
    """Process and host that hold a lock, as far as they are known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"pid={owner['pid']}, host={owner['host']}"
    return "pid=unknown"
