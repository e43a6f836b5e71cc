"""Whether a data file is still what its owner approved a study on: looked at before each round, and not in one.

A node reads its data when it is opened and trains on what it has read. A file that is another one by then was perhaps
changed by somebody else, or by mistake; or on purpose, because a patient withdrew. The node cannot tell, so it takes no
part until the file is back, or its owner stands by the new one (`secfed node data accept`).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from secfed.errors import UserError
from secfed.models.data import DataError


class DataChanged(UserError):
    """The file is another one than its owner approved. A node that has read the old one has to be opened anew."""


def data_digest(path: Path) -> str:
    """SHA-256 of a data file, in hexadecimal digits. It never leaves the node. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error


class DataWatch:
    """Compares one file with a digest; reads it again only where it may have been written since."""

    def __init__(self, path: Path, digest: str, name: str) -> None:
        """
        Args:
            path: the file.
            digest: of what its owner approved.
            name: what the owner calls it, for the error's text.
        """
        self._path = path
        self._digest = digest
        self._name = name
        self._seen: tuple[int, ...] = ()

    def check(self) -> None:
        """Raises DataChanged when the file is another one by now, or gone."""
        stamp = self._stamp()
        if stamp and stamp == self._seen:
            return
        if not stamp or data_digest(self._path) != self._digest:
            self._seen = ()
            raise DataChanged(
                f"the data file {self._path} is not as it was when the study was approved: the node takes no part",
                "Put it back as it was; or if it was changed on purpose, because a patient withdrew or a record was "
                f"corrected, say so with `secfed node data accept {self._name}`",
            )
        self._seen = stamp

    def _stamp(self) -> tuple[int, ...]:
        """What changes whenever the file is written or another one put in its place; empty where it is gone."""
        try:
            found = self._path.stat()
        except OSError:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
