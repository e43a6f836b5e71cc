"""Files that a crash must not leave half written."""

from __future__ import annotations

import os
from pathlib import Path

READABLE = 0o644
"""The mode of what everybody may read: a run's folder is for auditors."""


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put these bytes in a file, new or not: after a crash it holds the old ones or the new ones, and nothing between.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk, as well as what they stand for."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
