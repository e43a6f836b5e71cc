"""A SQLite file in which what was committed is on disk, opened by several processes at once."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

BUSY_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 0.005


def open_durable(path: Path, schema: str) -> sqlite3.Connection:
    """Open the file in WAL mode with synchronous=FULL, and make what its schema lacks.

    Two processes that make a file together both turn it to WAL. SQLite does not wait for a lock that this needs, since
    two that wait for each other would wait for ever: it says "database is locked" at once. So the wait is here.

    Args:
        path: the file; made where it does not exist.
        schema: statements that change nothing where they were run before.

    Returns:
        A connection that waits `BUSY_SECONDS` for another's lock. Its transactions are opened by hand.

    Raises:
        sqlite3.OperationalError: the file cannot be opened, or stays locked.
        sqlite3.DatabaseError: the file is not a database.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _turn_to_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection


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
