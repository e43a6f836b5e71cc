"""The audited federation itself: honest play works in it, and the nodes are the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from audits.simulator.federation import LAYOUT, ROUNDS, Federation
from audits.simulator.world import VICTIM
from protocols.errors import CohortTooSmall, MalformedMessage
from protocols.messages import Advertise
from secfed.rounds.channel import Standing
from tests.secfed.federation import ALGORITHMS


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


def test_honest_rounds_move_every_node_to_the_same_model(federation: Federation) -> None:
    states = [federation.state(VICTIM)]
    for number in (1, 2):
        closed = federation.round(number, federation.everyone)
        assert closed is not None
        federation.chain.adopt(*closed)
        for node in federation.everyone:
            federation.give(node, *closed)
        reached = {federation.state(node) for node in federation.everyone}
        assert len(reached) == 1
        states += reached
    assert federation.log.refusals == []
    assert len(set(states)) == 3


@pytest.mark.parametrize("name", ALGORITHMS)
def test_audited_nodes_run_studies_of_every_strategy(name: str, tmp_path: Path) -> None:
    algorithm = {**ALGORITHMS[name], "local": {"steps": 2, "learning_rate": 0.01}}
    federation = Federation(tmp_path, **algorithm)
    assert federation.study.algorithm.strategy == name
    for number, present in ((1, federation.everyone), (2, federation.everyone[1:]), (4, federation.everyone[:-1])):
        closed = federation.round(number, present)
        assert closed is not None
        federation.adopt(closed)
        federation.restart(number)
        assert {federation.state(node) for node in federation.everyone} == {federation.chain.state.digest(LAYOUT)}
    assert federation.log.refusals == []


def test_a_node_that_was_away_catches_up_from_receipt_and_sum(federation: Federation) -> None:
    closed = federation.round(1, federation.everyone[1:])
    assert closed is not None
    federation.give(0, *closed)
    federation.give(1, *closed)
    assert federation.state(0) == federation.state(1)
    assert federation.log.refusals == []


def test_a_survivor_without_the_sum_does_not_close_and_the_others_make_the_receipt(federation: Federation) -> None:
    closed = federation.round(1, federation.everyone, without_sum=(VICTIM,))
    assert closed is not None
    assert VICTIM in closed[0].statement.survivors
    assert VICTIM not in [entry.signer for entry in closed[0].signatures]
    assert federation.nodes[VICTIM].parts.store.locked(federation.study.digest) is None
    assert federation.round(2, federation.everyone, without_sum=(0, 1, 2)) is None


@pytest.mark.parametrize("ledger_only", [True, False])
def test_a_node_put_back_from_a_copy_has_forgotten_what_the_copy_does_not_know(
    federation: Federation, ledger_only: bool
) -> None:
    federation.copy_files(VICTIM)
    assert federation.round(1, federation.everyone) is not None
    parts, study = federation.nodes[VICTIM].parts, federation.study.digest
    assert parts.ledger.holds("commit", study, 1)
    assert parts.store.locked(study) is not None
    federation.put_back(VICTIM, ledger_only=ledger_only)
    parts = federation.nodes[VICTIM].parts
    assert not parts.ledger.holds("commit", study, 1)
    assert (parts.store.locked(study) is not None) == ledger_only
    assert parts.store.floor(study) == (1 if ledger_only else 0)


def test_only_the_nodes_object_to_a_cohort_that_is_too_small(federation: Federation) -> None:
    assert federation.round(1, (0, 1, 2, 3)) is None
    assert {refusal.node for refusal in federation.log.refusals} == {0, 1, 2, 3}
    assert {type(refusal.error) for refusal in federation.log.refusals} == {CohortTooSmall}


def test_a_node_that_restarts_remembers_its_rounds(federation: Federation) -> None:
    opening = federation.chain.context(1).opening()
    assert federation.open(VICTIM, opening) is not None
    federation.restart(VICTIM)
    assert federation.nodes[VICTIM].parts.store.floor(federation.study.digest) == 1
    assert federation.open(VICTIM, opening) is None
    assert [refusal.node for refusal in federation.log.refusals] == [VICTIM]
    assert federation.log.refusals[0].place.startswith("secfed/node/node.py:")


def test_the_last_round_of_the_study_can_be_joined_and_the_next_cannot(federation: Federation) -> None:
    assert federation.open(0, federation.chain.context(ROUNDS).opening()) is not None
    assert federation.open(1, federation.chain.context(ROUNDS + 1).opening()) is None


def test_an_answer_of_another_kind_is_not_taken_for_the_wanted_one(federation: Federation) -> None:
    with pytest.raises(MalformedMessage):
        federation.read(Advertise, federation.nodes[0]._standing(()))
    assert federation.read(Standing, federation.nodes[0]._standing(())).sender == 0
