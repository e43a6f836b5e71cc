"""The ledger: what one node has promised and spent of its patients' privacy budget, and what was published.

A study reserves its whole cost before it starts. The node commits each round before its upload leaves, and releases the
round when the receipt arrives. A crash at any point leaves the spend counted. Only a study without a committed round
can be withdrawn, and gives its reservation back. Before the first commit in a process, the ledger records how the node
runs the study. When the study is over, an entry closes it, with the totals of its population. The copy that is then
handed on shows no other study (`dp.ledger_copy`). Across studies epsilon and delta add up (basic composition, Dwork and
Roth 2014, theorem 3.16), exactly, in decimals, never as floats. `dp.budgets` says whose budget it is, and how large it
may be.

One SQLite table, append-only: triggers refuse UPDATE and DELETE, every entry holds the digest of the one before it, and
every entry is signed by the node. The chain shows a changed or removed entry in the middle. Peers, who remember
`sequence`, notice a missing end (a restored backup). The journal is in WAL mode with synchronous=FULL: a commit is on
disk before the upload leaves. Every change is one exclusive transaction, so two processes cannot both take the last of
the budget.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from dp.budgets import Grant, grant_problem, granted, reservation_problem, study_problem
from dp.entries import (
    FORMAT,
    NOTHING_BEFORE,
    Amount,
    Balance,
    Entry,
    balance_of,
    content_digest,
    delta_amount,
    entry_digest,
    entry_text,
    epsilon_amount,
    find,
    hour_of,
    shown,
    totals_of,
)
from dp.errors import (
    AlreadyCommitted,
    AlreadyReleased,
    AnotherFormat,
    LedgerCorrupt,
    LedgerUnavailable,
    NotCommitted,
    NotReserved,
)
from dp.sqlite_file import open_durable

Sign: TypeAlias = Callable[[bytes], bytes]
"""Signs a message with the node's identity key."""
Check: TypeAlias = Callable[[bytes, bytes], bool]
"""Whether a signature (second) of a message (first) is the node's."""

_NAME_BYTES_MAX = 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY,
    body TEXT NOT NULL,
    digest BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;
