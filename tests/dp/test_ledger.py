"""The ledger never forgets, never overspends, and shows when somebody has been at it."""

from __future__ import annotations

import hmac
import multiprocessing
import sqlite3
import stat
import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dp.budgets import Grant
from dp.errors import (
    AlreadyCommitted,
    AlreadyReleased,
    AlreadyReserved,
    BudgetExceeded,
    GrantDiffers,
    LedgerCorrupt,
    LedgerError,
    NoGrant,
    NotCommitted,
    NotReserved,
)
from dp.ledger import NOTHING_BEFORE, Ledger

KEY = b"a node's identity"
STUDY, OTHER, THIRD = (bytes([number]) * 32 for number in (1, 2, 3))
RECEIPT = bytes([9]) * 32
PATIENTS = "patients"
GRANT = Grant(PATIENTS, 1000, "10", "1e-5")


def sign(message: bytes) -> bytes:
    return hmac.digest(KEY, message, "sha256")


def check(message: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(sign(message), signature)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    ledger = Ledger(path, sign, clock=lambda: 1_800_000_000.0)
    ledger.grant(GRANT)
    return ledger


def test_a_study_that_would_overspend_is_refused_with_what_is_left(ledger: Ledger) -> None:
    ledger.reserve(PATIENTS, STUDY, "8", "5e-6", rounds=2)
    with pytest.raises(BudgetExceeded, match=r"left .* epsilon 2, delta 0\.000005"):
        ledger.reserve(PATIENTS, OTHER, "2.000000000000000000001", "1e-6", rounds=2)
    assert ledger.sequence == 2


def test_a_ledger_says_which_rounds_it_holds(ledger: Ledger) -> None:
    ledger.reserve(PATIENTS, STUDY, 1, 1e-6, rounds=3)
    ledger.commit(STUDY, 1)
    ledger.commit(STUDY, 3)
    ledger.release(STUDY, 3, RECEIPT)
    assert [ledger.holds("commit", STUDY, number) for number in (1, 2, 3)] == [True, False, True]
    assert [ledger.holds("release", STUDY, number) for number in (1, 2, 3)] == [False, False, True]
    assert not ledger.holds("commit", OTHER, 1)


def test_delta_is_a_budget_too(ledger: Ledger) -> None:
    ledger.reserve(PATIENTS, STUDY, "1", "9e-6", rounds=2)
    with pytest.raises(BudgetExceeded):
        ledger.reserve(PATIENTS, OTHER, "1", "1.1e-6", rounds=2)


def test_the_whole_budget_can_be_spent_to_the_last_decimal(ledger: Ledger) -> None:
    for number in range(100):
        ledger.reserve(PATIENTS, bytes([number]) * 32, 0.1, 1e-7, rounds=1)
    balance = ledger.balance(PATIENTS)
    assert (balance.left_epsilon, balance.left_delta) == (0, 0)
    assert (balance.reserved_epsilon, balance.reserved_delta) == (Decimal(10), Decimal("1e-5"))
    with pytest.raises(BudgetExceeded):
        ledger.reserve(PATIENTS, THIRD * 2, "1e-30", "1e-30", rounds=1)


def test_refusal_says_the_same_as_reserve_and_writes_nothing(ledger: Ledger) -> None:
    assert ledger.refusal(GRANT, STUDY, 10, 1e-5) is None
    reason = ledger.refusal(GRANT, STUDY, 10.1, 1e-5)
    assert ledger.sequence == 1
    with pytest.raises(BudgetExceeded) as refused:
        ledger.reserve(PATIENTS, STUDY, 10.1, 1e-5, rounds=1)
    assert str(refused.value) == reason


def test_without_a_grant_nothing_can_be_reserved(path: Path) -> None:
    with Ledger(path, sign) as ledger, pytest.raises(NoGrant):
        ledger.reserve(PATIENTS, STUDY, 1, 1e-6, rounds=1)


def test_the_same_grant_again_changes_nothing_and_another_is_refused(ledger: Ledger) -> None:
    ledger.grant(Grant(PATIENTS, 1000, Decimal("10.0"), 1e-5))
    assert ledger.sequence == 1
    for epsilon, delta in [("11", "1e-5"), ("10", "2e-5")]:
        with pytest.raises(GrantDiffers, match="granted once"):
            ledger.grant(Grant(PATIENTS, 1000, epsilon, delta))
    assert ledger.balance(PATIENTS).granted_epsilon == 10


def test_a_study_is_reserved_once(ledger: Ledger) -> None:
    ledger.reserve(PATIENTS, STUDY, 1, 1e-6, rounds=2)
    with pytest.raises(AlreadyReserved):
        ledger.reserve(PATIENTS, STUDY, 1, 1e-6, rounds=2)
    assert ledger.refusal(GRANT, STUDY, 1, 1e-6) is not None


def test_a_round_is_committed_only_within_a_reservation_and_once(ledger: Ledger) -> None:
    with pytest.raises(NotReserved):
        ledger.commit(STUDY, 1)
    ledger.reserve(PATIENTS, STUDY, 1, 1e-6, rounds=2)
    ledger.commit(STUDY, 1)
    with pytest.raises(AlreadyCommitted):
        ledger.commit(STUDY, 1)
    with pytest.raises(NotReserved):
        ledger.commit(OTHER, 1)


def test_no_more_rounds_are_committed_than_were_reserved(ledger: Ledger) -> None:
    ledger.reserve(PATIENTS, STUDY, 1, 1e-6, rounds=2)
    ledger.commit(STUDY, 4)
    ledger.commit(STUDY, 7)
    with pytest.raises(NotReserved, match="all 2 rounds"):
        ledger.commit(STUDY, 8)


def test_a_lost_round_stays_spent(ledger: Ledger, path: Path) -> None:
    ledger.reserve(PATIENTS, STUDY, 4, 1e-6, rounds=2)
    ledger.commit(STUDY, 1)
    ledger.close()  # the node dies before any release
    with Ledger(path, sign) as again:
        assert again.balance(PATIENTS).left_epsilon == 6
        with pytest.raises(AlreadyCommitted):
            again.commit(STUDY, 1)


def test_a_release_follows_its_commit_once_and_keeps_the_receipt(ledger: Ledger) -> None:
    ledger.reserve(PATIENTS, STUDY, 4, 1e-6, rounds=2)
    with pytest.raises(NotCommitted):
        ledger.release(STUDY, 1, RECEIPT)
    ledger.commit(STUDY, 1)
    ledger.release(STUDY, 1, RECEIPT)
    with pytest.raises(AlreadyReleased):
        ledger.release(STUDY, 1, RECEIPT)
    last = ledger.entries()[-1]
    assert (last.kind, last.body["receipt"], last.time) == ("release", RECEIPT.hex(), "2027-01-15T08Z")


def test_entries_are_numbered_chained_and_signed(ledger: Ledger) -> None:
    assert ledger.head == ledger.entries()[0].digest
    ledger.reserve(PATIENTS, STUDY, 4, 1e-6, rounds=2)
    ledger.commit(STUDY, 1)
    assert [(entry.sequence, entry.kind) for entry in ledger.entries()] == [
        (1, "grant"),
        (2, "reserve"),
        (3, "commit"),
    ]
    assert ledger.sequence == 3
    assert ledger.head == ledger.entries()[-1].digest
    ledger.verify(check)


def test_an_empty_ledger_has_nothing_in_it(path: Path) -> None:
    with Ledger(path, sign) as ledger:
        assert (ledger.sequence, ledger.head, ledger.entries()) == (0, NOTHING_BEFORE, ())
        assert ledger.balance(PATIENTS).left_epsilon == 0


def test_two_ledgers_with_the_same_history_have_different_entries(tmp_path: Path) -> None:
    heads = set()
    for name in ("one", "two"):
        with Ledger(tmp_path / name, sign, clock=lambda: 0.0) as ledger:
            ledger.grant(GRANT)
            heads.add(ledger.head)
    assert len(heads) == 2


@pytest.mark.parametrize(
    "statement", ["UPDATE entries SET body = body", "DELETE FROM entries", "DELETE FROM entries WHERE sequence = 1"]
)
def test_the_database_refuses_to_change_or_remove_an_entry(ledger: Ledger, path: Path, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        sqlite3.connect(path).execute(statement)


TAMPERING = {
    "a cheaper study": ("UPDATE entries SET body = replace(body, '\"4\"', '\"1\"') WHERE sequence = 2", 2),
    "an entry gone": ("DELETE FROM entries WHERE sequence = 2", 2),
    "the first entry gone": ("DELETE FROM entries WHERE sequence = 1", 1),
    "a digest changed": ("UPDATE entries SET digest = zeroblob(32) WHERE sequence = 3", 3),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_found_and_the_first_bad_entry_named(ledger: Ledger, path: Path, name: str) -> None:
    ledger.reserve(PATIENTS, STUDY, 4, 1e-6, rounds=2)
    ledger.commit(STUDY, 1)
    ledger.close()
    statement, bad_entry = TAMPERING[name]
    with sqlite3.connect(path) as database:
        database.execute("DROP TRIGGER entries_never_change")
        database.execute("DROP TRIGGER entries_never_go")
        assert database.execute(statement).rowcount == 1
    with Ledger(path, sign) as again:
        for read in (again.entries, lambda: again.balance(PATIENTS), lambda: again.verify(check)):
            with pytest.raises(LedgerCorrupt, match=f"entry {bad_entry} "):
                read()
        with pytest.raises(LedgerCorrupt):
            again.reserve(PATIENTS, OTHER, 1, 1e-6, rounds=1)


def test_an_entry_that_the_node_did_not_sign_is_found(ledger: Ledger, path: Path) -> None:
    with Ledger(path, lambda message: bytes(32)) as forger:
        forger.reserve(PATIENTS, STUDY, 1, 1e-6, rounds=1)
    ledger.commit(STUDY, 1)
    with pytest.raises(LedgerCorrupt, match=r"entry 2 .* not signed by this node"):
        ledger.verify(check)


def test_a_file_that_is_no_ledger_is_refused(path: Path) -> None:
    path.write_bytes(b"something else entirely, and long enough to look at" * 100)
    with pytest.raises(LedgerCorrupt, match="not a ledger"):
        Ledger(path, sign)


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="nowhere"):
        Ledger(tmp_path / "nowhere" / "ledger.sqlite", sign)


def test_only_the_owner_can_read_a_ledger(ledger: Ledger, path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_signing_error_writes_nothing(path: Path) -> None:
    def broken(message: bytes) -> bytes:
        raise RuntimeError("the key is gone")

    with Ledger(path, broken) as ledger:
        with pytest.raises(RuntimeError):
            ledger.grant(GRANT)
        assert ledger.sequence == 0


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0, 1e-5), (-1, 1e-5), ("nan", 1e-5), ("inf", 1e-5), ("much", 1e-5), (1, 0), (1, 1), (1, "-1e-5"), ("1e99", 1e-5)],
)
def test_amounts_out_of_range_are_refused(ledger: Ledger, epsilon: Any, delta: Any) -> None:
    with pytest.raises(ValueError, match=r"not|amount"):
        ledger.reserve(PATIENTS, STUDY, epsilon, delta, rounds=1)
    assert ledger.sequence == 1


