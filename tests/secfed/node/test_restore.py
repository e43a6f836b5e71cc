"""A node whose files were put back from a copy: what it must not do, and how it comes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from protocols.errors import LocalError
from protocols.wire import decode, encode
from secfed.aggregator.coordinator import Coordinator
from secfed.engines.embedded.channel import Cut
from secfed.node import books
from secfed.node.store import NodeStore
from secfed.rounds.channel import EchoRequest, Offer, RoundOpening, StudyClosing
from tests.secfed.federation import Federation, cut, make_study

NODE = 0
STUDY = bytes(range(32))


@pytest.fixture
def store(tmp_path: Path) -> NodeStore:
    return NodeStore(tmp_path / "node.sqlite")


def after(tmp_path: Path, rounds: int, cuts: tuple[Cut, ...] = ()) -> tuple[Federation, Coordinator]:
    """A federation that has played some rounds. Node 0 was copied before them, has stopped and is put back."""
    federation = Federation(make_study(algorithm={"rounds": 6}), tmp_path, cuts=cuts)
    names = (f"ledger-{NODE}.sqlite", f"node-{NODE}.sqlite")
    stop(federation)
    for name in names:
        shutil.copy(tmp_path / name, tmp_path / f"{name}.copy")
    federation.nodes[NODE] = federation.start_node(NODE)
    coordinator = federation.coordinator()
    for number in range(1, rounds + 1):
        coordinator.run_round(number)
    stop(federation)
    for name in names:
        shutil.copy(tmp_path / f"{name}.copy", tmp_path / name)
    federation.nodes[NODE] = federation.start_node(NODE)
    return federation, coordinator


def stop(federation: Federation) -> None:
    federation.nodes[NODE].parts.store.close()
    federation.nodes[NODE].parts.ledger.close()


def raise_floor(federation: Federation, number: int) -> None:
    federation.nodes[NODE].parts.store.raise_floor(federation.study.digest, number)


def closing(coordinator: Coordinator) -> bytes:
    return encode(StudyClosing(tuple(coordinator.links)))


def commits(federation: Federation) -> list[int]:
    entries = federation.nodes[NODE].parts.ledger.entries()
    return [entry.body["round"] for entry in entries if entry.kind == "commit"]


def test_a_raised_floor_outlives_a_restart_and_never_sinks(store: NodeStore, tmp_path: Path) -> None:
    assert store.raised_floor(STUDY) == 0
    store.raise_floor(STUDY, 4)
    store.raise_floor(STUDY, 4)
    store.close()
    with NodeStore(tmp_path / "node.sqlite") as again:
        assert (again.floor(STUDY), again.raised_floor(STUDY)) == (4, 4)
        assert (again.floor(bytes(32)), again.raised_floor(bytes(32))) == (0, 0)
        with pytest.raises(ValueError, match="itself knows round 4"):
            again.raise_floor(STUDY, 3)
        assert (again.floor(STUDY), again.raised_floor(STUDY)) == (4, 4)


@pytest.mark.parametrize("number", [-1, 0])
def test_a_floor_is_raised_to_a_round(store: NodeStore, number: int) -> None:
    with pytest.raises(ValueError, match="cannot be the highest"):
        store.raise_floor(STUDY, number)


def test_a_floor_below_a_round_that_the_copy_knows_is_refused(store: NodeStore) -> None:
    store.join(STUDY, 2, bytes(32))
    with pytest.raises(ValueError, match="itself knows round 2"):
        store.raise_floor(STUDY, 1)


def test_a_node_restored_unnoticed_stops_at_the_first_receipt_that_counts_it_and_stays_there(tmp_path: Path) -> None:
    federation, coordinator = after(tmp_path, 2)
    for _ in range(3):
        with pytest.raises(LocalError, match="took part in round 1, and its files do not know of it"):
            federation.nodes[NODE].handle(closing(coordinator))
    assert federation.nodes[NODE].chain.length == 0
    federation.nodes[NODE] = federation.start_node(NODE)
    with pytest.raises(LocalError, match="raise this node's floor"):
        federation.nodes[NODE].handle(closing(coordinator))


def test_a_node_whose_database_alone_was_restored_stops_too(tmp_path: Path) -> None:
    federation, coordinator = after(tmp_path, 1)
    ledger = federation.nodes[NODE].parts.ledger
    ledger.commit(federation.study.digest, 1)
    ledger.release(federation.study.digest, 1, bytes(32))
    with pytest.raises(LocalError, match="its files do not know of it"):
        federation.nodes[NODE].handle(closing(coordinator))
    raise_floor(federation, 1)
    federation.nodes[NODE].handle(closing(coordinator))
    assert federation.nodes[NODE].chain.length == 1
    assert commits(federation) == [1]


def test_a_node_with_a_raised_floor_commits_anew_what_receipts_show_and_takes_part_again(tmp_path: Path) -> None:
    federation, coordinator = after(tmp_path, 2)
    raise_floor(federation, 2)
    record = coordinator.run_round(3)
    assert "hospital-0" in record.survivors
    assert commits(federation) == [1, 2, 3]
    coordinator.close_study()
    assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}


def test_a_round_behind_the_raised_floor_is_no_excuse_for_a_later_one(tmp_path: Path) -> None:
    federation, coordinator = after(tmp_path, 2)
    raise_floor(federation, 1)
    with pytest.raises(LocalError, match="took part in round 2"):
        federation.nodes[NODE].handle(closing(coordinator))


def test_a_void_round_at_the_raised_floor_keeps_the_node_out_until_the_others_have_passed_it(tmp_path: Path) -> None:
    cuts = (cut(1, 2, "share"), cut(2, 2, "share"))  # round 2 is void
    federation, coordinator = after(tmp_path, 2, cuts=cuts)
    raise_floor(federation, 2)
    joined = [coordinator.run_round(number).cohort for number in (3, 4)]
    assert ["hospital-0" in cohort for cohort in joined] == [False, True]


@pytest.mark.parametrize("commits_anew", [True, False])
def test_peers_take_a_restored_node_back_because_it_commits_what_it_may_have_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits_anew: bool
) -> None:
    """No receipt shows the void rounds 1, 2 and 4, but the peers have seen the length of a ledger that held them."""
    void = tuple(cut(node, number, "agree") for number in (1, 2, 4) for node in (1, 2))
    federation, coordinator = after(tmp_path, 5, cuts=void)
    raise_floor(federation, 5)
    if not commits_anew:
        monkeypatch.setattr(books, "commit_forgotten", lambda study, parts: None)
    record = coordinator.run_round(6)
    assert record.void != commits_anew
    assert commits(federation) == ([3, 5, 1, 2, 4, 6] if commits_anew else [3, 5])


def test_a_node_with_a_raised_floor_joins_nothing_on_an_older_predecessor(tmp_path: Path) -> None:
    """It may have signed round 1: with its lock forgotten, round 2 on the same predecessor would be a fork."""
    federation, _ = after(tmp_path, 1)
    second = encode(RoundOpening((), federation.coordinator().chain.context(2).opening()))
    raise_floor(federation, 1)
    with pytest.raises(LocalError, match="until there is a receipt of that round"):
        federation.nodes[NODE].handle(second)
    assert federation.nodes[NODE].parts.store.floor(federation.study.digest) == 1


def test_without_the_raised_floor_a_restored_node_joins_on_an_older_predecessor(tmp_path: Path) -> None:
    federation, _ = after(tmp_path, 1)
    second = encode(RoundOpening((), federation.coordinator().chain.context(2).opening()))
    assert federation.nodes[NODE].handle(second)


@pytest.mark.parametrize("raised", [True, False])
def test_a_node_with_a_raised_floor_co_signs_nothing_that_it_may_have_signed(tmp_path: Path, raised: bool) -> None:
    federation, coordinator = after(tmp_path, 1)
    node, link = federation.nodes[NODE], coordinator.links[0]
    request = encode(EchoRequest(link.receipt.statement, link.vector, link.receipt.signatures))
    if raised:
        raise_floor(federation, 1)
        with pytest.raises(LocalError, match="takes no part"):
            node.handle(request)
        assert node.parts.store.locked(federation.study.digest) is None
    else:
        assert decode(Offer, node.handle(request), node.chain.limits, NODE).statement == link.receipt.statement


def test_after_a_receipt_of_the_raised_floor_a_node_is_like_any_other(tmp_path: Path) -> None:
    federation, coordinator = after(tmp_path, 1)
    raise_floor(federation, 1)
    node = federation.nodes[NODE]
    node.handle(encode(RoundOpening(tuple(coordinator.links), coordinator.chain.context(2).opening())))
    assert node.parts.store.floor(federation.study.digest) == 2
    assert federation.start_node(NODE).chain.length == 1