CREATE TRIGGER IF NOT EXISTS entries_never_change BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_never_go BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'a ledger is append-only'); END;
"""


class Ledger:
    """One node's ledger, in one file. Use it as a context manager, or call `close`.

    Args:
        path: the file; created if it does not exist, readable only by its owner.
        sign: signs each new entry's digest; the caller adds the domain separation.
        clock: seconds since the epoch.

    Raises:
        LedgerError: the file cannot be opened or made, or another version of this software wrote it.
        LedgerCorrupt: the file is not a ledger.
    """

    def __init__(self, path: Path, sign: Sign, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._sign = sign
        self._clock = clock
        try:
            self._connection = open_durable(path, _SCHEMA)
            self._settle_format()
        except sqlite3.OperationalError as error:
            raise LedgerUnavailable(f"{path} cannot be opened ({error}): check its folder and disk") from error
        except sqlite3.DatabaseError as error:
            raise LedgerCorrupt(f"{path} is not a ledger ({error}): restore it from its newest copy") from error

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def close(self) -> None:
        """Close the file; the ledger cannot be used afterwards."""
        self._connection.close()

    def grant(self, grant: Grant) -> None:
        """Set a population's whole budget, once. The same grant again changes nothing.

        Raises:
            GrantDiffers: another budget was granted to this population before.
            NotDisjoint: the ledger belongs to another population, and nobody attests that no patient is in both.
        """
        with self._transaction() as entries:
            problem = grant_problem(entries, grant)
            if problem is not None:
                raise problem
            if granted(entries, grant.population) is None:
                self._append(entries, {"kind": "grant", **grant.body()})

    def refusal(self, grant: Grant, study: bytes, epsilon: Amount, delta: Amount) -> str | None:
        """Why this cannot be granted and then reserved, or None. Writes nothing."""
        return refusal(self.entries(), grant, study, epsilon, delta)

    def reserve(self, population: str, study: bytes, epsilon: Amount, delta: Amount, rounds: int) -> None:
        """Set aside all that a study may ever spend, before it starts.

        Args:
            population: whose patients it is trained on, as granted.
            study: the study's digest.
            epsilon: the cost of the whole study, by its plan.
            delta: likewise.
            rounds: how many rounds this pays for; the ledger refuses to commit more.

        Raises:
            ValueError: an amount is out of range.
            NoGrant, AlreadyReserved, BudgetExceeded: it cannot be reserved; the text says what to do.
        """
        name, cost, slack = _name(study), epsilon_amount(epsilon), delta_amount(delta)
        if rounds < 1:
            raise ValueError(f"a number of rounds is at least 1, not {rounds}")
        with self._transaction() as entries:
            problem = reservation_problem(entries, population, name, cost, slack)
            if problem is not None:
                raise problem
            amounts = {"epsilon": str(cost), "delta": str(slack), "rounds": rounds}
            self._append(entries, {"kind": "reserve", "population": population, "study": name, **amounts})

    def withdraw(self, study: bytes) -> None:
        """Give a study's reservation back, for good. Possible only before the study commits its first round.

        Nothing of a study leaves its node before the first commit, and from now on the study cannot commit. If a round
        is under way, the coins and noise that it has drawn are only in the memory of a session that cannot finish. Do
        not use this on a ledger restored from a copy: a commit may be missing from it.

        Raises:
            NotReserved: the study has no reservation.
            AlreadyCommitted: a round of it has been committed, and may have left.
        """
        name = _name(study)
        with self._transaction() as entries:
            self._reservation(entries, name)
            if find(entries, "commit", name) is not None:
                raise AlreadyCommitted(
                    f"study {name[:16]} has committed a round, whose update may have left: its whole budget is spent, "
                    "and does not come back"
                )
            self._append(entries, {"kind": "withdraw", "study": name})

    def commit(self, study: bytes, round_number: int) -> None:
        """Record that a round's update is about to leave. It counts as spent from here on, whatever follows.

        Raises:
            NotReserved: the study has no reservation, or has committed all the rounds that it reserved.
            AlreadyCommitted: this round was committed before; a round is never attempted twice.
        """
        name = _name(study)
        with self._transaction() as entries:
            reservation = self._reservation(entries, name)
            if find(entries, "commit", name, round_number) is not None:
                raise AlreadyCommitted(
                    f"round {round_number} of study {name[:16]} is already committed, and a round is attempted "
                    "once: wait for the next round"
                )
            committed = sum(entry.kind == "commit" and entry.body["study"] == name for entry in entries)
            if committed >= reservation.body["rounds"]:
                raise NotReserved(
                    f"study {name[:16]} has used all {committed} rounds that it reserved: "
                    "longer training is a new study with a reservation of its own"
                )
            self._append(entries, {"kind": "commit", "study": name, "round": round_number})

    def release(self, study: bytes, round_number: int, receipt: bytes) -> None:
        """Record that a round's sum was published, with the digest of its receipt.

        Raises:
            NotCommitted: this round was never committed here.
            AlreadyReleased: its receipt is already recorded.
        """
        name = _name(study)
        with self._transaction() as entries:
            if find(entries, "commit", name, round_number) is None:
                raise NotCommitted(f"round {round_number} of study {name[:16]} was never committed at this node")
            if find(entries, "release", name, round_number) is not None:
                raise AlreadyReleased(f"round {round_number} of study {name[:16]} is already released")
            body = {"kind": "release", "study": name, "round": round_number, "receipt": _name(receipt)}
            self._append(entries, body)

    def run(self, study: bytes, facts: Mapping[str, str | int]) -> None:
        """Record how this node runs a study from now on. Recording the same facts again changes nothing.

        Args:
            study: the study's digest.
            facts: the fields of a `run` entry (`dp.ledger_copy`).
        """
        body = {"kind": "run", "study": _name(study), **facts}
        with self._transaction() as entries:
            last = next((entry.body for entry in reversed(entries) if _is("run", study, entry)), {})
            if {name: last.get(name) for name in body} != body:
                self._append(entries, body)

    def close_study(self, study: bytes, round_number: int, state: bytes) -> None:
        """Record that this node joins no further round of a study, with its last round and state, and the population's
        totals.

        Closing it again at the same round and state changes nothing.

        Args:
            study: the study's digest.
            round_number: the round of the last receipt that the node has adopted; 0 if there is none.
            state: the digest of the state that the node holds.

        Raises:
            NotReserved: the study was never reserved here.
        """
        name = _name(study)
        with self._transaction() as entries:
            reservation = find(entries, "reserve", name)
            if reservation is None:
                raise NotReserved(f"study {name[:16]} has reserved no budget here")
            own = [entry for entry in entries if shown(entry, name, reservation.body["population"])]
            place = {"kind": "close", "study": name, "round": round_number, "state": _name(state)}
            if {key: own[-1].body.get(key) for key in place} == place:
                return
            population = str(reservation.body["population"])
            totals = totals_of(entries, population).body()
            self._append(entries, {**place, "population": population, "lines": len(own), **totals})

    def is_closed(self, study: bytes) -> bool:
        """Whether this node joins no further round of a study."""
        return any(_is("close", study, entry) for entry in self.entries())

    def holds(self, kind: Literal["commit", "release"], study: bytes, round_number: int) -> bool:
        """Whether a round's commit (or release) is recorded."""
        return find(self.entries(), kind, _name(study), round_number) is not None

    def reservation(self, study: bytes) -> Entry | None:
        """The study's reservation; None if it has none, or was withdrawn."""
        entries, name = self.entries(), _name(study)
        return None if find(entries, "withdraw", name) is not None else find(entries, "reserve", name)

    @property
    def sequence(self) -> int:
        """The number of entries. It never falls; peers remember it."""
        return len(self.entries())

    @property
    def head(self) -> bytes:
        """The last entry's digest; 32 zero bytes for an empty ledger."""
        entries = self.entries()
        return entries[-1].digest if entries else NOTHING_BEFORE

    def balance(self, population: str) -> Balance:
        """What was granted to a population, what is reserved, and what is left. Zero if nothing was granted."""
        return balance_of(self.entries(), population)

    def entries(self) -> tuple[Entry, ...]:
        """All entries in order. Checks their chain.

        Raises:
            LedgerCorrupt: an entry does not continue the chain.
        """
        try:
            rows = self._connection.execute(
                "SELECT sequence, body, digest, signature FROM entries ORDER BY sequence"
            ).fetchall()
        except sqlite3.OperationalError as error:
            raise LedgerUnavailable(f"{self._path} cannot be read ({error}): check its disk") from error
        except sqlite3.DatabaseError as error:
            raise LedgerCorrupt(f"{self._path} cannot be read ({error}): restore it from its newest copy") from error
        entries: list[Entry] = []
        for position, (sequence, text, digest, signature) in enumerate(rows, start=1):
            before = entries[-1].digest if entries else NOTHING_BEFORE
            if sequence != position or digest != entry_digest(before, position, content_digest(text)):
                raise LedgerCorrupt(
                    f"entry {position} of {self._path} is not what was written: it was changed, or one before it "
                    "is gone. Stop, keep the file as evidence, and restore its newest copy"
                )
            body = json.loads(text)
            entries.append(Entry(sequence, body["kind"], body["time"], body, digest, signature))
        return tuple(entries)

    def verify(self, check: Check) -> None:
        """Check the whole chain and every signature.

        Args:
            check: whether a signature of a message is this node's.

        Raises:
            LedgerCorrupt: the text names the first bad entry.
        """
        for entry in self.entries():
            if not check(entry.digest, entry.signature):
                raise LedgerCorrupt(
                    f"entry {entry.sequence} of {self._path} is not signed by this node: it was written by "
                    "somebody else, or the node's identity key was replaced. Stop and keep the file as evidence"
                )

    def _settle_format(self) -> None:
        """Mark a new file with this format. Raises LedgerError for a file of another format."""
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        (entries,) = self._connection.execute("SELECT count(*) FROM entries").fetchone()
        if found == 0 and entries == 0:
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")
        elif found != FORMAT:
            self._connection.close()
            raise AnotherFormat(
                f"the ledger {self._path} is of format {found or 1}, which another version of this software wrote, and "
                f"this one writes format {FORMAT}: nothing was changed",
                "Finish its studies with the version that began them; for further ones start a new ledger, and grant "
                "it what the old one has left and no more",
            )

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Entry, ...]]:
        """The entries, while nobody else can write; a clean exit commits the entries appended inside the block."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise LedgerUnavailable(
                f"{self._path} cannot be written ({error}): end the other process that holds it, or check its disk"
            ) from error
        try:
            yield self.entries()
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:  # on a full disk SQLite has already rolled it back
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise LedgerUnavailable(f"{self._path} cannot be written ({error}): check its disk") from error
            raise

    @staticmethod
    def _reservation(entries: tuple[Entry, ...], study: str) -> Entry:
        """The study's reservation. Raises NotReserved."""
        reservation = find(entries, "reserve", study)
        if reservation is None:
            raise NotReserved(f"study {study[:16]} has reserved no budget: approve it at this node first")
        if find(entries, "withdraw", study) is not None:
            raise NotReserved(f"study {study[:16]} was withdrawn at this node: start a new study for it")
        return reservation

    def _append(self, entries: tuple[Entry, ...], body: dict[str, Any]) -> None:
        sequence = len(entries) + 1
        # The random id prevents guessing a text from its digest.
        text = entry_text({**body, "id": os.urandom(16).hex(), "time": hour_of(self._clock())})
        digest = entry_digest(entries[-1].digest if entries else NOTHING_BEFORE, sequence, content_digest(text))
        self._connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?)", (sequence, text, digest, self._sign(digest))
        )


def refusal(entries: tuple[Entry, ...], grant: Grant, study: bytes, epsilon: Amount, delta: Amount) -> str | None:
    """Why a ledger of these entries would refuse this grant, or then this study; None if it accepts both."""
    problem = study_problem(entries, grant, _name(study), epsilon_amount(epsilon), delta_amount(delta))
    return None if problem is None else str(problem)


def _is(kind: str, study: bytes, entry: Entry) -> bool:
    return entry.kind == kind and bool(entry.body["study"] == _name(study))


def _name(digest: bytes) -> str:
    if not 1 <= len(digest) <= _NAME_BYTES_MAX:
        raise ValueError(f"a digest has 1 to {_NAME_BYTES_MAX} bytes, not {len(digest)}")
    return digest.hex()
