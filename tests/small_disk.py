"""A file system of a few hundred KiB, to be filled and freed again: a full disk as SQLite and the system meet it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_FILL = "fill"


class SmallDisk:
    """It is mounted on this folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, but: int = 0) -> None:
        """Leave room for so many bytes."""
        with suppress(OSError), (self.folder / _FILL).open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        with (self.folder / _FILL).open("rb+") as file:
            file.truncate(max(0, os.fstat(file.fileno()).st_size - but))

    def free(self) -> None:
        """Give the room back."""
        (self.folder / _FILL).unlink()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[SmallDisk]:
    """Mount it on a folder, for its owner alone. Skips the test where that cannot be done."""
    folder.mkdir(exist_ok=True)
    asked = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(asked, check=False, capture_output=True)
    except OSError as error:
        pytest.skip(f"there is no `mount` here ({error.strerror})")
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
