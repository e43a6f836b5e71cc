"""The independent node in federations of real ones: the same bits at the end, whatever comes in between.

Each scenario runs two or three times under the real coordinator: with real nodes alone, with independent ones in some
places, and with independent ones in all. What each round came to has to be the same, and so has every state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from audits.reference import node as reference_node
from audits.reference.notation import C, Refused, parse_cbor, verify
from audits.simulator.studies import study_from
from protocols import sharing
from protocols.errors import ProtocolError
from protocols.wire import encode
from secfed.aggregator.coordinator import Coordinator
from secfed.aggregator.handover import read_attendance, read_handover
from secfed.aggregator.records import RoundRecord
from secfed.engines.embedded.channel import Cut
from secfed.node.answers import attendance, handover
from secfed.rounds.channel import StudyClosing
from secfed.rounds.handover import AttendanceRequest, HandoverRequest
from secfed.rounds.strategies import ModelState
from secfed.study.approvals import study_file_digest
from secfed.study.manifest import Study
from tests.audits.independent import FILE, Independent, digests, mixed
from tests.audits.test_reference_study import STUDIES
from tests.protocols.dealers import dealing, other_sealed_seed, other_sealed_share
from tests.secfed.federation import Federation, FormulaTrainer, cut, make_study
from tests.secfed.rounds.test_closings import LosingOnce, closing_cut_short


def away(node: int, first: int, last: int, stage: str = "advertise") -> tuple[Cut, ...]:
    return tuple(cut(node, number, stage) for number in range(first, last + 1))


@dataclass(frozen=True)
class Scenario:
    """A study, who is cut off when, and where the independent nodes sit."""

    places: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()
    study: Callable[[], Study] = make_study
    void: tuple[int, ...] = ()
    """Rounds that come to nothing."""
    bend: Callable[[Federation, Coordinator], None] = lambda federation, coordinator: None
    everywhere: bool = True
    """Whether it runs with independent nodes alone, too."""


def rounds(count: int, **cohort: int) -> Callable[[], Study]:
    return lambda: make_study(algorithm={"rounds": count}, cohort=cohort)


def every_request_twice(federation: Federation, coordinator: Coordinator) -> None:
    """The network repeats: the second answer is the first."""
    inner = coordinator._channel

    class Twice:
        def exchange(self, requests, *, round_number, stage):  # type: ignore[no-untyped-def]
            answers = inner.exchange(requests, round_number=round_number, stage=stage)
            assert inner.exchange(requests, round_number=round_number, stage=stage) == answers
            return answers

    coordinator._channel = Twice()


def losing_the_sum(federation: Federation, coordinator: Coordinator) -> None:
    coordinator._channel = LosingOnce(federation, {0, 1, 2, 3})


def restarting_before(number: int, *nodes: int) -> Callable[[Federation, Coordinator], None]:
    """These nodes crash before a round, and start again on what they have written down."""

    def bend(federation: Federation, coordinator: Coordinator) -> None:
        def opens(opened: int) -> None:
            for index in nodes if opened == number else ():
                node = federation.nodes[index]
                if isinstance(node, Independent):
                    node.restart()
                else:
                    node.parts.store.close()
                    node.parts.ledger.close()
                    federation.nodes[index] = federation.start_node(index)

        coordinator._opens = opens

    return bend


class NoisyTrainer(FormulaTrainer):
    """Elements as large as noise can make them: far above M where the unit is the node."""

    def vector(self, state: ModelState, round_number: int) -> NDArray[np.int64]:
        most = self.study.magnitude
        signs = np.where(np.arange(11) % 2, 1, -1)
        return (signs * (most - round_number - self.index)).astype(np.int64)


def noisy(federation: Federation, coordinator: Coordinator) -> None:
    for index, node in enumerate(federation.nodes):
        trainer = NoisyTrainer(federation.study, index)
        if isinstance(node, Independent):
            node._trainer = trainer
        else:
            node.parts = dataclasses.replace(node.parts, trainer=trainer)


SCENARIOS: dict[str, Scenario] = {
    "nobody leaves": Scenario((0, 3)),
    "cut off before share": Scenario((2, 4), (cut(2, 2, "share"),)),
    "cut off before masked input": Scenario((2, 4), (cut(2, 2, "masked input"),)),
    "cut off before agree": Scenario((2, 4), (cut(2, 2, "agree"),)),
    "cut off before unmask": Scenario((2, 4), (cut(2, 2, "unmask"),)),
    "cut off before close": Scenario((2, 4), (cut(2, 2, "close"),)),
    "another is cut off before masked input": Scenario((0, 4), (cut(2, 2, "masked input"),)),
    "away for a round": Scenario((4,), away(4, 2, 2)),
    "away for two rounds": Scenario((1, 4), away(4, 2, 3)),
    "away in the last round": Scenario((4,), away(4, 4, 4)),
    "never there but for the closing": Scenario((4,), away(4, 1, 4)),
    "a void round": Scenario((0, 2), (cut(0, 2, "agree"), cut(1, 2, "agree")), void=(2,)),
    "void at advertise, and on": Scenario((0, 2), (cut(0, 2, "advertise"), cut(1, 2, "advertise")), void=(2,)),
    "finished late, echoed by the independent": Scenario((0, 1), closing_cut_short(2, 0, 1), void=(3,)),
    "finished late, offered by the independent": Scenario((2, 4), closing_cut_short(2, 0, 1), void=(3,)),
    "finished late at the closing": Scenario((0, 4), closing_cut_short(4, 0, 1)),
    "one signature: overtaken by the others": Scenario((4,), closing_cut_short(2, 0, 1, 2, 3), void=(2,)),
    "one signature: the others are independent": Scenario((0, 1, 2), closing_cut_short(2, 0, 1, 2, 3), void=(2,)),
    "away, then finished late": Scenario((0, 3), (*away(3, 1, 1), *closing_cut_short(2, 0, 1)), void=(3,)),
    "the sum lost once, and sent again": Scenario(
        (0, 4), study=rounds(4, tolerated_dropouts=0, minimum=5), bend=losing_the_sum
    ),
    "more than sixteen receipts behind": Scenario((4,), away(4, 2, 19), rounds(20)),
    "more than thirty-two receipts behind at the closing": Scenario((4,), away(4, 2, 36), rounds(36)),
    "three void rounds on one state": Scenario(
        (0, 4), (*away(0, 1, 4, "agree"), *away(1, 1, 4, "agree")), rounds(5), void=(1, 2, 3, 4, 5)
    ),
    "every request twice": Scenario((0, 4), (cut(2, 2, "masked input"), cut(1, 3, "close")), bend=every_request_twice),
    "crashed between rounds": Scenario((0, 4), bend=restarting_before(3, 0, 2)),
    "crashed while locked": Scenario((0, 4), closing_cut_short(2, 0, 1), void=(3,), bend=restarting_before(3, 0, 4)),
    "elements as large as noise makes them": Scenario(
        (0, 4), (cut(2, 2, "agree"),), lambda: study_from(STUDIES["nodes"]), bend=noisy
    ),
    **{
        f"a study: {name}": Scenario(
            (1, 3), (cut(2, 2, "masked input"), *away(3, 3, 3)), lambda values=values: study_from(values)
        )
        for name, values in STUDIES.items()
    },
}


def what_came_of(records: list[RoundRecord]) -> list[tuple[Any, ...]]:
    """All that has to be the same whoever wrote the node."""
    return [
        (r.number, r.void, r.cohort, r.survivors, r.dropped, r.quorum, r.sum_digest, len(r.faults)) for r in records
    ]


def run(scenario: Scenario, folder: Path, *places: int) -> tuple[Federation, Coordinator, list[RoundRecord]]:
    federation = mixed(scenario.study(), folder, scenario.cuts, *places)
    coordinator = federation.coordinator()
    scenario.bend(federation, coordinator)
    return federation, coordinator, coordinator.run()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.sweep] if place % 4 else []) for place, name in enumerate(SCENARIOS)],
)
def test_a_federation_with_independent_nodes_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    scenario = SCENARIOS[name]
    everybody = tuple(range(len(scenario.study().roster)))
    real, reference, expected = run(scenario, tmp_path / "real")
    assert tuple(record.number for record in expected if record.void) == scenario.void
    final, ledgers = reference.chain.state.digest(FormulaTrainer.layout), handed_over(real, reference)
    for places in (scenario.places, everybody)[: 1 + scenario.everywhere]:
        federation, coordinator, records = run(scenario, tmp_path / str(len(places)), *places)
        assert what_came_of(records) == what_came_of(expected)
        assert coordinator.chain.state.digest(FormulaTrainer.layout) == final
        assert set(digests(federation)) == {final}
        assert handed_over(federation, coordinator) == ledgers


def handed_over(federation: Federation, coordinator: Coordinator) -> list[list[dict[str, Any]]]:
    """What every ledger's copy shows, as the aggregator reads it, but for ids, times and where each node runs.

    A receipt's digest is put as its place in the chain: it covers a session, and is another in every run.
    """
    study, request = federation.study, encode(HandoverRequest(federation.study.digest))
    receipts = [link.receipt.digest().hex() for link in coordinator.links]
    apart, copies = {"id", "time", "process", "home", "machine"}, []
    for index, node in enumerate(federation.nodes):
        answer = node.handle(request) if isinstance(node, Independent) else handover(node, request)
        end = read_handover(study, index, answer)
        assert end is not None
        copies.append([{name: entry.body[name] for name in entry.body.keys() - apart} for entry in end.copy.entries])
        for body in copies[-1]:
            if "receipt" in body:
                body["receipt"] = receipts.index(body["receipt"])
    return copies


def test_there_are_more_than_twenty_scenarios_without_counting_studies() -> None:
    assert sum(not name.startswith("a study") for name in SCENARIOS) > 20


@pytest.mark.parametrize(("bent", "kind"), [(other_sealed_share(1), 3), (other_sealed_seed(1), 6)])
def test_the_independent_node_complains_of_the_same_fault(bent: Any, kind: int, tmp_path: Path) -> None:
    told = []
    for places in ((), (1, 3)):
        federation = mixed(make_study(), tmp_path / str(places), (), *places)
        coordinator = federation.coordinator()
        with dealing(0, sharing, "_seal", bent):
            record = coordinator.run_round(1)
        coordinator.run_round(2)
        told.append((record.void, {(claim.by, claim.accused, claim.kind) for claim in record.faults}))
    assert told[0] == told[1]
    assert (1, 0, kind) in told[0][1]
    # The other independent node has told its owner; the complainer is not told its own word.
    assert (1, 1, 0, kind) in federation.nodes[3].told  # type: ignore[attr-defined]
    assert (1, 1, 0, kind) not in federation.nodes[1].told  # type: ignore[attr-defined]


def test_a_complaint_is_repeated_and_nothing_else_is_answered_then(tmp_path: Path) -> None:
    federation = mixed(make_study(), tmp_path, (), 1)
    node, seen = federation.nodes[1], []
    handle = node.handle

    def watch(request: bytes) -> bytes:
        answer = handle(request)
        seen.append((request, answer))
        return answer

    node.handle = watch  # type: ignore[method-assign]
    with dealing(0, sharing, "_seal", other_sealed_share(1)):
        federation.coordinator().run_round(1)
    opening, cohort, delivery = (request for request, _ in seen[:3])
    complaint = seen[2][1]
    assert parse_cbor(complaint)["type"] == "complaint"
    inner = node.node  # type: ignore[attr-defined]
    assert inner.handle(delivery) == complaint
    for request in (opening, cohort, delivery + b"\x00"):
        with pytest.raises(Refused):
            inner.handle(request)


def test_a_literal_reader_that_refuses_an_empty_sum_would_never_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the SPEC was silent about: the coordinator's last receipt comes with an empty sum."""

    def literal(node: reference_node.Node, links: list[dict[str, Any]]) -> None:
        for link in links:
            if link["receipt"]["statement"]["round_number"] > node.number:
                node._append(link["receipt"], link["vector"])

    scenario = SCENARIOS["away for a round"]
    monkeypatch.setattr(reference_node.Node, "_adopt", literal)
    federation, _, records = run(scenario, tmp_path, 4)
    assert "hospital-4" not in records[-1].survivors
    assert len(set(digests(federation))) == 2


