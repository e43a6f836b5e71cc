"""Rounds whose closing is cut short: locked, echoed, finished late, and never twice."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from protocols.client import Client
from protocols.errors import BadSignature, LocalError, ProtocolError, WrongSession
from protocols.messages import Advertise, Cohort, Published, Signature
from protocols.receipts import SIGNING_LABEL, Receipt, Statement
from protocols.wire import decode, encode, fields_of, message_type
from secfed.aggregator.coordinator import Coordinator
from secfed.engines.embedded.channel import Cut
from secfed.node import locks
from secfed.node.node import Node
from secfed.rounds.channel import EchoRequest, Link, Offer, RoundOpening, StudyClosing
from tests.secfed.federation import Federation, cut, make_study


def closing_cut_short(round_number: int, *nodes: int) -> tuple[Cut, ...]:
    """The sum never reaches these nodes: too few signatures for a receipt."""
    return tuple(cut(node, round_number, "close") for node in nodes)


def test_a_round_whose_closing_was_cut_short_is_finished_at_the_next_opening(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=closing_cut_short(2, 0, 1))
    coordinator, records = federation.run()
    assert [record.void for record in records] == [False, False, True, False]
    assert "finished later" in records[1].reason
    assert "used up" in records[2].reason
    assert [receipt.statement.round_number for receipt, _ in federation.kept] == [1, 2, 4]
    assert coordinator.chain.length == 3
    assert len(federation.states()) == 1


def test_the_last_round_is_finished_by_the_closing_header(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=closing_cut_short(4, 0, 1))
    coordinator, records = federation.run()
    assert [record.void for record in records] == [False] * 4
    assert coordinator.chain.round_number == 4
    assert len(federation.states()) == 1


def join_round_three(node: Node, coordinator: Coordinator) -> Client:
    """Open round 3 on the receipt of round 1 to a node that has not signed round 2. Its session."""
    opening = RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(3).opening())
    assert message_type(node.handle(encode(opening)), 1 << 20, 0) == "advertise"
    assert node._session.client is not None
    return node._session.client


class LosingOnce:
    """Loses the sum on its way to these nodes the first time that it is sent."""

    def __init__(self, federation: Federation, nodes: set[int]) -> None:
        self._inner = federation.coordinator()._channel
        self._nodes = nodes

    def exchange(self, requests, *, round_number, stage):  # type: ignore[no-untyped-def]
        lost = self._nodes if stage == "close" else set()
        self._nodes = self._nodes - lost
        kept = {node: request for node, request in requests.items() if node not in lost}
        return self._inner.exchange(kept, round_number=round_number, stage=stage)


def test_one_lost_sum_does_not_end_a_study_whose_other_nodes_could_not_go_on(tmp_path: Path) -> None:
    """One node has signed and is locked: it is no more than the colluders may be, and all five are needed."""
    study = make_study(cohort={"tolerated_dropouts": 0, "minimum": 5})
    federation = Federation(study, tmp_path)
    coordinator = federation.coordinator()
    coordinator._channel = LosingOnce(federation, {0, 1, 2, 3})
    assert [record.void for record in coordinator.run()] == [False] * 4
    assert len(federation.states()) == 1


def test_without_the_repetition_that_study_would_be_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Coordinator, "_repeat_sum", lambda *arguments: None)
    federation = Federation(make_study(cohort={"tolerated_dropouts": 0, "minimum": 5}), tmp_path)
    coordinator = federation.coordinator()
    coordinator._channel = LosingOnce(federation, {0, 1, 2, 3})
    assert [record.void for record in coordinator.run()] == [True] * 4


def test_a_session_ends_when_its_node_adopts_a_receipt(tmp_path: Path) -> None:
    """It was joined on the state before: it would train, and sign, on another."""
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    node = federation.nodes[0]
    live = join_round_three(node, coordinator)
    signed = echo_request(federation, coordinator, (2, 3, 4))
    quorum = tuple(
        Signature(member, federation.nodes[member].parts.identity.sign(SIGNING_LABEL, signed.statement.digest()))
        for member in (1, 2, 3, 4)
    )
    node.handle(encode(StudyClosing((Link(Receipt(signed.statement, quorum), signed.vector),))))
    assert node.chain.round_number == 2
    with pytest.raises(LocalError, match="failed"):
        live.receive(b"")


def test_a_release_that_a_crash_prevented_is_made_up_for_at_the_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    node = federation.nodes[2]

    def crash(*arguments: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(node.parts.ledger, "release", crash)
    opening = RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(2).opening())
    with pytest.raises(OSError, match="power cut"):
        node.handle(encode(opening))
    monkeypatch.undo()
    assert not node.parts.ledger.holds("release", federation.study.digest, 1)
    again = federation.start_node(2)
    assert again.chain.round_number == 1
    assert again.parts.ledger.holds("release", federation.study.digest, 1)


def test_a_restart_makes_up_for_no_release_of_a_round_that_the_ledger_does_not_know(tmp_path: Path) -> None:
    """A ledger put back from a copy: the node starts, and its peers refuse the shorter ledger."""
    federation = Federation(make_study(), tmp_path)
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    node = federation.nodes[2]
    opening = RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(2).opening())
    node.handle(encode(opening))
    forgetful = node.parts.ledger
    forgetful.holds = lambda kind, study, number: False  # type: ignore[method-assign]
    before = forgetful.sequence
    assert Node(federation.study, node.parts).chain.round_number == 1
    assert forgetful.sequence == before


def test_a_node_goes_by_no_receipt_that_it_could_not_write_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would train on a state that it no longer knows after a restart."""
    federation = Federation(make_study(), tmp_path)
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    node = federation.nodes[2]

    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(node.parts.store, "append_link", full)
    closing = encode(StudyClosing((Link(coordinator.links[0].receipt, b""),)))
    with pytest.raises(sqlite3.OperationalError):
        node.handle(closing)
    assert node.chain.round_number == 0
    monkeypatch.undo()
    node.handle(closing)
    assert node.chain.round_number == 1


