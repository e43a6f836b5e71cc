"""The vectors across rounds: both whole nodes answer every request as recorded, and without a rule one does not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest

from audits.reference import claims as reference_claims
from audits.reference import end as reference_end
from audits.reference import ledger as reference_ledger
from audits.reference import node as reference_node
from audits.reference.notation import parse_cbor
from audits.vectors import round_answers, rounds
from audits.vectors.rounds import Rounds, check_case
from audits.vectors.splices import Splice
from secfed.rounds.faults import NodeClaims


@functools.cache
def recorded() -> Rounds:
    return rounds.load()


CASES = {case.name: case for case in recorded().cases}


@pytest.mark.parametrize("name", CASES)
def test_both_nodes_answer_as_recorded(name: str) -> None:
    assert check_case(CASES[name], recorded()) == []


def test_names_are_different_and_every_kind_of_answer_is_there() -> None:
    assert len(CASES) == len(recorded().cases)
    steps = [step for case in CASES.values() for step in case.steps]
    answers = {
        parse_cbor(recorded().messages[step.answer])["type"] for step in steps if step.answer not in ("", "share")
    }
    assert answers == {
        *("advertise", "standing", "offer", "complaint", "masked-input", "agree", "unmask", "close"),
        *("attendance", "handover"),
    }
    assert {parse_cbor(recorded().messages[step.request])["type"] for step in steps} >= {
        *("round-opening", "study-closing", "echo-request", "cohort", "delivery", "published"),
        *("attendance-request", "handover-request"),
    }


def test_a_refusal_has_one_change_or_a_history_and_names_a_party() -> None:
    for case in CASES.values():
        for step in case.steps:
            assert bool(step.error) != bool(step.answer)
    assert {step.fault for case in CASES.values() for step in case.steps if step.error} == {"aggregator", "itself"}


ANSWERS = {answer.name: answer for answer in recorded().answers}


@pytest.mark.parametrize("name", ANSWERS)
def test_both_readers_refuse_an_answer_with_one_defect(name: str) -> None:
    assert round_answers.check(ANSWERS[name], recorded()) == []


def test_both_readers_take_the_honest_answers_and_a_reader_that_takes_others_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert len(ANSWERS) == len(recorded().answers)
    assert [round_answers.check(honest, recorded()) for honest in round_answers.HONEST] == [[], []]
    monkeypatch.setattr("crypto.identity.PublicIdentity.verifies", lambda *_: True)
    bad = ANSWERS["attendance with an approval of another file"]
    assert round_answers.check(bad, recorded()) == ["the real reader: not refused"]
    monkeypatch.setattr(reference_end, "verify", lambda *_: None)
    assert round_answers.check(bad, recorded())[1:] == ["the reference: not refused"]


WITHOUT: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "stopping at an empty sum": (
        lambda patch: patch.setattr("secfed.node.locks.kept_sum", lambda *_: b""),
        "the last link without its sum",
    ),
    "the lock": (
        lambda patch: patch.setattr("secfed.node.locks.unfinished", lambda *_: None),
        "locked: an offer to an older opening",
    ),
    "the restored node's waiting": (
        lambda patch: patch.setattr("secfed.node.restored.check_restored", lambda *_: None),
        "a node that was put back signs nothing",
    ),
    "the comparison with what was shown": (
        lambda patch: patch.setattr("secfed.node.views.Views.compare", lambda *_: True),
        "an echo of a session other than its own",
    ),
    "the end of a study for good": (
        lambda patch: patch.setattr("secfed.node.books.check_open", lambda *_: None),
        "a handover without a round",
    ),
    "the receipt that a closing names": (
        lambda patch: patch.setattr("secfed.node.books.end_of", lambda study, links: study.digest),
        "a handover after a closing that names an older receipt",
    ),
    "the study of a request": (
        lambda patch: patch.setattr("secfed.node.answers._check_study", lambda *_: None),
        "attendance about another study",
    ),
    "the commits that were forgotten": (
        lambda patch: patch.setattr("secfed.node.books.commit_forgotten", lambda *_: None),
        "put back: a handover",
    ),
    "the claims' checks": (lambda patch: patch.setattr(NodeClaims, "_is_new", lambda *_: True), "claims at a closing"),
}
WITHOUT_IN_REFERENCE: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "the lock": (
        lambda patch: patch.setattr(reference_node.Node, "_unfinished", lambda _: None),
        "locked: an offer to an older opening",
    ),
    "the check of what was shown": (
        lambda patch: patch.setattr(reference_node.Node, "_need_as_shown", lambda *_: None),
        "an echo of survivors other than its own",
    ),
    "the ledger numbers": (
        lambda patch: patch.setattr(reference_claims, "fault_in_cohort", lambda *_: None),
        "a ledger that is shorter than before",
    ),
    "the close of a study": (
        lambda patch: patch.setattr(reference_ledger.Ledger, "closed", False),
        "a handover, and links",
    ),
    "the bound on attempts": (
        lambda patch: patch.setattr(reference_node, "ATTEMPTS", 4),
        "a fourth round on one state",
    ),
}


@pytest.mark.parametrize("rule", WITHOUT)
def test_a_real_node_without_a_rule_is_found_out(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out, name = WITHOUT[rule]
    take_out(monkeypatch)
    assert any(text.startswith("the real node") for text in check_case(CASES[name], recorded()))


@pytest.mark.parametrize("rule", WITHOUT_IN_REFERENCE)
def test_an_independent_node_without_a_rule_is_found_out(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_out, name = WITHOUT_IN_REFERENCE[rule]
    take_out(monkeypatch)
    found = check_case(CASES[name], recorded())
    assert found
    assert all(text.startswith("the independent node") for text in found)


def test_an_honest_request_among_the_refused_is_reported() -> None:
    case = CASES["an opening with another version"]
    honest = dataclasses.replace(case.steps[0], change=Splice(0, 0, ""))
    found = check_case(dataclasses.replace(case, steps=(honest,)), recorded())
    assert len(found) == 2
    assert all("not refused" in text for text in found)
