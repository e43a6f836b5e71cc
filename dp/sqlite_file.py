"""A SQLite file that only its owner can read, that several processes can open, and whose commits are on disk."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

BUSY_SECONDS: Final = 30.0
IN_MEMORY: Final = Path(":memory:")
"""Instead of a file: for callers that go through many states of a node and keep none of them."""
_PAUSE_SECONDS: Final = 0.005
_making = threading.Lock()


def open_durable(path: Path, schema: str) -> sqlite3.Connection:
    """Open the file in WAL mode with synchronous=FULL, and create the parts of its schema that are missing.

    Two processes that create a file at the same time both switch it to WAL. SQLite does not wait for the lock that this
    needs, because two waiting processes could deadlock: it reports "database is locked" at once. So this function
    waits.

    Args:
        path: the file; created if it does not exist, readable only by its owner whatever the umask is. The files that
            SQLite puts beside it (the log, the shared memory) get the same mode.
        schema: statements that change nothing when they run again.

    Returns:
        A connection that waits `BUSY_SECONDS` for another's lock. The caller opens its transactions explicitly.

    Raises:
        sqlite3.OperationalError: the file cannot be opened, or stays locked.
        sqlite3.DatabaseError: the file is not a database.
    """
    try:
        _make_private(path)
    except OSError as error:
        raise sqlite3.OperationalError(error.strerror) from error
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _turn_to_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Create the file with its mode, not the umask's. SQLite accepts an empty file as a new database.

    Only if there is none, and one at a time: closing a file releases every lock that this process has on it.
    """
    if path == IN_MEMORY:
        return
    with _making, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _turn_to_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)
