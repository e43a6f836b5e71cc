"""A ledger's copy, read by both implementations: that of a whole federation, the recorded one, and its defects."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from audits.reference import ledger as reference_ledger
from audits.reference.ledger import read_copy
from audits.reference.notation import parse_cbor
from audits.vectors import ledgers
from audits.vectors.ledgers import Copies, check
from protocols.wire import encode
from secfed.aggregator.handover import read_handover
from secfed.node.answers import handover
from secfed.rounds.handover import Handover, HandoverRequest
from tests.secfed.federation import Federation, make_study

NODE = 2


@functools.cache
def recorded() -> Copies:
    return ledgers.load()


def test_both_read_what_a_node_hands_over_after_a_study(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    study, node = federation.study, federation.nodes[NODE]
    federation.run()
    copy = parse_cbor(handover(node, encode(HandoverRequest(study.digest))))["ledger"]
    bodies = read_copy(copy, study.digest, study.identities[NODE].raw)
    assert [body["kind"] for body in bodies].count("commit") == study.algorithm.rounds
    assert bodies[-1]["state"] == node.chain.state.digest(node.chain.layout).hex()
    assert read_handover(study, NODE, encode(Handover(NODE, study.digest, copy))) is not None


def test_both_take_the_recorded_copy() -> None:
    assert check(recorded()) == []


@pytest.mark.parametrize("name", ledgers.load().defects)
def test_both_refuse_a_copy_with_one_defect(name: str) -> None:
    assert check(recorded(), name) == []


def test_the_recorded_defects_are_those_that_are_made() -> None:
    assert set(recorded().defects) == set(ledgers.DEFECTS)


def test_a_reader_without_the_count_of_shown_entries_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_ledger, "need", lambda *_: None)
    assert check(recorded(), "an entry hidden") == ["the reference: not refused"]