def test_a_session_ends_when_what_it_asks_for_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers' ledger numbers could not be written down: the same cohort again gets no answer."""
    federation = Federation(make_study(), tmp_path)
    coordinator = federation.coordinator()
    node = federation.nodes[0]
    opening = encode(RoundOpening((), coordinator.chain.context(1).opening()))
    entries = tuple(decode(Advertise, each.handle(opening), each.chain.limits, None) for each in federation.nodes)
    cohort = encode(Cohort(entries))

    def full(*arguments: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(node.parts.store, "remember_ledger_sequences", full)
    with pytest.raises(sqlite3.OperationalError):
        node.handle(cohort)
    monkeypatch.undo()
    with pytest.raises(LocalError, match="failed"):
        node.handle(cohort)


def test_too_few_signatures_for_an_echo_leave_the_round_void(tmp_path: Path) -> None:
    """One node signed: it might be the colluder. The others go on, and it follows their receipt."""
    federation = Federation(make_study(), tmp_path, cuts=closing_cut_short(2, 0, 1, 2, 3))
    coordinator, records = federation.run()
    assert [record.void for record in records] == [False, True, False, False]
    assert records[2].dropped[0] == ("hospital-4", "advertise")
    assert coordinator.chain.length == 3
    assert len(federation.states()) == 1


def test_an_offer_by_a_node_that_is_no_survivor_spoils_no_receipt(tmp_path: Path) -> None:
    """A dishonest node signs a statement of a round that it was not in, and offers it like the others."""
    cuts = (cut(0, 2, "masked input"), *closing_cut_short(2, 1))
    federation = Federation(make_study(), tmp_path, cuts=cuts)
    liar, signer = federation.nodes[0], federation.nodes[4]
    handle = liar.handle

    def lying(request: bytes) -> bytes:
        offer = signer.parts.store.locked(federation.study.digest)
        if offer is None or message_type(request, 1 << 20, None) != RoundOpening.TYPE:
            return handle(request)
        seen = decode(Offer, offer, signer.chain.limits, None)
        signature = liar.parts.identity.sign(SIGNING_LABEL, seen.statement.digest())
        return encode(Offer(**{**fields_of(seen), "sender": 0, "signature": signature}))

    liar.handle = lying  # type: ignore[method-assign]
    coordinator, records = federation.run()
    assert "finished later" in records[1].reason
    assert 0 not in {entry.signer for entry in coordinator.links[1].receipt.signatures}


def cut_closing(federation: Federation, round_number: int) -> Coordinator:
    """Run up to a round in which nodes 0 and 1 never see the sum, and no receipt is made."""
    federation.cuts = closing_cut_short(round_number, 0, 1)
    coordinator = federation.coordinator()
    for number in range(1, round_number + 1):
        coordinator.run_round(number)
    return coordinator


def test_a_locked_node_joins_nothing_on_an_older_predecessor(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    opening = RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(3).opening())
    node = federation.nodes[4]
    offer = decode(Offer, node.handle(encode(opening)), node.chain.limits, 4)
    assert offer.statement.round_number == 2
    assert node.parts.store.floor(federation.study.digest) == 2
    restarted = federation.start_node(4)
    assert decode(Offer, restarted.handle(encode(opening)), node.chain.limits, 4) == offer


def test_a_node_without_the_lock_would_fork_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack that the lock stops: withhold round 2, run round 3 on round 1, then show both receipts."""
    monkeypatch.setattr(locks, "unfinished", lambda parts, chain: None)
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    coordinator._finish_late = lambda offers, number: False  # type: ignore[method-assign]
    federation.cuts = ()
    coordinator._channel = federation.coordinator()._channel
    record = coordinator.run_round(3)
    assert not record.void
    statement = coordinator.links[-1].receipt.statement
    assert statement.predecessor == coordinator.links[0].receipt.digest()
    signed = [
        decode(Offer, node.parts.store.locked(federation.study.digest, 2) or b"", node.chain.limits, None)
        for node in federation.nodes[2:]
    ]
    assert len(signed) == 3  # and three of them had signed round 2 on the same predecessor


def echo_request(federation: Federation, coordinator: Coordinator, signers: tuple[int, ...]) -> EchoRequest:
    nodes = federation.nodes
    offers = {
        node: decode(
            Offer, nodes[node].parts.store.locked(federation.study.digest, 2) or b"", nodes[node].chain.limits, node
        )
        for node in signers
    }
    first = offers[signers[0]]
    signatures = tuple(Signature(node, offer.signature) for node, offer in offers.items())
    return EchoRequest(first.statement, first.vector, signatures)


def test_an_echo_needs_more_signatures_than_there_may_be_colluders(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    node = federation.nodes[0]
    node.handle(
        encode(RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(3).opening()))
    )
    with pytest.raises(BadSignature, match="needs 2"):
        node.handle(encode(echo_request(federation, coordinator, (3,))))


def test_a_node_signs_one_statement_for_a_round(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    honest = echo_request(federation, coordinator, (2, 3, 4))
    other = Statement(**{**fields_of(honest.statement), "new_state": bytes(32)})
    node = federation.nodes[2]
    answer = decode(
        Offer, node.handle(encode(EchoRequest(other, honest.vector, honest.signatures))), node.chain.limits, 2
    )
    assert answer.statement == honest.statement


def test_an_echo_of_a_wrong_state_is_refused(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    node = federation.nodes[0]
    opening = RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(3).opening())
    node.handle(encode(opening))
    honest = echo_request(federation, coordinator, (2, 3, 4))
    other = Statement(**{**fields_of(honest.statement), "new_state": bytes(32)})
    with pytest.raises(WrongSession, match="does not lead to the state"):
        node.handle(encode(EchoRequest(other, honest.vector, honest.signatures)))


def test_after_an_echo_the_open_session_of_that_round_is_gone(tmp_path: Path) -> None:
    """Or the aggregator could show it another sum and get a second signature for the same round."""
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    node = federation.nodes[0]
    assert node._session.client is not None
    live = node._session.client
    node._catch_up((Link(coordinator.links[0].receipt, b""),))
    node.handle(encode(echo_request(federation, coordinator, (2, 3, 4))))
    with pytest.raises(LocalError, match="failed"):
        live.receive(b"")


def test_an_echo_ends_the_open_session_of_a_later_round_too(tmp_path: Path) -> None:
    """That session stands on the predecessor that the echoed round has: to sign both would fork the chain."""
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    node = federation.nodes[0]
    live = join_round_three(node, coordinator)
    node.handle(encode(echo_request(federation, coordinator, (2, 3, 4))))
    with pytest.raises(LocalError, match="failed"):
        live.receive(b"")


def test_a_locked_node_echoes_no_later_round_on_an_older_predecessor(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    signed = echo_request(federation, coordinator, (4,))
    later = {"round_number": 3, "context": coordinator.chain.context(3).digest()}
    statement = Statement(**{**fields_of(signed.statement), **later})
    keys = [node.parts.identity for node in federation.nodes]
    signatures = tuple(Signature(node, keys[node].sign(SIGNING_LABEL, statement.digest())) for node in (0, 1))
    node = federation.nodes[4]
    with pytest.raises(WrongSession, match="passes over a round"):
        node.handle(encode(EchoRequest(statement, signed.vector, signatures)))
    assert node.parts.store.locked(federation.study.digest, 3) is None


def test_a_node_stops_after_three_attempts_on_one_state(tmp_path: Path) -> None:
    study = make_study(algorithm={"rounds": 6})
    cuts = tuple(cut(node, number, "agree") for number in range(1, 6) for node in (0, 1))
    federation = Federation(study, tmp_path, cuts=cuts)
    _, records = federation.run()
    assert all(record.void for record in records)
    assert [len(record.cohort) for record in records] == [5, 5, 5, 0, 0, 0]
    assert {reason for _, reason in federation.refusals if "stops here" in reason}


def test_a_signature_that_could_not_be_written_down_never_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(make_study(), tmp_path)
    node = federation.nodes[0]
    requests: list[bytes] = []
    handle = node.handle

    def full_disk(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    def watch(request: bytes) -> bytes:
        if message_type(request, 1 << 20, None) == Published.TYPE:
            requests.append(request)
            monkeypatch.setattr(node.parts.store, "lock", full_disk)
        return handle(request)

    monkeypatch.setattr(node, "handle", watch)
    coordinator = federation.coordinator()
    record = coordinator.run_round(1)
    assert record.dropped == (("hospital-0", "close"),)
    assert federation.refusals == [("hospital-0", "database or disk is full")]
    with pytest.raises(ProtocolError):
        handle(requests[0])
