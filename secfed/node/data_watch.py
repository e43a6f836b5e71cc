"""Detects that a data file changed after its owner approved a study on it. Checked before each round, not during one.

A node reads its data when it is opened and trains on what it read. If the file changes later, somebody else may have
changed it, or it was a mistake, or the owner meant to, because a patient withdrew. The node cannot tell, so it takes no
part until the owner restores the file or accepts the new one (`secfed node data accept`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from secfed.errors import UserError
from secfed.models.data import DataError


class DataChanged(UserError):
    """The file differs from the one that its owner approved. A node that has read the old file must be reopened."""


def data_digest(path: Path) -> str:
    """SHA-256 of a data file, as hexadecimal digits. Never leaves the node. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error


class DataWatch:
    """Compares one file with a digest; reads the file again only if it may have been written since."""

    def __init__(self, path: Path, digest: str, name: str) -> None:
        """
        Args:
            path: the file.
            digest: SHA-256 of the file that its owner approved.
            name: what the owner calls it, for the error's text.
        """
        self._path = path
        self._digest = digest
        self._name = name
        self._seen: tuple[int, ...] = ()

    def check(self) -> None:
        """Raises DataChanged if the file has changed or is missing."""
        stamp = self._stamp()
        if stamp and stamp == self._seen:
            return
        if not stamp or data_digest(self._path) != self._digest:
            self._seen = ()
            raise DataChanged(
                f"the data file {self._path} has changed since the study was approved: the node takes no part",
                "Restore the approved file. If you meant to change it, because a patient withdrew or a record was "
                f"corrected, run `secfed node data accept {self._name}`",
            )
        self._seen = stamp

    def _stamp(self) -> tuple[int, ...]:
        """A value that changes whenever the file is written or replaced; empty if the file is missing."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
