"""Nodes and coordinator over whole studies: one model everywhere, and what nodes refuse."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from protocols.errors import ProtocolError, RemoteError, WrongSession
from protocols.messages import Opening
from protocols.wire import decode, encode, fields_of
from secfed.rounds.channel import Link, RoundOpening, Standing
from secfed.rounds.events import NodeAbsent, RoundFailed
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
        assert kinds == ["grant", "reserve", "run", "commit", *["release", "commit"] * 3, "release"]


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


def test_a_node_that_never_gets_any_further_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says to every header that it stands at the beginning, whatever it was sent."""
    federation = Federation(make_study(), tmp_path)
    stuck, asked = federation.nodes[4], itertools.count(1)
    behind = encode(Standing(4, 0, stuck.chain.state.digest(stuck.chain.layout)))

    def handle(request: bytes) -> bytes:
        assert next(asked) < 100, "it is asked without end"
        return behind

    monkeypatch.setattr(stuck, "handle", handle)
    _, records = federation.run()
    assert [record.void for record in records] == [False] * 4
    assert not any("hospital-4" in record.survivors for record in records)


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
    answer = decode(Standing, node.handle(encode(RoundOpening((), other))), node.chain.limits, 1)
    assert (answer.sender, answer.round_number) == (1, 0)
    assert node.parts.store.floor(federation.study.digest) == 0


def test_a_sum_other_than_the_receipts_is_not_adopted(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(4, 1, "advertise"),))
    coordinator = federation.coordinator()
    coordinator.run_round(1)
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
    coordinator.run_round(1)
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
    coordinator.run_round(1)
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
