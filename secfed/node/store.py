"""What a node must remember across restarts: its round floor, receipts and peers. Written to disk before anything
leaves.

The model's state is not stored. It follows from the study and the chain of sums, and a restart computes it again, so a
wrong copy cannot exist. A session's secrets are never stored here.

A file restored from a copy lacks its newest entries, and nothing in it shows that. Its owner must record the restore
with `raise_floor` before the node starts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from dp.sqlite_file import open_durable
from secfed.errors import UserError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS floor (study BLOB PRIMARY KEY, round INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS restores (study BLOB PRIMARY KEY, round INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (study BLOB, state BLOB, number INTEGER NOT NULL, PRIMARY KEY (study, state));
CREATE TABLE IF NOT EXISTS tried (study BLOB PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS allowances (study BLOB, state BLOB, more INTEGER NOT NULL, PRIMARY KEY (study, state));
CREATE TABLE IF NOT EXISTS locks (study BLOB, round INTEGER, offer BLOB NOT NULL, PRIMARY KEY (study, round));
CREATE TABLE IF NOT EXISTS links (study BLOB, position INTEGER, receipt BLOB NOT NULL, packed BLOB NOT NULL,
                                  PRIMARY KEY (study, position));
CREATE TABLE IF NOT EXISTS pauses (study BLOB PRIMARY KEY, since TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS peers (identity BLOB PRIMARY KEY, ledger_sequence INTEGER NOT NULL);
"""


_TABLES = (
    "SELECT study, round FROM floor WHERE 0",
    "SELECT study, round FROM restores WHERE 0",
    "SELECT study, state, number FROM attempts WHERE 0",
    "SELECT study, state FROM tried WHERE 0",
    "SELECT study, state, more FROM allowances WHERE 0",
    "SELECT study, round, offer FROM locks WHERE 0",
    "SELECT study, position, receipt, packed FROM links WHERE 0",
    "SELECT study, since FROM pauses WHERE 0",
    "SELECT identity, ledger_sequence FROM peers WHERE 0",
)
"""Fails if a table differs from the schema."""


def damaged(path: Path, error: sqlite3.Error) -> UserError:
    """The error for the node's owner about a damaged file."""
    return UserError(
        f"{path} is damaged or is not a node's store ({error})",
        "Stop the node and keep the file. Restore the newest copy and record that with `secfed node restored`",
    )


@contextmanager
def open_store(path: Path) -> Iterator[NodeStore]:
    """A node's store, opened for an owner's command.

    Raises:
        UserError: the store cannot be opened or written, or is damaged.
    """
    try:
        with NodeStore(path) as store:
            yield store
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{path} cannot be opened or written ({error})",
            "Check that it is a file, its permissions, and the free space on its disk",
        ) from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, error) from error


