"""Targets that appear whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from str_keras.files import claim_target, write_text


def claim_saved_model(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The same for the directory of a SavedModel, which replaces nothing but another.

    Raises:
        OSError: as `files.claim_file`, and if what is there is no SavedModel.
    """
    target = claim_target(path, overwrite)
    if target.exists() and not (target / "saved_model.pb").is_file():
        raise FileExistsError(
            "only a SavedModel is overwritten, and this is something else. "
            f"Received: path={str(target)!r}"
        )
    return target


@contextlib.contextmanager
def directory_aside(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` for a directory; renames it to `target` at the end.

    A directory that was at `target` is removed only then. On an exception nothing is
    left, and `target` is as it was.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        yield aside
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(aside, target)
        except OSError:
            if old.exists():
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes `content`, indented, wholly or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def gzip_bytes(content: bytes) -> int:
    """Bytes of the content as `gzip -9` packs it: what a download costs."""
    return len(gzip.compress(content, 9, mtime=0))


def zstd_bytes(content: bytes) -> int:
    """Bytes of the content as `zstd -19` packs it: what a modern download costs."""
    import zstandard

    return len(zstandard.ZstdCompressor(level=19).compress(content))


def directory_bytes(directory: Path) -> tuple[int, int]:
    """Bytes of all files of a directory, and of its .tar.gz."""
    total = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(directory, arcname=directory.name)
    return total, packed.tell()
