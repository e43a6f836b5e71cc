"""A ledger is handed over when its study is over, with that study, and not before; and then the study is over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dp.ledger import Ledger
from dp.ledger_copy import LedgerCopy, copy_for, write_copy
from protocols.errors import LocalError, ProtocolError, WrongSession
from protocols.wire import encode
from secfed.aggregator.coordinator import Coordinator
from secfed.aggregator.handover import read_handover
from secfed.engines.embedded.channel import Cut
from secfed.node.answers import handover
from secfed.node.node import Node
from secfed.node.policy import PacePolicy
from secfed.rounds.channel import Link, RoundOpening, StudyClosing
from secfed.rounds.handover import Handover, HandoverRequest
from secfed.rounds.run_facts import EMBEDDED, RunFacts
from secfed.study.signing import entry_signer
from tests.secfed.federation import Federation, cut, make_study
from tests.secfed.rounds.test_closings import cut_closing

OTHER = bytes([7]) * 32


def asked(node: Node) -> bytes:
    return handover(node, encode(HandoverRequest(node.study.digest)))


def handed_over(node: Node) -> LedgerCopy:
    end = read_handover(node.study, node.index, asked(node))
    assert end is not None
    return end.copy


def after_round_one(folder: Path) -> tuple[Federation, Coordinator]:
    federation = Federation(make_study(), folder)
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    return federation, coordinator


def opening(coordinator: Coordinator, number: int) -> bytes:
    return encode(RoundOpening(tuple(coordinator.links[-1:]), coordinator.chain.context(number).opening()))


def test_no_ledger_is_handed_over_before_the_study_is_closed(tmp_path: Path) -> None:
    federation, coordinator = after_round_one(tmp_path)
    node = federation.nodes[0]
    with pytest.raises(WrongSession, match="the study is not over here"):
        asked(node)
    node.handle(opening(coordinator, 2))
    with pytest.raises(WrongSession, match="the study is not over here"):
        asked(node)


def test_a_closing_that_names_another_last_receipt_closes_nothing(tmp_path: Path) -> None:
    federation, coordinator = after_round_one(tmp_path)
    first = coordinator.links[0]
    coordinator.run_round(2)
    node = federation.nodes[0]
    node.handle(opening(coordinator, 3))  # the node has adopted round 2
    for links in ((), (Link(first.receipt, b""),)):
        node.handle(encode(StudyClosing(links)))
        with pytest.raises(WrongSession, match="the study is not over here"):
            asked(node)
    assert "hospital-0" in coordinator.run_round(4).survivors


def test_whoever_closes_a_study_to_see_a_ledger_gets_no_further_round(tmp_path: Path) -> None:
    federation, coordinator = after_round_one(tmp_path)
    node = federation.nodes[0]
    node.handle(encode(StudyClosing(tuple(coordinator.links))))
    assert handed_over(node).closing["round"] == 1
    with pytest.raises(WrongSession, match="a round of a study that was closed"):
        node.handle(opening(coordinator, 2))
    node.parts.ledger.close()
    node.parts.store.close()
    with pytest.raises(WrongSession, match="a round of a study that was closed"):  # a restart forgets nothing
        federation.start_node(0).handle(opening(coordinator, 2))


def test_an_owner_is_told_once_that_the_study_ends_and_of_an_early_end_what_to_ask(tmp_path: Path) -> None:
    federation, coordinator = after_round_one(tmp_path)
    node, told = federation.nodes[0], list[str]()
    node.tell_owner = told.append
    node.handle(encode(StudyClosing(tuple(coordinator.links))))
    assert told == []
    for _ in range(2):
        asked(node)
    (line,) = told
    assert f"ends here with the receipt of round 1 of {node.study.algorithm.rounds}" in line
    assert line.endswith("ask the other sites and the operator why")


def test_a_closing_alone_ends_nothing_and_a_round_that_is_joined_after_it_ends_its_word(tmp_path: Path) -> None:
    """Sites that are left out of a round get one, too, to keep up."""
    federation, coordinator = after_round_one(tmp_path)
    node = federation.nodes[0]
    node.handle(encode(StudyClosing(tuple(coordinator.links))))
    node.handle(opening(coordinator, 2))
    with pytest.raises(WrongSession, match="the study is not over here"):
        asked(node)
    assert "hospital-0" in coordinator.run_round(3).survivors


def test_a_ledger_that_is_handed_over_in_the_middle_of_a_round_gets_no_commit_of_it(tmp_path: Path) -> None:
    federation, coordinator = after_round_one(tmp_path)
    node = federation.nodes[0]
    node.handle(opening(coordinator, 2))
    session = node._session.client
    assert session is not None
    node.handle(encode(StudyClosing(tuple(coordinator.links))))
    assert [entry.body["round"] for entry in handed_over(node).entries if entry.kind == "commit"] == [1]
    with pytest.raises(LocalError, match="failed"):
        session.receive(b"")


@pytest.mark.parametrize("good", [0, 2])
def test_a_study_whose_last_rounds_were_void_is_handed_over(good: int, tmp_path: Path) -> None:
    void = [good + 1, good + 2]
    cuts: tuple[Cut, ...] = tuple(cut(node, number, "masked input") for number in void for node in (0, 1))
    federation = Federation(make_study(algorithm={"rounds": good + 2}), tmp_path, cuts=cuts)
    _, records = federation.run()
    assert [record.number for record in records if record.void] == void
    for node in federation.nodes:
        closing = handed_over(node).closing
        assert closing["round"] == good
        assert closing["state"] == node.chain.state.digest(node.chain.layout).hex()


def test_a_round_is_finished_late_after_the_closing_and_handed_over_with_the_rest(tmp_path: Path) -> None:
    federation = Federation(make_study(algorithm={"rounds": 2}), tmp_path)
    coordinator = cut_closing(federation, 2)
    coordinator.close_study()
    assert coordinator.chain.round_number == 2
    states = {handed_over(node).closing["state"] for node in federation.nodes}
    assert states == {coordinator.chain.state.digest(coordinator.chain.layout).hex()}


def test_what_is_handed_over_tells_of_no_other_study_but_what_all_come_to(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    node = federation.nodes[1]
    ledger = node.parts.ledger
    ledger.grant(replace(node.parts.policy.budget.grant, population="elsewhere", disjoint="The registry says so"))
    ledger.reserve("elsewhere", OTHER, 1, 1e-6, 3)
    federation.run()
    answer = asked(node)
    for hidden in (OTHER.hex().encode(), b"elsewhere", b"The registry"):
        assert hidden not in answer
    copy = handed_over(node)
    assert len(copy.lines) == len(copy.entries) + 2
    assert copy.totals.studies == 1
    assert read_handover(node.study, 2, answer) is None
    assert read_handover(node.study, 1, answer[:-1]) is None
    at = answer.index(b'"kind":"reserve"')
    assert read_handover(node.study, 1, answer[: at - 20] + b"!" + answer[at - 19 :]) is None


def test_the_same_ledger_is_handed_over_however_often_it_is_asked_for(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    coordinator, _ = federation.run()
    node = federation.nodes[3]
    answer, length = asked(node), node.parts.ledger.sequence
    coordinator.close_study()
    assert (asked(node), node.parts.ledger.sequence) == (answer, length)


def test_a_node_that_was_put_back_counts_what_it_may_have_forgotten_before_it_closes(tmp_path: Path) -> None:
    federation, coordinator = after_round_one(tmp_path)
    node = federation.nodes[0]
    node.parts.store.raise_floor(node.study.digest, 3)
    node.handle(encode(StudyClosing(tuple(coordinator.links))))
    commits = [entry.body["round"] for entry in handed_over(node).entries if entry.kind == "commit"]
    assert commits == [1, 2, 3]


def test_how_a_node_runs_is_signed_before_its_first_commit_and_when_it_changes(tmp_path: Path) -> None:
    federation, coordinator = after_round_one(tmp_path)
    node = federation.nodes[0]
    policy = node.parts.policy.model_copy(update={"pace": PacePolicy(upload_after_seconds=0.01)})
    federation.nodes[0] = Node(node.study, replace(node.parts, policy=policy))
    for number in (2, 3):
        coordinator.run_round(number)
    coordinator.close_study()
    kinds = [entry.kind for entry in handed_over(federation.nodes[0]).entries]
    assert kinds == [
        *("grant", "reserve", "run", "commit", "release"),
        *("run", "commit", "release", "commit", "release", "close"),
    ]


@pytest.mark.parametrize("paid", [True, False])
def test_a_ledger_that_says_no_more_than_that_the_study_is_over_is_none(tmp_path: Path, paid: bool) -> None:
    """Neither without what was reserved for it, nor without how it ran."""
    node = Federation(make_study(), tmp_path).nodes[0]
    study, budget = node.study, node.parts.policy.budget
    with Ledger(tmp_path / "own.sqlite", entry_signer(node.parts.identity)) as ledger:
        ledger.grant(budget.grant)
        ledger.reserve(budget.population, study.digest, 8, 1e-5, study.algorithm.rounds)
        ledger.close_study(study.digest, 0, bytes(32))
        entries = ledger.entries()
        if not paid:
            body = {"kind": "close", **{k: v for k, v in entries[-1].body.items() if k not in ("id", "time")}}
    if not paid:
        with Ledger(tmp_path / "free.sqlite", entry_signer(node.parts.identity)) as ledger:
            ledger.grant(budget.grant)
            ledger.run(study.digest, RunFacts(EMBEDDED, "1" * 64, "2" * 64, "", 0).body())
            ledger._append(ledger.entries(), {**body, "lines": 2})
            entries = ledger.entries()
    copy = copy_for(entries, study.digest)
    assert copy is not None
    assert read_handover(study, 0, encode(Handover(0, study.digest, write_copy(copy)))) is None


def test_a_handover_without_a_ledger_is_none(tmp_path: Path) -> None:
    study = make_study()
    assert read_handover(study, 0, encode(Handover(0, study.digest, b""))) is None
    with pytest.raises(ProtocolError):
        handover(Federation(study, tmp_path).nodes[0], b"")
