"""Nodes and coordinator over whole studies: weighted averages, dropouts, catching up, crashes, refusals."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from protocols.client import Client
from protocols.errors import BadSignature, LocalError, ProtocolError, RemoteError, WrongSession
from protocols.messages import Advertise, Cohort, Opening, Published, Signature
from protocols.receipts import SIGNING_LABEL, Receipt, Statement
from protocols.wire import decode, encode, fields_of, message_type
from secfed.channel import EchoRequest, Link, Offer, RoundOpening, Standing, StudyClosing
from secfed.coordinator import Coordinator
from secfed.engines.embedded import Cut
from secfed.node import Node
from secfed.progress import NodeAbsent, RoundFailed
from tests.secfed.federation import Federation, cut, make_study


def expected_states(federation: Federation, survivors_by_round: list[list[int]]) -> np.ndarray:
    """FedAvg by hand, with Python integers for the sums."""
    study = federation.study
    state = federation.trainers[0].first_state()
    for number, survivors in enumerate(survivors_by_round, start=1):
        encoded = []
        for node in survivors:
            encoded.append(federation.trainers[node].vector(state, number).tolist())
        total = [sum(column) for column in zip(*encoded, strict=True)]
        scale = 2.0**study.privacy.fraction_bits * sum(study.weights[node] for node in survivors)
        adapter = np.array(
            [float(old) + value / scale for old, value in zip(state.adapter, total, strict=True)], dtype=np.float64
        )
        state = type(state)(adapter.astype(np.float32))
    return state.adapter


def test_every_node_ends_with_the_weighted_average_bit_for_bit(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator, records = federation.run()
    everybody = list(range(5))
    assert [record.void for record in records] == [False] * 4
    assert coordinator.chain.state.adapter.tolist() == expected_states(federation, [everybody] * 4).tolist()
    assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}
    for node in federation.nodes:
        kinds = [entry.kind for entry in node.parts.ledger.entries()]
        assert kinds == ["grant", "reserve", *["commit"] * 1, *["release", "commit"] * 3, "release"]


@pytest.mark.parametrize("stage", ["share", "masked input", "agree", "unmask", "close"])
def test_a_node_cut_off_at_any_stage_comes_back_and_holds_the_same_model(tmp_path: Path, stage: str) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(2, 2, stage),))
    coordinator, records = federation.run()
    assert not any(record.void for record in records)
    assert records[1].dropped == (("hospital-2", stage),)
    in_the_sum = stage in ("agree", "unmask", "close")
    assert ("hospital-2" in records[1].survivors) == in_the_sum
    assert records[2].survivors == records[0].survivors
    survivors = [0, 1, 2, 3, 4] if in_the_sum else [0, 1, 3, 4]
    expected = expected_states(federation, [[0, 1, 2, 3, 4], survivors, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]])
    assert coordinator.chain.state.adapter.tolist() == expected.tolist()
    assert len(federation.states()) == 1


def test_a_node_away_for_rounds_catches_up_from_receipts_and_sums(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(4, 2, "advertise"), cut(4, 3, "advertise")))
    _, records = federation.run()
    assert [len(record.cohort) for record in records] == [5, 4, 4, 5]
    assert len(federation.states()) == 1
    assert federation.trainers[4].trained == [1, 4]


def test_a_node_away_in_the_last_round_still_gets_the_final_model(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(4, 4, "advertise"),))
    federation.run()
    assert len(federation.states()) == 1


def test_a_void_round_leaves_the_model_and_keeps_the_spend(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(0, 2, "agree"), cut(1, 2, "agree")))
    coordinator, records = federation.run()
    assert [record.void for record in records] == [False, True, False, False]
    assert any(isinstance(event, RoundFailed) for event in federation.events)
    assert coordinator.chain.length == 3
    assert len(federation.states()) == 1
    assert len(federation.kept) == 3
    for node in federation.nodes:
        kinds = [entry.kind for entry in node.parts.ledger.entries()]
        assert kinds.count("commit") == 4
        assert kinds.count("release") == 3


def test_a_node_restarted_between_rounds_computes_its_state_again(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    federation.run()
    before = federation.nodes[3].chain.state.adapter.tolist()
    again = federation.start_node(3)
    assert again.chain.state.adapter.tolist() == before
    assert again.chain.head == federation.nodes[3].chain.head


def opening_of(federation: Federation, round_number: int) -> RoundOpening:
    return RoundOpening((), federation.coordinator().chain.context(round_number).opening())


def test_a_round_number_is_joined_once_even_after_a_crash(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    opening = encode(opening_of(federation, 1))
    federation.nodes[0].handle(opening)
    restarted = federation.start_node(0)
    with pytest.raises(WrongSession, match="not the next"):
        restarted.handle(opening)


@pytest.mark.parametrize("number", [0, 5, 2**52])
def test_a_round_number_outside_the_study_is_refused(tmp_path: Path, number: int) -> None:
    federation = Federation(make_study(), tmp_path)
    with pytest.raises(WrongSession, match="round_number"):
        federation.nodes[0].handle(encode(opening_of(federation, number)))


def test_a_node_that_is_told_another_predecessor_says_where_it_stands(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    opening = opening_of(federation, 1)
    other = Opening(**{**fields_of(opening.opening), "predecessor": bytes(32)})
    node = federation.nodes[1]
    answer = decode(Standing, node.handle(encode(RoundOpening((), other))), node._limits, 1)
    assert (answer.sender, answer.round_number) == (1, 0)
    assert node.parts.store.floor(federation.study.digest) == 0


def test_a_sum_other_than_the_receipts_is_not_adopted(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(4, 1, "advertise"),))
    coordinator = federation.coordinator()
    coordinator._run_round(1)
    link = coordinator.links[0]
    forged = bytes([link.vector[0] ^ 1]) + link.vector[1:]
    opening = coordinator.chain.context(2).opening()
    node = federation.nodes[4]
    with pytest.raises(RemoteError, match="not the sum"):
        node.handle(encode(RoundOpening((Link(link.receipt, forged),), opening)))
    assert node.chain.length == 0


def test_a_receipt_with_too_few_signatures_is_not_adopted(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(4, 1, "advertise"),))
    coordinator = federation.coordinator()
    coordinator._run_round(1)
    link = coordinator.links[0]
    thin = type(link.receipt)(link.receipt.statement, link.receipt.signatures[:3])
    opening = coordinator.chain.context(2).opening()
    with pytest.raises(ProtocolError, match="3 valid signatures where 4"):
        federation.nodes[4].handle(encode(RoundOpening((Link(thin, link.vector),), opening)))


def test_a_ledger_that_refuses_makes_a_dropout_and_uploads_nothing(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    federation.nodes[2].parts.ledger.commit(federation.study.digest, 1)  # as if round 1 had been uploaded before
    _, records = federation.run()
    assert records[0].dropped == (("hospital-2", "masked input"),)
    assert federation.refusals[0][0] == "hospital-2"


def test_reasons_for_refusing_stay_with_the_owner(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    federation.nodes[2].parts.ledger.commit(federation.study.digest, 1)
    federation.run()
    (absence,) = [event for event in federation.events if isinstance(event, NodeAbsent)]
    assert absence.reason == "no answer"


def test_a_node_commits_before_it_uploads(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    node = federation.nodes[0]
    order: list[str] = []
    ledger_commit = node.parts.ledger.commit
    node.parts.ledger.commit = lambda *a: (order.append("commit"), ledger_commit(*a))[1]  # type: ignore[method-assign]

    class Watching:
        def exchange(self, requests, *, round_number, stage):  # type: ignore[no-untyped-def]
            answers = {}
            for index, request in requests.items():
                answers[index] = federation.nodes[index].handle(request)
                if index == 0 and stage == "masked input":
                    order.append("upload")
            return answers

    coordinator = federation.coordinator()
    coordinator._channel = Watching()
    coordinator._run_round(1)
    assert order == ["commit", "upload"]


def test_nothing_about_true_counts_is_in_any_message(tmp_path: Path) -> None:
    """Two nodes with different data send messages of the same sizes: sizes follow from roster and vector alone."""
    federation = Federation(make_study(), tmp_path)
    _, records = federation.run()
    ups = list(records[0].bytes_up.values())
    # Pair seeds go to later nodes only: sizes fall by one seed envelope from node to node.
    steps = {earlier - later for earlier, later in itertools.pairwise(ups)}
    assert len(steps) <= 2
    assert records[0].bytes_up == records[2].bytes_up


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
    assert node._client is not None
    return node._client


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
    coordinator._run_round(1)
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
    coordinator._run_round(1)
    node = federation.nodes[2]
    opening = RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(2).opening())
    node.handle(encode(opening))
    forgetful = node.parts.ledger
    forgetful.holds = lambda kind, study, number: False  # type: ignore[method-assign]
    before = forgetful.sequence
    assert Node(federation.study, node.parts).chain.round_number == 1
    assert forgetful.sequence == before


def test_a_session_ends_when_what_it_asks_for_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peers' ledger numbers could not be written down: the same cohort again gets no answer."""
    federation = Federation(make_study(), tmp_path)
    coordinator = federation.coordinator()
    node = federation.nodes[0]
    opening = encode(RoundOpening((), coordinator.chain.context(1).opening()))
    entries = tuple(decode(Advertise, each.handle(opening), each._limits, None) for each in federation.nodes)
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


