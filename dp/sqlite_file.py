"""A SQLite file in which what was committed is on disk, opened by several processes at once, for its owner's eyes."""

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
"""Instead of a file: for those who go through many states of a node, none of which is to outlive them."""
_PAUSE_SECONDS: Final = 0.005
_making = threading.Lock()


def open_durable(path: Path, schema: str) -> sqlite3.Connection:
    """Open the file in WAL mode with synchronous=FULL, and make what its schema lacks.

    Two processes that make a file together both turn it to WAL. SQLite does not wait for a lock that this needs, since
    two that wait for each other would wait for ever: it says "database is locked" at once. So the wait is here.

    Args:
        path: the file; made where it does not exist, readable by its owner alone whatever the umask says. What SQLite
            puts beside it (the log, the shared memory) gets the same mode.
        schema: statements that change nothing where they were run before.

    Returns:
        A connection that waits `BUSY_SECONDS` for another's lock. Its transactions are opened by hand.

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
    """Make the file with its mode, not with the umask's. SQLite takes an empty file for a new database.

    Only where there is none, and one at a time: closing a file gives up every lock that this process has on it.
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
