"""What a node must remember across restarts, on disk before anything leaves: its round floor, its receipts, its peers.

The model's state is not stored. It follows from the study and the chain of sums, and is computed again at a restart:
what cannot be stored wrongly needs no check. Secrets of a session are never here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

_SCHEMA = """
CREATE TABLE IF NOT EXISTS floor (study BLOB PRIMARY KEY, round INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS sums (study BLOB, round INTEGER, session BLOB NOT NULL, packed BLOB NOT NULL,
                                 PRIMARY KEY (study, round));
CREATE TABLE IF NOT EXISTS links (study BLOB, position INTEGER, receipt BLOB NOT NULL, packed BLOB NOT NULL,
                                  PRIMARY KEY (study, position));
CREATE TABLE IF NOT EXISTS peers (identity BLOB PRIMARY KEY, ledger_sequence INTEGER NOT NULL);
"""


class NodeStore:
    """One node's memory: a SQLite file, every write on disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(_SCHEMA)

    def floor(self, study: bytes) -> int:
        """The highest round number that this node ever joined; 0 before the first."""
        row = self._database.execute("SELECT round FROM floor WHERE study = ?", (study,)).fetchone()
        return int(row[0]) if row else 0

    def raise_floor(self, study: bytes, round_number: int) -> None:
        """Join a round. Raises ValueError for a number that is not above the floor."""
        with self._database:
            cursor = self._database.execute(
                "INSERT INTO floor VALUES (?, ?) ON CONFLICT (study) DO UPDATE SET round = excluded.round "
                "WHERE excluded.round > floor.round",
                (study, round_number),
            )
            if cursor.rowcount != 1:
                raise ValueError(f"round {round_number} is not above the last one joined")

    def keep_sum(self, study: bytes, round_number: int, session: bytes, packed: bytes) -> None:
        """Keep a published sum until its receipt comes."""
        self._database.execute("INSERT INTO sums VALUES (?, ?, ?, ?)", (study, round_number, session, packed))

    def kept_sum(self, study: bytes, round_number: int, session: bytes) -> bytes | None:
        """The sum this node saw itself in that round's session."""
        row = self._database.execute(
            "SELECT packed FROM sums WHERE study = ? AND round = ? AND session = ?", (study, round_number, session)
        ).fetchone()
        return bytes(row[0]) if row else None

    def append_link(self, study: bytes, position: int, receipt: bytes, packed: bytes) -> None:
        """Adopt a receipt and its sum as the next link of the chain."""
        self._database.execute("INSERT INTO links VALUES (?, ?, ?, ?)", (study, position, receipt, packed))

    def links(self, study: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every adopted (receipt, packed sum), in order."""
        rows = self._database.execute("SELECT receipt, packed FROM links WHERE study = ? ORDER BY position", (study,))
        for receipt, packed in rows:
            yield bytes(receipt), bytes(packed)

    def ledger_sequences(self) -> dict[bytes, int]:
        """Identity key -> the largest ledger number seen from that peer."""
        return {bytes(key): int(number) for key, number in self._database.execute("SELECT * FROM peers")}

    def remember_ledger_sequences(self, numbers: Mapping[bytes, int]) -> None:
        """Peers whose ledger later shows a smaller number are refused."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT INTO peers VALUES (?, ?) ON CONFLICT (identity) DO UPDATE "
                "SET ledger_sequence = max(ledger_sequence, excluded.ledger_sequence)",
                list(numbers.items()),
            )

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> NodeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
