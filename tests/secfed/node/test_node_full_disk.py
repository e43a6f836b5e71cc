"""A disk that is full, at a node: nothing leaves that is not booked, nothing breaks, and once freed it all goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from dp.bookkeeping import first_fault
from dp.errors import LedgerCorrupt, LedgerUnavailable
from dp.ledger import Ledger
from secfed.bounded_log import BoundedFile
from secfed.node.store import NodeStore
from tests.secfed.federation import Federation, FormulaTrainer, identities, make_policy, make_study
from tests.small_disk import SmallDisk, small_disk

STUDY = bytes(range(32))
SIZE = 600 << 10
ROOM = [0, 4096, 8192, 16384, 32768, 49152]
"""Bytes that a full disk has left: SQLite fails at another place with each."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", SIZE) as mounted:
        yield mounted


def open_ledger(folder: Path) -> Ledger:
    key = identities(1)[0]
    return Ledger(folder / "ledger.sqlite", lambda entry: key.sign("ledger entry", entry))


def check_whole(ledger: Ledger) -> None:
    public = identities(1)[0].public
    ledger.verify(lambda entry, signature: public.verifies(signature, "ledger entry", entry))
    assert first_fault(ledger.entries(), whole=True) is None


@pytest.mark.parametrize("room", ROOM)
def test_ledger_and_store_say_that_the_disk_is_full_and_go_on_when_it_is_not(disk: SmallDisk, room: int) -> None:
    """On the same connections: what failed is not there, and what did not is."""
    policy = make_policy()
    with open_ledger(disk.folder) as ledger, NodeStore(disk.folder / "node.sqlite") as store:
        ledger.grant(policy.budget.grant)
        ledger.reserve("test", STUDY, 1.0, 1e-6, 1000)
        disk.fill(but=room)
        booked, failed = set[int](), 0
        for number in range(1, 40):
            try:
                ledger.commit(STUDY, number)
                booked.add(number)
            except LedgerUnavailable:
                failed += 1
            with suppress(sqlite3.OperationalError):
                store.lock(STUDY, number, bytes(5000))
        assert failed
        assert {number for number in range(1, 40) if ledger.holds("commit", STUDY, number)} == booked
        disk.free()
        ledger.commit(STUDY, 40)
        store.lock(STUDY, 40, bytes(5000))
        store.check()
        check_whole(ledger)
    with open_ledger(disk.folder) as ledger:
        assert {number for number in range(1, 41) if ledger.holds("commit", STUDY, number)} == {*booked, 40}


BROKEN_OR_NOT = [
    (sqlite3.OperationalError("disk I/O error"), LedgerUnavailable),
    (sqlite3.DatabaseError("malformed"), LedgerCorrupt),
]


@pytest.mark.parametrize(("error", "said"), BROKEN_OR_NOT)
def test_a_ledger_that_cannot_be_read_for_its_disk_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: sqlite3.Error, said: type[Exception]
) -> None:
    """An owner who is told that it is may put back a copy, which has forgotten spend."""

    class Failing:
        def execute(self, *_: object) -> None:
            raise error

    with open_ledger(tmp_path) as ledger:
        monkeypatch.setattr(ledger, "_connection", Failing())
        with pytest.raises(said) as told:
            ledger.entries()
        assert type(told.value) is said
        monkeypatch.undo()


@pytest.mark.parametrize("room", ROOM)
def test_a_node_whose_disk_fills_up_in_a_round_is_a_dropout_and_comes_back(
    disk: SmallDisk, tmp_path: Path, room: int
) -> None:
    """Whatever of the rounds until then could be written: no round twice, no upload without its commit, one model."""
    federation = Federation(make_study(algorithm={"rounds": 6}), tmp_path)
    key, study = identities(5)[0], federation.study
    uploads: list[int] = []

    class Filling(FormulaTrainer):
        def contribute(self, *arguments: object) -> object:  # type: ignore[override]
            if arguments[1] == 2:
                disk.fill(but=room)
            return super().contribute(*arguments)  # type: ignore[arg-type]

    def open_node() -> None:
        ledger = Ledger(disk.folder / "ledger-0.sqlite", lambda entry: key.sign("ledger entry", entry))
        if ledger.reservation(study.digest) is None:
            ledger.grant(make_policy().budget.grant)
            ledger.reserve("test", study.digest, 8.0, 1e-5, 6)
        store = NodeStore(disk.folder / "node-0.sqlite")
        parts = replace(federation.nodes[0].parts, ledger=ledger, store=store, trainer=Filling(study, 0))
        federation.nodes[0] = type(federation.nodes[0])(study, parts)
        handle = federation.nodes[0].handle

        def handles(request: bytes) -> bytes:
            """As the node's worker: after a failure of its disk the node is opened anew on what is there."""
            try:
                answer = handle(request)
            except (sqlite3.Error, OSError, LedgerUnavailable):
                with suppress(sqlite3.Error, LedgerUnavailable):
                    open_node()
                raise
            session = federation.nodes[0].session
            if answer and session and session[1].value == "masked":
                uploads.append(session[0])
            return answer

        federation.nodes[0].handle = handles  # type: ignore[method-assign]

    class Freeing(FormulaTrainer):
        def contribute(self, *arguments: object) -> object:  # type: ignore[override]
            if arguments[1] == 4:
                disk.free()
            return super().contribute(*arguments)  # type: ignore[arg-type]

    open_node()
    last = federation.nodes[4]
    last.parts = replace(last.parts, trainer=Freeing(study, 4))
    coordinator, records = federation.run()
    assert not any(each.void for each in records), [each.reason for each in records]
    assert ["hospital-0" in each.survivors for each in records][4:] == [True, True], "in again, one round later"
    assert len(uploads) == len(set(uploads)), "no round is given to twice"
    ledger = federation.nodes[0].parts.ledger
    assert all(ledger.holds("commit", study.digest, number) for number in uploads)
    for each in records:
        if "hospital-0" in each.survivors:
            assert ledger.holds("release", study.digest, each.number) or each.number == 6
    assert len(federation.states()) == 1
    assert coordinator.chain.state.digest(coordinator.chain.layout) in federation.states()
    check_whole(ledger)


def test_no_half_line_is_left_in_a_log_by_a_full_disk(disk: SmallDisk) -> None:
    log = BoundedFile(disk.folder / "node.log")
    line = "x" * 1500
    disk.fill(but=8192)
    while log.append(line):
        pass
    disk.free()
    assert log.append("room again")
    assert set((disk.folder / "node.log").read_text().splitlines()) == {line, "room again"}