def cut_closing(federation: Federation, round_number: int) -> Coordinator:
    """Run up to a round in which nodes 0 and 1 never see the sum, and no receipt is made."""
    federation.cuts = closing_cut_short(round_number, 0, 1)
    coordinator = federation.coordinator()
    for number in range(1, round_number + 1):
        coordinator._run_round(number)
    return coordinator


def test_a_locked_node_joins_nothing_on_an_older_predecessor(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    opening = RoundOpening((Link(coordinator.links[0].receipt, b""),), coordinator.chain.context(3).opening())
    node = federation.nodes[4]
    offer = decode(Offer, node.handle(encode(opening)), node._limits, 4)
    assert offer.statement.round_number == 2
    assert node.parts.store.floor(federation.study.digest) == 2
    restarted = federation.start_node(4)
    assert decode(Offer, restarted.handle(encode(opening)), node._limits, 4) == offer


def test_a_node_without_the_lock_would_fork_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack that the lock stops: withhold round 2, run round 3 on round 1, then show both receipts."""
    monkeypatch.setattr(Node, "_unfinished", lambda node: None)
    federation = Federation(make_study(), tmp_path)
    coordinator = cut_closing(federation, 2)
    coordinator._finish_late = lambda offers, number: False  # type: ignore[method-assign]
    federation.cuts = ()
    coordinator._channel = federation.coordinator()._channel
    record = coordinator._run_round(3)
    assert not record.void
    statement = coordinator.links[-1].receipt.statement
    assert statement.predecessor == coordinator.links[0].receipt.digest()
    signed = [
        decode(Offer, node.parts.store.locked(federation.study.digest, 2) or b"", node._limits, None)
        for node in federation.nodes[2:]
    ]
    assert len(signed) == 3  # and three of them had signed round 2 on the same predecessor


def echo_request(federation: Federation, coordinator: Coordinator, signers: tuple[int, ...]) -> EchoRequest:
    nodes = federation.nodes
    offers = {
        node: decode(
            Offer, nodes[node].parts.store.locked(federation.study.digest, 2) or b"", nodes[node]._limits, node
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
    answer = decode(Offer, node.handle(encode(EchoRequest(other, honest.vector, honest.signatures))), node._limits, 2)
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
    assert node._client is not None
    live = node._client
    node._adopt((Link(coordinator.links[0].receipt, b""),))
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
    record = coordinator._run_round(1)
    assert record.dropped == (("hospital-0", "close"),)
    assert federation.refusals == [("hospital-0", "database or disk is full")]
    with pytest.raises(ProtocolError):
        handle(requests[0])