def test_a_ledger_that_another_process_is_making_is_waited_for(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE made (first)")
    other.execute("BEGIN IMMEDIATE")  # for a lock of this kind SQLite itself does not wait when it turns to WAL
    ends = threading.Timer(0.3, other.execute, ["COMMIT"])
    ends.start()
    with Ledger(path, sign) as ledger:
        ledger.grant(GRANT)
        assert ledger.sequence == 1
    ends.join()
    other.close()


def _try_to_reserve(path: Path, study: bytes, start: Any, outcomes: Any) -> None:
    with Ledger(path, sign) as ledger:
        start.wait()
        try:
            ledger.reserve(PATIENTS, study, 6, 1e-6, rounds=1)
            outcomes.put("reserved")
        except BudgetExceeded:
            outcomes.put("refused")


def test_two_processes_cannot_both_take_the_last_of_the_budget(ledger: Ledger, path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, outcomes = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=_try_to_reserve, args=(path, bytes([number]) * 32, start, outcomes), daemon=True)
        for number in range(4)
    ]
    for process in processes:
        process.start()
    found = sorted(outcomes.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert found == ["refused", "refused", "refused", "reserved"]
    ledger.verify(check)
    assert ledger.sequence == 2


def test_entries_tell_the_hour_and_nothing_finer(path: Path) -> None:
    """They are handed on: what is written when training ends must not tell when it ended."""
    moment = [0.0]
    with Ledger(path, sign, clock=lambda: 1_800_000_000.0 + moment[0]) as ledger:
        ledger.grant(GRANT)
        ledger.reserve(PATIENTS, STUDY, 4, 1e-6, rounds=2)
        for number, seconds in ((1, 3.0), (2, 3599.0)):
            moment[0] = seconds
            ledger.commit(STUDY, number)
        assert {entry.time for entry in ledger.entries()} == {"2027-01-15T08Z"}
        assert not any("08:" in str(entry.body) for entry in ledger.entries())


def test_an_entry_has_an_id_that_nobody_can_guess_so_that_its_digest_hides_its_text(ledger: Ledger) -> None:
    for number in range(20):
        ledger.grant(replace(GRANT, population=f"group {number}", disjoint="The registry"))
    ids = {entry.body["id"] for entry in ledger.entries()}
    assert len(ids) == ledger.sequence >= 20
    assert {len(bytes.fromhex(each)) for each in ids} == {16}
    assert len({each[:4] for each in ids}) > 10


def test_a_ledger_of_another_format_is_refused_and_left_as_it_is(ledger: Ledger, path: Path) -> None:
    ledger.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 0")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="is of format 1, which another version of this software wrote"):
        Ledger(path, sign)
    assert path.read_bytes() == before
