"""An aggregator that stops anywhere goes on where it was: no number twice, no receipt lost, one model at all nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocols import sharing
from protocols.errors import ProtocolError
from protocols.receipts import Receipt
from secfed.aggregator import journal as journal_module
from secfed.aggregator.coordinator import Coordinator
from secfed.aggregator.journal import Journal, Past
from secfed.aggregator.records import RoundRecord
from secfed.engines.embedded.channel import EmbeddedChannel, Simulation
from secfed.errors import UserError
from secfed.files.figures import whole_minutes
from secfed.reports.folder import JOURNAL, receipt_file, sum_file
from tests.protocols.dealers import dealing, other_sealed_share
from tests.secfed.federation import Federation, FormulaTrainer, make_study


class Stopped(BaseException):
    """The process is gone: nothing catches this."""


class Stopping:
    """A channel whose coordinator stops at one exchange, before or after the nodes have had it."""

    def __init__(self, channel: EmbeddedChannel, at: int, after: bool) -> None:
        self.channel, self.at, self.after, self.count = channel, at, after, 0
        self.rounds: list[int] = []

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        if stage == "advertise":
            self.rounds.append(round_number)
        stops, self.count = self.count == self.at, self.count + 1
        if stops and not self.after:
            raise Stopped
        answers = self.channel.exchange(requests, round_number=round_number, stage=stage)
        if stops:
            raise Stopped
        return answers


def start(federation: Federation, folder: Path, at: int = -1, after: bool = False) -> tuple[Coordinator, Stopping]:
    """A coordinator on its folder, as after any stop."""
    journal = Journal(folder)
    channel = Stopping(EmbeddedChannel(federation.nodes, Simulation(), lambda name, reason: None), at, after)
    coordinator = Coordinator(
        federation.study,
        FormulaTrainer.layout,
        FormulaTrainer.first_state(),
        channel,
        show=federation.events.append,
        keep=journal.keep,
        epsilon_by_round=tuple(map(float, range(1, 4))),
        opens=journal.open_round,
        closes=journal.close_round,
    )
    past = journal.read(federation.study, coordinator.chain.shape.packed_bytes)
    coordinator.resume(past.links, past.records)
    return coordinator, channel


def federation_in(folder: Path) -> Federation:
    (folder / "nodes").mkdir()
    return Federation(make_study(algorithm={"rounds": 3}), folder / "nodes")


def past_of(federation: Federation, folder: Path) -> Past:
    return Journal(folder).read(federation.study, federation.nodes[0].chain.shape.packed_bytes)


def check_end(federation: Federation, folder: Path, coordinator: Coordinator, records: list[RoundRecord]) -> list[bool]:
    """What must hold however often the coordinator stopped. Which rounds came to nothing."""
    states = federation.states()
    assert states == {coordinator.chain.state.digest(coordinator.chain.layout)}
    assert [record.number for record in records] == [1, 2, 3]
    for record in records:
        assert (folder / receipt_file(record.number)).exists() == (not record.void)
        assert (folder / sum_file(record.number)).exists() == (not record.void)
        assert bool(record.receipt_digest) == (not record.void)
        assert record.void or len(record.survivors) == 5
    written = [replace(record, seconds=whole_minutes(record.seconds)) for record in records]
    assert list(past_of(federation, folder).records) == written
    return [record.void for record in records]


EXCHANGES = 22
"""More than three rounds and the closing have."""


@pytest.mark.sweep
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_coordinator_that_stops_at_any_exchange_goes_on_where_it_was(after: bool, tmp_path: Path) -> None:
    stops, seen = 0, set()
    for at in range(EXCHANGES):
        folder = tmp_path / str(at)
        folder.mkdir()
        federation = federation_in(folder)
        coordinator, channel = start(federation, folder, at, after)
        try:
            coordinator.run()
        except Stopped:
            stops += 1
        coordinator, again = start(federation, folder)
        records = coordinator.run()
        assert not set(channel.rounds) & set(again.rounds), "no number is opened twice"
        seen.add(tuple(check_end(federation, folder, coordinator, records)))
    assert 15 < stops < EXCHANGES, "the last ones come after the end"
    # At most the round in which it stopped is void, and, where that was finished late, the number used up by it.
    assert (False, False, False) in seen
    assert (True, False, False) in seen
    assert all(sum(voids) <= 1 for voids in seen)


@pytest.mark.sweep
@pytest.mark.parametrize("write", ["open_round", "sum", "receipt", "close_round"])
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_coordinator_that_stops_at_any_write_goes_on_where_it_was(
    write: str, number: int, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = federation_in(tmp_path)
    with monkeypatch.context() as patched:
        stop_at(write, number, after, patched)
        coordinator, _ = start(federation, tmp_path)
        with pytest.raises(Stopped):
            coordinator.run()
    coordinator, _ = start(federation, tmp_path)
    voids = check_end(federation, tmp_path, coordinator, coordinator.run())
    # Numbers in use: one that was noted and never opened, and one that a late ending uses up.
    assert sum(voids) == (write == "open_round" and after) + (number < 3 and written_late(write, after))


def written_late(write: str, after: bool) -> bool:
    """Whether the nodes hold signatures for a round whose receipt was not written."""
    return write == "sum" or (write == "receipt" and not after)


def stop_at(write: str, number: int, after: bool, patched: pytest.MonkeyPatch) -> None:
    """Let the coordinator stop at this write of this round."""
    owner: Any = Journal if write in {"open_round", "close_round"} else journal_module
    name = write if owner is Journal else "write_whole"
    real: Callable[..., None] = getattr(owner, name)

    def stopping(*arguments: Any) -> None:
        wanted = {
            "open_round": arguments[-1] == number,
            "close_round": getattr(arguments[-1], "number", None) == number,
            "sum": str(arguments[0]).endswith(sum_file(number)),
            "receipt": str(arguments[0]).endswith(receipt_file(number)),
        }[write]
        if not wanted or after:
            real(*arguments)
        if wanted:
            raise Stopped

    patched.setattr(owner, name, stopping)


def test_without_a_memory_the_nodes_join_nothing_any_more(tmp_path: Path) -> None:
    """What the journal is for: numbers start again, and every node is above them."""
    federation = federation_in(tmp_path)
    start(federation, tmp_path)[0].run()
    (tmp_path / "other").mkdir()
    forgetful, _ = start(federation, tmp_path / "other")
    assert [record.void for record in forgetful.run()] == [True] * 3


def test_a_rounds_number_is_on_disk_before_anything_of_it_leaves(tmp_path: Path) -> None:
    federation = federation_in(tmp_path)
    coordinator, channel = start(federation, tmp_path)
    exchange = channel.exchange
    noted = []

    def watched(requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        noted.append(past_of(federation, tmp_path).opened == round_number)
        return exchange(requests, round_number=round_number, stage=stage)

    channel.exchange = watched  # type: ignore[method-assign]
    coordinator.run()
    assert all(noted)
    assert len(noted) > 15


def test_records_come_back_as_they_were_claims_and_all(tmp_path: Path) -> None:
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        federation = federation_in(tmp_path)
        coordinator, _ = start(federation, tmp_path)
        records = coordinator.run()
    assert all(record.faults for record in records)
    assert [record.faults for record in past_of(federation, tmp_path).records] == [record.faults for record in records]


def test_a_line_that_was_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    federation = federation_in(tmp_path)
    start(federation, tmp_path)[0].run()
    path = tmp_path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    past = past_of(federation, tmp_path)
    assert past.opened == 3
    assert not past.records[2].void  # its receipt says so
    assert "once its receipt was written" in past.records[2].reason
    Journal(tmp_path).open_round(4)
    assert past_of(federation, tmp_path).opened == 4
    assert json.loads(path.read_bytes().splitlines()[-1]) == {"opened": 4}


def test_a_sum_without_its_receipt_is_removed(tmp_path: Path) -> None:
    """As a crash between the two leaves it: the round is not noted as finished, either."""
    federation = federation_in(tmp_path)
    start(federation, tmp_path)[0].run()
    (tmp_path / receipt_file(3)).unlink()
    journal = tmp_path / JOURNAL
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert len(past_of(federation, tmp_path).links) == 2
    assert not (tmp_path / sum_file(3)).exists()


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    """The verifier takes every file in a run's folder at its word."""
    federation = federation_in(tmp_path)
    start(federation, tmp_path)[0].run()
    left = [(tmp_path / place).with_name(".0004.part") for place in (receipt_file(1), sum_file(1))]
    for path in left:
        path.write_bytes(b"half")
    assert len(past_of(federation, tmp_path).links) == 3
    assert not any(path.exists() for path in left)


def test_a_damaged_receipt_is_named(tmp_path: Path) -> None:
    federation = federation_in(tmp_path)
    start(federation, tmp_path)[0].run()
    path = tmp_path / receipt_file(2)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"0002\.cbor was changed, or is not a receipt"):
        past_of(federation, tmp_path)


def test_a_receipt_of_another_chain_is_refused(tmp_path: Path) -> None:
    federation = federation_in(tmp_path)
    start(federation, tmp_path)[0].run()
    (link, *_) = past_of(federation, tmp_path).links
    statement = replace(link.receipt.statement, new_state=bytes(32))
    Journal(tmp_path).keep(Receipt(statement, link.receipt.signatures), link.vector)
    with pytest.raises(ProtocolError, match="signatures"):
        start(federation, tmp_path)
