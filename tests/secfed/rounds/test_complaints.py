"""Complaints and claims: what they hold, whom they bind, and that nothing follows from them but what owners read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from protocols import complaints, sharing
from protocols.complaints import NO_FAULTS, Complaint, Faults, Finding
from protocols.errors import FaultKind, ProtocolError
from protocols.messages import Cohort, Delivery, MaskedInput, Unmask
from protocols.wire import Limits, canonical, decode, encode, fields_of, message_type, most_map_bytes, to_map
from secfed.aggregator.coordinator import Coordinator
from secfed.node.node import Node
from secfed.rounds import faults as secfed_faults
from secfed.rounds.channel import RoundOpening, Standing, StudyClosing, most_request_bytes
from secfed.rounds.faults import TOLD_MAX, Claim, NodeClaims
from tests.protocols.dealers import (
    dealing,
    other_sealed_share,
)
from tests.secfed.bending import EVERYBODY, bend_answers, claims, once_each, resigned, told
from tests.secfed.federation import Federation, make_study

# What a complaint is.


def complaint_of(federation: Federation, number: int = 1) -> tuple[Coordinator, Complaint]:
    """A round in which node 1 complains of node 4."""
    coordinator = federation.coordinator()
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        for at in range(1, number + 1):
            coordinator.run_round(at)
    return coordinator, coordinator._faults.for_nodes().complaints[-1]


def test_a_complaint_holds_codes_only_and_its_size_says_nothing(federation: Federation) -> None:
    _, complaint = complaint_of(federation)
    assert set(fields_of(complaint)) == {"study", "round_number", "sender", "accused", "kind", "signature"}
    key = federation.nodes[1].parts.identity
    sizes = {
        len(encode(sharing.sign(Complaint(complaint.study, 1, 1, accused, int(kind), b""), key)))
        for kind in FaultKind
        for accused in range(5)
    }
    assert sizes == {len(encode(complaint))}


def test_the_same_request_is_answered_with_the_same_complaint(federation: Federation) -> None:
    seen: list[tuple[bytes, bytes]] = []
    handle = federation.nodes[1].handle

    def watch(request: bytes) -> bytes:
        answer = handle(request)
        if message_type(request, 1 << 20, None) == Delivery.TYPE:
            seen.append((request, answer))
        return answer

    federation.nodes[1].handle = watch  # type: ignore[method-assign]
    complaint_of(federation)
    ((request, answer),) = seen
    before = len(federation.told)
    assert handle(request) == answer
    assert len(federation.told) == before
    with pytest.raises(ProtocolError):
        handle(request + b"\x00")


def test_what_is_the_aggregators_fault_is_answered_with_silence(federation: Federation) -> None:
    coordinator = federation.coordinator()
    opening = encode(RoundOpening((), coordinator.chain.context(1).opening()))
    federation.nodes[0].handle(opening)
    with pytest.raises(ProtocolError, match="the aggregator"):
        federation.nodes[0].handle(encode(Cohort(())))
    assert federation.told == []


def test_a_ledger_that_refuses_is_answered_with_silence(federation: Federation) -> None:
    federation.nodes[2].parts.ledger.commit(federation.study.digest, 1)
    _, records = federation.run()
    assert records[0].faults == ()
    assert federation.told == []


@pytest.mark.parametrize(
    "changes",
    [
        {"round_number": 2},
        {"sender": 2},
        {"study": bytes(32)},
        {"accused": 1},
        {"kind": int(FaultKind.SECRET)},
        {"signature": bytes(64)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_complaint_that_is_not_this_nodes_in_this_round_is_a_bad_answer(
    federation: Federation, changes: dict[str, Any]
) -> None:
    def change(message: Complaint) -> bytes:
        if "signature" in changes:
            return encode(Complaint(**{**fields_of(message), **changes}))
        return resigned(federation, 1, message, **changes)

    bend_answers(federation, 1, Complaint, change)
    coordinator = federation.coordinator()
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        record = coordinator.run_round(1)
    assert claims(record) == {(None, 1, FaultKind.MALFORMED)}
    assert not record.void


def test_a_node_cannot_hand_in_anothers_complaint(federation: Federation) -> None:
    """Node 1 colludes with node 2, which has signed; the channel vouches for who answers."""

    def anothers(message: Complaint) -> bytes:
        return resigned(federation, 2, message, sender=2)

    bend_answers(federation, 1, Complaint, anothers)
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        record = federation.coordinator().run_round(1)
    assert claims(record) == {(None, 1, FaultKind.MALFORMED)}


@pytest.mark.parametrize("kind", [Unmask, MaskedInput])
def test_a_complaint_counts_only_where_a_peers_fault_can_show(federation: Federation, kind: Any) -> None:
    def accuse(_: Any) -> bytes:
        message = Complaint(federation.study.digest, 1, 2, 0, int(FaultKind.SHARE), b"")
        return encode(sharing.sign(message, federation.nodes[2].parts.identity))

    bend_answers(federation, 2, kind, accuse)
    record = federation.coordinator().run_round(1)
    assert not record.void
    expected = (2, 0, FaultKind.SHARE) if kind is MaskedInput else (None, 2, FaultKind.MALFORMED)
    assert claims(record) == {expected}


# What an untrusted aggregator can do with claims: show lines that name no more than who says what.


class Inventing:
    """Passes everything on, and adds claims of its own to every header."""

    def __init__(self, federation: Federation, invent: Callable[[int], Faults]) -> None:
        self._honest = federation.coordinator()._channel
        self._limits = federation.nodes[0].chain.limits
        self._invent = invent

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        changed = {node: self._with_claims(request, round_number) for node, request in requests.items()}
        return self._honest.exchange(changed, round_number=round_number, stage=stage)

    def _with_claims(self, request: bytes, round_number: int) -> bytes:
        name = message_type(request, most_request_bytes(self._limits), None)
        for kind in (RoundOpening, StudyClosing):
            if name == kind.TYPE:
                message: Any = decode(kind, request, self._limits, None)  # type: ignore[type-var]
                return encode(kind(**{**fields_of(message), "faults": self._invent(round_number)}))
        return request


def run_with(federation: Federation, invent: Callable[[int], Faults]) -> list[Any]:
    coordinator = federation.coordinator()
    coordinator._channel = Inventing(federation, invent)
    return coordinator.run()


def test_invented_claims_change_nothing_but_what_owners_read(tmp_path: Path) -> None:
    """Everybody is accused of everything, in every header; the rounds are those of a run without a word of it."""
    quiet, loud = (
        Federation(make_study(), tmp_path / name) for name in ("quiet", "loud") if not (tmp_path / name).mkdir()
    )

    def invent(_: int) -> Faults:
        findings = tuple(Finding(1, node, 12) for node in range(5))
        forged = tuple(Complaint(loud.study.digest, 1, by, (by + 1) % 5, 3, bytes(64)) for by in range(5))
        return Faults(forged, findings)

    _, expected = quiet.run()
    records = run_with(loud, invent)
    assert [record.survivors for record in records] == [record.survivors for record in expected]
    assert loud.states() == quiet.states()
    assert told(loud, "(signed)") == {}
    assert told(loud, "the aggregator says (its word only)") == dict.fromkeys(EVERYBODY, 5)
    assert loud.refusals == []


def test_without_the_check_of_signatures_a_forged_complaint_would_pass_for_a_hospitals_word(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secfed_faults, "is_valid", lambda *_: True)
    forged = Complaint(federation.study.digest, 1, 0, 1, 3, bytes(64))
    run_with(federation, lambda _: Faults((forged,), ()))
    assert told(federation, "hospital-0 says (signed) that hospital-1") == once_each(EVERYBODY - {"hospital-1"})


def test_a_complaint_is_told_once_however_often_it_is_repeated(federation: Federation) -> None:
    _, complaint = complaint_of(federation)
    node = federation.nodes[2]
    closing = encode(StudyClosing((), Faults((complaint,) * 5, (Finding(1, 3, 7),) * 5)))
    for _ in range(50):
        node.handle(closing)
    assert told(federation, "hospital-1 says") == {"hospital-2": 1}
    assert told(federation, "the aggregator says") == {"hospital-2": 1}


def test_without_the_memory_of_what_was_told_a_repetition_would_fill_the_screen(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NodeClaims, "_is_new", lambda *_: True)
    _, complaint = complaint_of(federation)
    closing = encode(StudyClosing((), Faults((complaint,) * 5, ())))
    for _ in range(50):
        federation.nodes[2].handle(closing)
    assert told(federation, "hospital-1 says") == {"hospital-2": 250}


def test_a_complaint_of_another_study_or_of_a_round_to_come_is_dropped(federation: Federation) -> None:
    key = federation.nodes[1].parts.identity

    def signed(study: bytes, number: int) -> Complaint:
        return sharing.sign(Complaint(study, number, 1, 4, 3, b""), key)

    digest = federation.study.digest
    opening = federation.coordinator().chain.context(2).opening()
    complaints = (signed(bytes(32), 1), signed(digest, 0), signed(digest, 2), signed(digest, 2**50))
    findings = tuple(Finding(number, 4, 3) for number in (0, 2, 5, 2**50))
    node = federation.nodes[2]
    assert node.handle(encode(RoundOpening((), opening, Faults(complaints, findings))))
    assert federation.told == []
    node.handle(encode(StudyClosing((), Faults((signed(digest, 5),), (Finding(5, 4, 3),)))))
    assert federation.told == []  # the study has four rounds
    node.handle(encode(StudyClosing((), Faults((signed(digest, 1),), ()))))
    assert len(federation.told) == 1


def test_an_old_complaint_replayed_in_a_later_round_still_says_which_round_it_is_about(federation: Federation) -> None:
    coordinator, complaint = complaint_of(federation)
    coordinator.run_round(2)
    coordinator._channel = Inventing(federation, lambda _: Faults((complaint,), ()))
    before = len(federation.told)
    record = coordinator.run_round(3)
    assert len(federation.told) == before  # known since the opening of round 2
    assert record.faults == ()
    assert len(record.survivors) == 5


def test_one_partys_claims_about_one_node_come_to_an_end(tmp_path: Path) -> None:
    """A study of 1000 rounds: the aggregator accuses everybody in each of them, and so does a colluder."""
    federation = Federation(make_study(algorithm={"rounds": 1000}), tmp_path)
    key = federation.nodes[4].parts.identity
    node = federation.nodes[0]
    for start in range(1, 1001, 5):
        numbers = range(start, start + 5)
        faults = Faults(
            tuple(
                sharing.sign(Complaint(federation.study.digest, number, 4, number % 4, 3, b""), key)
                for number in numbers
            ),
            tuple(Finding(number, number % 5, 11) for number in numbers),
        )
        node.handle(encode(StudyClosing((), faults)))
    assert len(told(federation)) == 1
    assert told(federation, "the aggregator says") == {"hospital-0": 5 * TOLD_MAX}
    assert told(federation, "hospital-4 says") == {"hospital-0": 4 * TOLD_MAX}
    assert told(federation, "no more of this will be shown") == {"hospital-0": 9}
    assert len(node._claims._told) == 9 * TOLD_MAX
    other = sharing.sign(Complaint(federation.study.digest, 9, 2, 1, 3, b""), federation.nodes[2].parts.identity)
    node.handle(encode(StudyClosing((), Faults((other,), ()))))
    assert told(federation, "hospital-2 says (signed) that hospital-1") == {"hospital-0": 1}  # nobody is drowned out


def test_claims_leave_nothing_on_disk(federation: Federation) -> None:
    _, complaint = complaint_of(federation)
    database = federation.nodes[0].parts.store._database

    def content() -> list[str]:
        return list(database.iterdump())

    before = content()
    federation.nodes[0].handle(encode(StudyClosing((), Faults((complaint,), (Finding(1, 2, 3),)))))
    assert told(federation, "the aggregator says")
    assert content() == before


@pytest.mark.parametrize(
    "faults",
    [
        {"complaints": [], "findings": [{"round_number": 1, "accused": 5, "kind": 3}]},
        {"complaints": [], "findings": [{"round_number": 1, "accused": 0, "kind": len(FaultKind)}]},
        {"complaints": [], "findings": [{"round_number": 1, "accused": 0, "kind": "\x1b[2J"}]},
        {"complaints": [], "findings": [{"round_number": 1, "accused": 0, "kind": 3, "note": "\x1b[2J"}]},
        {"complaints": [], "findings": [{"round_number": 1, "accused": 0, "kind": 3}] * 6},
        {"complaints": [], "findings": [], "text": "\x1b[2J"},
        {"complaints": []},
        "\x1b[2J",
    ],
)
def test_a_header_with_anything_but_codes_and_indices_is_no_header(federation: Federation, faults: Any) -> None:
    """No honest aggregator sends one: it passes on only what it has parsed itself. The reason has no text of theirs."""
    header = canonical({**to_map(StudyClosing((), NO_FAULTS)), "faults": faults})
    with pytest.raises(ProtocolError) as refused:
        federation.nodes[0].handle(header)
    assert str(refused.value).startswith("the aggregator: ")
    assert str(refused.value).isprintable()
    assert federation.told == []
    answer = federation.nodes[0].handle(encode(StudyClosing((), NO_FAULTS)))
    assert message_type(answer, 1 << 20, 0) == Standing.TYPE


def test_claims_are_bounded_by_the_roster() -> None:
    limits = Limits(1000, 1)
    assert most_map_bytes(Faults, limits) < 1000 * 512


def test_the_coordinator_hands_on_no_more_than_fits(tmp_path: Path) -> None:
    federation = Federation(make_study(algorithm={"rounds": 9}), tmp_path)
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        coordinator = federation.coordinator()
        for number in range(1, 10):
            assert not coordinator.run_round(number).void
    faults = coordinator._faults.for_nodes()
    assert [complaint.round_number for complaint in faults.complaints] == [5, 6, 7, 8, 9]
    assert told(federation, "hospital-1 says (signed) that hospital-4") == dict.fromkeys(
        EVERYBODY - {"hospital-1", "hospital-4"}, 8
    )


def test_no_node_is_left_out_because_of_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nodes that believed the aggregator, it could choose who is in the sum."""
    accusing: Callable[[int], Faults] = lambda _: Faults((), (Finding(1, 0, 3), Finding(1, 1, 3)))  # noqa: E731
    federation = Federation(make_study(), tmp_path)
    records = run_with(federation, accusing)
    assert all(len(record.survivors) == 5 for record in records)

    honest = Node._open_round

    def believing(node: Node, message: RoundOpening) -> bytes:
        accused = {finding.accused for finding in message.faults.findings}
        return b"" if node.index in accused else honest(node, message)

    monkeypatch.setattr(Node, "_open_round", believing)
    (tmp_path / "believing").mkdir()
    gullible = Federation(make_study(), tmp_path / "believing")
    assert all(record.void for record in run_with(gullible, accusing))


def test_json_of_a_claim_names_people_and_codes(federation: Federation) -> None:
    claim = Claim(1, 4, 1, FaultKind.PAIR_SEED, b"\x01\x02")
    assert secfed_faults.told_claim(federation.study, claim) == {
        "accused": "hospital-4",
        "by": "hospital-1",
        "kind": "pair-seed",
        "signature": "0102",
    }
    word = Claim(1, 4, None, FaultKind.SECRET, b"")
    assert json.loads(json.dumps(secfed_faults.told_claim(federation.study, word)))["by"] == ""


def test_every_kind_has_words_and_only_those_a_receiver_finds_can_be_complained_of() -> None:
    assert all(secfed_faults.what_it_did(kind).isprintable() for kind in FaultKind)
    assert [int(kind) for kind in FaultKind] == list(range(len(FaultKind)))
    assert {kind.name for kind in complaints.NODE_KINDS} == {
        "KEY",
        "LEDGER",
        "ENVELOPE",
        "SHARE",
        "SHARE_RANGE",
        "CHECKSUM",
        "PAIR_SEED",
    }
