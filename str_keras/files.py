"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yields a path beside `path` to write to; renames it to `path` at the end.

    A reader, or a run that is killed, sees the old file or the new one, never a part.
    On an exception the file aside is removed and `path` stays as it was.

    Args:
        path: The file to be; its folder is made if it is missing.

    Yields:
        A path of the same suffix in the same folder.

    Raises:
        OSError: if the folder cannot be made or written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent
    )
    os.close(descriptor)
    aside = pathlib.Path(name)
    try:
        yield aside
        # mkstemp makes files that only the owner reads.
        umask = os.umask(0)
        os.umask(umask)
        aside.chmod(0o666 & ~umask)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` as UTF-8 to `path`, wholly or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def claim_target(path: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Checks that a file or directory can be written; makes the directory around it.

    Raises:
        OSError: if it exists and `overwrite` is False, or its directory cannot be made
            or written to.
    """
    target = pathlib.Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(
            "the target exists: choose another path, or overwrite=True "
            f"(--overwrite). Received: path={str(target)!r}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"the target's directory is a file. Received: path={str(target)!r}"
        ) from None
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"no permission to write to the directory. Received: path={str(target)!r}"
        )
    return target


def claim_file(path: str | os.PathLike[str], overwrite: bool) -> pathlib.Path:
    """Checks, before minutes of work, that a file can be written; makes its directory.

    Raises:
        OSError: if it exists and `overwrite` is False, is a directory, or its directory
            cannot be made or written to.
    """
    target = claim_target(path, overwrite)
    if target.is_dir():
        raise IsADirectoryError(
            f"a file cannot replace a directory. Received: path={str(target)!r}"
        )
    return target
