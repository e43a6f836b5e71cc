"""What a node must remember across restarts, on disk before anything leaves: its round floor, its receipts, its peers.

The model's state is not stored. It follows from the study and the chain of sums, and is computed again at a restart:
what cannot be stored wrongly needs no check. Secrets of a session are never here.

A file that was put back from a copy has forgotten what it should remember, and nothing in it says so. Its owner must,
with `raise_floor`, before the node starts.
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
"""What fails where a table is another than the schema's."""


def damaged(path: Path, error: sqlite3.Error) -> UserError:
    """The error for the node's owner."""
    return UserError(
        f"{path} is not the node's memory as it was written ({error})",
        "Stop the node and keep the file; put back its newest copy, and say so with `secfed node restored`",
    )


@contextmanager
def open_store(path: Path) -> Iterator[NodeStore]:
    """A node's memory, for a command of its owner.

    Raises:
        UserError: it cannot be opened or written, or is damaged.
    """
    try:
        with NodeStore(path) as store:
            yield store
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{path} cannot be opened or written ({error})",
            "Check that it is a file, who may write it, and the space on its disk",
        ) from error
    except sqlite3.DatabaseError as error:
        raise damaged(path, error) from error


class NodeStore:
    """One node's memory: a SQLite file, every write on disk before the call returns."""

    def __init__(self, path: Path) -> None:
        """Open a node's memory, or make it.

        Raises:
            UserError: what is there is none, or is damaged.
            sqlite3.OperationalError: it cannot be opened or made.
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
        """Read through the whole file. Raises sqlite3.DatabaseError where it is damaged."""
        (told,) = self._database.execute("PRAGMA integrity_check(1)").fetchone()
        if told != "ok":
            raise sqlite3.DatabaseError(told)

    def floor(self, study: bytes) -> int:
        """The highest round number that this node ever joined; 0 before the first."""
        row = self._database.execute("SELECT round FROM floor WHERE study = ?", (study,)).fetchone()
        return int(row[0]) if row else 0

    def raise_floor(self, study: bytes, round_number: int) -> None:
        """Note that these files, or the ledger, were put back from a copy. For the node's owner, before it starts.

        The node may have joined and signed any round up to `round_number`, and no longer knows. It is held to all of
        them: it joins none of them, and signs nothing, until its chain has a receipt of `round_number` or of a later
        round. The floor never sinks.

        Args:
            study: the study's digest. A copy concerns every study that the node takes part in.
            round_number: the highest round of this study that any other site has seen opened. Ask the other sites, and
                not the aggregator.

        Raises:
            ValueError: the number is not positive, or below a round that these files know of: it cannot be the highest.
        """
        known = max(self.floor(study), self.raised_floor(study))
        if round_number < max(1, known):
            raise ValueError(
                f"round {round_number} is not the highest that other sites have seen: this node knows of round {known}"
            )
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("REPLACE INTO floor VALUES (?, ?)", (study, round_number))
            self._database.execute("REPLACE INTO restores VALUES (?, ?)", (study, round_number))

    def raised_floor(self, study: bytes) -> int:
        """The last number given to `raise_floor`; 0 if this node was never restored."""
        row = self._database.execute("SELECT round FROM restores WHERE study = ?", (study,)).fetchone()
        return int(row[0]) if row else 0

    def attempts(self, study: bytes, state: bytes) -> int:
        """How many rounds this node has joined on this state of the model."""
        row = self._database.execute(
            "SELECT number FROM attempts WHERE study = ? AND state = ?", (study, state)
        ).fetchone()
        return int(row[0]) if row else 0

    def more_attempts(self, study: bytes, state: bytes) -> int:
        """How many rounds on this state its owner has allowed beyond the usual ones."""
        row = self._database.execute(
            "SELECT more FROM allowances WHERE study = ? AND state = ?", (study, state)
        ).fetchone()
        return int(row[0]) if row else 0

    def all_more_attempts(self, study: bytes) -> int:
        """How many its owner has allowed in this study, on all states."""
        (total,) = self._database.execute("SELECT sum(more) FROM allowances WHERE study = ?", (study,)).fetchone()
        return int(total or 0)

    def tried_state(self, study: bytes) -> bytes | None:
        """The state on which this node joined last, unless it has signed for a round since, or moved on."""
        row = self._database.execute("SELECT state FROM tried WHERE study = ?", (study,)).fetchone()
        return bytes(row[0]) if row else None

    def allow_attempts(self, study: bytes, state: bytes, more: int) -> None:
        """Add to the rounds that its owner has allowed on a state beyond the usual ones."""
        self._database.execute(
            "INSERT INTO allowances VALUES (?1, ?2, ?3) ON CONFLICT (study, state) DO UPDATE SET more = more + ?3",
            (study, state, more),
        )

    def paused(self, study: bytes) -> str:
        """Since when its owner has paused a study; empty if it is not paused."""
        row = self._database.execute("SELECT since FROM pauses WHERE study = ?", (study,)).fetchone()
        return str(row[0]) if row else ""

    def pause(self, study: bytes, since: str) -> str:
        """Note that its owner pauses a study. Gives since when it is paused: from the first time on."""
        self._database.execute("INSERT OR IGNORE INTO pauses VALUES (?, ?)", (study, since))
        return self.paused(study)

    def resume(self, study: bytes) -> bool:
        """Note that it is paused no longer. Gives whether it was."""
        return self._database.execute("DELETE FROM pauses WHERE study = ?", (study,)).rowcount > 0

    def join(self, study: bytes, round_number: int, state: bytes) -> None:
        """Join a round on a state: raise the floor and count the attempt, both or neither.

        Raises:
            ValueError: the number is not above the floor.
        """
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            cursor = self._database.execute(
                "INSERT INTO floor VALUES (?, ?) ON CONFLICT (study) DO UPDATE SET round = excluded.round "
                "WHERE excluded.round > floor.round",
                (study, round_number),
            )
            if cursor.rowcount != 1:
                raise ValueError(f"round {round_number} is not above the last one joined")
            self._database.execute(
                "INSERT INTO attempts VALUES (?, ?, 1) ON CONFLICT (study, state) DO UPDATE SET number = number + 1",
                (study, state),
            )
            self._database.execute("REPLACE INTO tried VALUES (?, ?)", (study, state))

    def lock(self, study: bytes, round_number: int, offer: bytes) -> None:
        """Keep what this node is about to sign for a round: once, and only above everything signed before.

        Raises:
            ValueError: this node has signed for that round or a later one.
        """
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            (highest,) = self._database.execute("SELECT max(round) FROM locks WHERE study = ?", (study,)).fetchone()
            if highest is not None and highest >= round_number:
                raise ValueError(f"a statement for round {highest} has been signed already")
            self._database.execute("INSERT INTO locks VALUES (?, ?, ?)", (study, round_number, offer))
            self._database.execute("DELETE FROM tried WHERE study = ?", (study,))  # it joins no more on that state

    def locked(self, study: bytes, round_number: int | None = None) -> bytes | None:
        """The offer kept for a round; for the highest one when no round is given."""
        row = self._database.execute(
            "SELECT offer FROM locks WHERE study = ?1 AND (?2 IS NULL OR round = ?2) ORDER BY round DESC LIMIT 1",
            (study, round_number),
        ).fetchone()
        return bytes(row[0]) if row else None

    def append_link(self, study: bytes, position: int, receipt: bytes, packed: bytes) -> None:
        """Adopt a receipt and its sum as the next link of the chain. Nothing was tried on its new state yet."""
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