class NodeStore:
    """One node's store: a SQLite file. Every write is on disk before the call returns."""

    def __init__(self, path: Path) -> None:
        """Open a node's store, or make it.

        Raises:
            UserError: the file is damaged or is not a node's store.
            sqlite3.OperationalError: the file cannot be opened or made.
        """
        try:
            self._database = open_durable(path, _SCHEMA)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise damaged(path, error) from error
        try:
            for table in _TABLES:
                self._database.execute(table)
        except sqlite3.OperationalError as error:
            self._database.close()
            raise damaged(path, error) from error

    def check(self) -> None:
        """Check the whole file. Raises sqlite3.DatabaseError if it is damaged."""
        (told,) = self._database.execute("PRAGMA integrity_check(1)").fetchone()
        if told != "ok":
            raise sqlite3.DatabaseError(told)

    def floor(self, study: bytes) -> int:
        """The highest round number that this node ever joined; 0 before the first."""
        row = self._database.execute("SELECT round FROM floor WHERE study = ?", (study,)).fetchone()
        return int(row[0]) if row else 0

    def raise_floor(self, study: bytes, round_number: int) -> None:
        """Record that these files, or the ledger, were restored from a copy. For the node's owner, before the node
        starts.

        The node may have joined and signed any round up to `round_number` without remembering it, so all of them count
        as joined and signed. It joins none of them, and signs nothing, until its chain has a receipt of `round_number`
        or of a later round. The floor never goes down.

        Args:
            study: the study's digest. Record a restore for every study that the node takes part in.
            round_number: the highest round of this study that any other site has seen opened. Ask the other sites,
                never the aggregator.

        Raises:
            ValueError: the number is not positive, or these files know a later round, so it cannot be the highest.
        """
        known = max(self.floor(study), self.raised_floor(study))
        if round_number < max(1, known):
            raise ValueError(
                f"round {round_number} cannot be the highest that other sites have seen: this node itself knows "
                f"round {known}"
            )
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("REPLACE INTO floor VALUES (?, ?)", (study, round_number))
            self._database.execute("REPLACE INTO restores VALUES (?, ?)", (study, round_number))

    def raised_floor(self, study: bytes) -> int:
        """The last number passed to `raise_floor`; 0 if this node was never restored."""
        row = self._database.execute("SELECT round FROM restores WHERE study = ?", (study,)).fetchone()
        return int(row[0]) if row else 0

    def attempts(self, study: bytes, state: bytes) -> int:
        """How many rounds this node has joined on this state of the model."""
        row = self._database.execute(
            "SELECT number FROM attempts WHERE study = ? AND state = ?", (study, state)
        ).fetchone()
        return int(row[0]) if row else 0

    def more_attempts(self, study: bytes, state: bytes) -> int:
        """How many extra rounds its owner has allowed on this state."""
        row = self._database.execute(
            "SELECT more FROM allowances WHERE study = ? AND state = ?", (study, state)
        ).fetchone()
        return int(row[0]) if row else 0

    def all_more_attempts(self, study: bytes) -> int:
        """How many extra rounds its owner has allowed in this study, over all states."""
        (total,) = self._database.execute("SELECT sum(more) FROM allowances WHERE study = ?", (study,)).fetchone()
        return int(total or 0)

    def tried_state(self, study: bytes) -> bytes | None:
        """The state on which this node joined last, unless it has signed for a round since, or moved on."""
        row = self._database.execute("SELECT state FROM tried WHERE study = ?", (study,)).fetchone()
        return bytes(row[0]) if row else None

    def allow_attempts(self, study: bytes, state: bytes, more: int) -> None:
        """Allow more extra rounds on a state, beside those already allowed."""
        self._database.execute(
            "INSERT INTO allowances VALUES (?1, ?2, ?3) ON CONFLICT (study, state) DO UPDATE SET more = more + ?3",
            (study, state, more),
        )

    def paused(self, study: bytes) -> str:
        """When its owner paused a study; empty if it is not paused."""
        row = self._database.execute("SELECT since FROM pauses WHERE study = ?", (study,)).fetchone()
        return str(row[0]) if row else ""

    def pause(self, study: bytes, since: str) -> str:
        """Record a pause by the owner. Returns when the study was first paused."""
        self._database.execute("INSERT OR IGNORE INTO pauses VALUES (?, ?)", (study, since))
        return self.paused(study)

    def resume(self, study: bytes) -> bool:
        """Remove the pause. Returns whether the study was paused."""
        return self._database.execute("DELETE FROM pauses WHERE study = ?", (study,)).rowcount > 0

    def join(self, study: bytes, round_number: int, state: bytes) -> None:
        """Join a round on a state: raise the floor and count the attempt, in one transaction.

        Raises:
            ValueError: the round number is not above the floor.
        """
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            cursor = self._database.execute(
                "INSERT INTO floor VALUES (?, ?) ON CONFLICT (study) DO UPDATE SET round = excluded.round "
                "WHERE excluded.round > floor.round",
                (study, round_number),
            )
            if cursor.rowcount != 1:
                raise ValueError(f"round {round_number} is not above the last round joined")
            self._database.execute(
                "INSERT INTO attempts VALUES (?, ?, 1) ON CONFLICT (study, state) DO UPDATE SET number = number + 1",
                (study, state),
            )
            self._database.execute("REPLACE INTO tried VALUES (?, ?)", (study, state))

    def lock(self, study: bytes, round_number: int, offer: bytes) -> None:
        """Store what this node is about to sign for a round: once per round, and only above every round signed before.

        Raises:
            ValueError: this node has signed for that round or a later one.
        """
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            (highest,) = self._database.execute("SELECT max(round) FROM locks WHERE study = ?", (study,)).fetchone()
            if highest is not None and highest >= round_number:
                raise ValueError(f"a statement for round {highest} has been signed already")
            self._database.execute("INSERT INTO locks VALUES (?, ?, ?)", (study, round_number, offer))
            self._database.execute("DELETE FROM tried WHERE study = ?", (study,))  # no more attempts there

    def locked(self, study: bytes, round_number: int | None = None) -> bytes | None:
        """The offer stored for a round; without a round, for the highest one."""
        row = self._database.execute(
            "SELECT offer FROM locks WHERE study = ?1 AND (?2 IS NULL OR round = ?2) ORDER BY round DESC LIMIT 1",
            (study, round_number),
        ).fetchone()
        return bytes(row[0]) if row else None

    def append_link(self, study: bytes, position: int, receipt: bytes, packed: bytes) -> None:
        """Add a receipt and its sum as the next link of the chain. No round was tried on the new state yet."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO links VALUES (?, ?, ?, ?)", (study, position, receipt, packed))
            self._database.execute("DELETE FROM tried WHERE study = ?", (study,))

    def links(self, study: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every adopted (receipt, packed sum), in order."""
        rows = self._database.execute("SELECT receipt, packed FROM links WHERE study = ? ORDER BY position", (study,))
        for receipt, packed in rows:
            yield bytes(receipt), bytes(packed)

    def ledger_sequences(self) -> dict[bytes, int]:
        """Identity key -> the largest ledger sequence number seen from that peer."""
        return {bytes(key): int(number) for key, number in self._database.execute("SELECT * FROM peers")}

    def remember_ledger_sequences(self, numbers: Mapping[bytes, int]) -> None:
        """Store the peers' ledger numbers; a peer that later shows a smaller one is refused."""
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