def test_an_independent_node_that_was_put_back_waits_and_commits_what_it_forgot(tmp_path: Path) -> None:
    federation = mixed(make_study(algorithm={"rounds": 6}), tmp_path, (), 4)
    coordinator, node = federation.coordinator(), federation.nodes[4]
    for number in (1, 2):
        coordinator.run_round(number)
    memory = type(node.memory)(floor=2, restored=2)  # type: ignore[attr-defined]
    node.memory = memory  # type: ignore[attr-defined]
    node.restart()  # type: ignore[attr-defined]
    third = coordinator.run_round(3)
    assert "hospital-4" in third.survivors  # the receipt of round 2 is what it waited for
    ledger = node.node.ledger  # type: ignore[attr-defined]
    assert ledger.rounds("commit") == {1, 2, 3}
    assert ledger.rounds("release") == {1, 2}


def test_requests_are_parsed_as_strictly_as_sessions(tmp_path: Path) -> None:
    federation = mixed(make_study(), tmp_path, (), 0)
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    node = federation.nodes[0].node  # type: ignore[attr-defined]
    closing = {"type": "study-closing", "links": [], "faults": {"complaints": [], "findings": []}}
    for change in ({"links": [{}]}, {"faults": {}}, {"more": 1}, {"links": None}):
        with pytest.raises(Refused):
            node.handle(C(closing | change))
    offer = parse_cbor(node.handle(C(closing)))
    assert (offer["type"], offer["statement"]["round_number"]) == ("offer", 1)


def test_attendance_is_signed_and_read_alike(tmp_path: Path) -> None:
    federation = mixed(make_study(), tmp_path, (), 0)
    study, request = federation.study, encode(AttendanceRequest(federation.study.digest))
    node, real = federation.nodes[0].node, federation.nodes[1]  # type: ignore[attr-defined]
    answer = node.handle(request)
    assert read_attendance(study, study_file_digest(FILE), 0, answer) == parse_cbor(answer)["approval"]
    assert read_attendance(study, study_file_digest(FILE + b" "), 0, answer) is None
    theirs = attendance(real, real.approve(study_file_digest(FILE)), request)
    fields = parse_cbor(theirs)
    node.kinds["attendance"](fields)
    verify(node.study.roster[1], fields["approval"], "study approval", *node.study.approved_bytes(FILE))
    for wrong in (encode(AttendanceRequest(bytes(32))), request + b"\x00", encode(HandoverRequest(study.digest))):
        with pytest.raises(Refused):
            node.handle(wrong)


def test_no_independent_ledger_is_handed_over_in_mid_study_and_none_gets_a_round_after_it(tmp_path: Path) -> None:
    federation = mixed(make_study(), tmp_path, (), 0)
    coordinator, request = federation.coordinator(), encode(HandoverRequest(federation.study.digest))
    coordinator.run_round(1)
    node = federation.nodes[0]
    with pytest.raises(ProtocolError, match="the study is not over"):
        node.handle(request)
    assert "hospital-0" in coordinator.run_round(2).survivors
    node.handle(encode(StudyClosing(tuple(coordinator.links))))
    assert read_handover(federation.study, 0, node.handle(request)) is not None
    node.restart()  # type: ignore[attr-defined]
    assert "hospital-0" not in coordinator.run_round(3).survivors
    assert read_handover(federation.study, 0, node.handle(request)) is not None
