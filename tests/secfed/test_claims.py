"""Who broke a round is named to every owner, the round goes on where it can, and nothing follows from mere claims."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from crypto import shamir
from protocols import complaints, sharing
from protocols.complaints import NO_FAULTS, Complaint, Faults, Finding
from protocols.errors import FaultKind, ProtocolError
from protocols.messages import Cohort, Delivery, MaskedInput, Unmask
from protocols.wire import Limits, canonical, decode, encode, fields_of, message_type, most_map_bytes, to_map
from secfed import faults as secfed_faults
from secfed.channel import RoundOpening, Standing, StudyClosing, most_request_bytes
from secfed.coordinator import Coordinator
from secfed.faults import TOLD_MAX, Claim, NodeClaims
from secfed.node import Node
from secfed.progress import NodeAbsent
from tests.protocols.dealers import (
    bent_sharing,
    dealing,
    miscommit,
    other_sealed_share,
    other_seed,
    other_share,
    sharing_of_another_secret,
)
from tests.secfed.federation import Federation, cut, identities, make_study

EVERYBODY = frozenset(f"hospital-{node}" for node in range(5))
Change = Callable[[bytes], bytes]


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(make_study(), tmp_path)


def bend_answers(federation: Federation, node: int, kind: Any, change: Callable[[Any], bytes], times: int = 1) -> None:
    """The node's first `times` answers of one kind are replaced by what `change` makes of the message."""
    handle = federation.nodes[node].handle
    left = itertools.count(times, -1)

    def bent(request: bytes) -> bytes:
        answer = handle(request)
        limits = federation.nodes[node]._limits
        if answer and message_type(answer, 1 << 20, node) == kind.TYPE and next(left) > 0:
            return change(decode(kind, answer, limits, node))
        return answer

    federation.nodes[node].handle = bent  # type: ignore[method-assign]


def resigned(federation: Federation, node: int, message: Any, **changes: Any) -> bytes:
    """What a dishonest node sends: the message with other fields, under its own good signature."""
    return encode(
        sharing.sign(type(message)(**{**fields_of(message), **changes}), federation.nodes[node].parts.identity)
    )


def told(federation: Federation, *parts: str) -> dict[str, int]:
    """How often each owner was told a line with all of these parts in it."""
    counts: dict[str, int] = {}
    for name, text in federation.told:
        if all(part in text for part in parts):
            counts[name] = counts.get(name, 0) + 1
    return counts


def once_each(names: frozenset[str]) -> dict[str, int]:
    return dict.fromkeys(names, 1)


def claims(record: Any) -> set[tuple[int | None, int, FaultKind]]:
    return {(claim.by, claim.accused, claim.kind) for claim in record.faults}


# Faults that a node finds.


def test_a_receiver_of_a_wrong_share_complains_and_the_round_goes_on_without_it(federation: Federation) -> None:
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        _, records = federation.run()
    assert [record.void for record in records] == [False] * 4
    assert [record.survivors for record in records] == [("hospital-0", "hospital-2", "hospital-3", "hospital-4")] * 4
    assert all(claims(record) == {(1, 4, FaultKind.SHARE)} for record in records)
    assert len(federation.states()) == 1
    line = "hospital-1 says (signed) that hospital-4 dealt a share other than the committed one"
    for number in range(1, 5):
        assert told(federation, f"round {number}: {line}") == once_each(EVERYBODY - {"hospital-1", "hospital-4"})
        assert told(federation, f"round {number}: this node left, because hospital-4") == {"hospital-1": 1}
        assert told(federation, f"round {number}: hospital-1 says (signed) that this node dealt") == {"hospital-4": 1}
    assert federation.refusals == []
    assert federation.trainers[1].trained == []
    assert all(entry.kind != "commit" for entry in federation.nodes[1].parts.ledger.entries())


def test_the_aggregator_shows_who_complains_of_what(federation: Federation) -> None:
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        federation.run()
    absence = next(event for event in federation.events if isinstance(event, NodeAbsent))
    assert (absence.node, absence.stage) == ("hospital-1", "masked input")
    assert absence.reason == "hospital-4 dealt a share other than the committed one, it says"


def bad_envelope(label: str) -> Callable[..., bytes]:
    honest = sharing._seal

    def seal(key: bytes, plaintext: bytes, purpose: str, session: bytes, sender: int, receiver: int) -> bytes:
        sealed = honest(key, plaintext, purpose, session, sender, receiver)
        return sealed[:-1] + bytes([sealed[-1] ^ 1]) if (receiver, purpose) == (3, label) else sealed

    return seal


def other_contribution() -> Callable[..., Any]:
    honest = sharing.ReceivedShares
    return lambda mask_key, self_mask, checksum: honest(mask_key, self_mask, bytes(32))


def share_out_of_range() -> Callable[..., dict[int, bytes]]:
    honest = shamir.share_secret
    return lambda *arguments: {**honest(*arguments), 1 + 3: b"\xff" * shamir.SHARE_BYTES}


@pytest.mark.parametrize(
    ("name", "replacement", "kind"),
    [
        ("_commitments", miscommit(3), FaultKind.SHARE),
        ("_seal", bad_envelope("shares envelope"), FaultKind.ENVELOPE),
        ("_seal", bad_envelope("pair seed envelope"), FaultKind.ENVELOPE),
        ("ReceivedShares", other_contribution(), FaultKind.CHECKSUM),
        ("shamir", share_out_of_range(), FaultKind.SHARE_RANGE),
    ],
)
def test_each_fault_of_a_dealer_has_its_name(
    federation: Federation, name: str, replacement: Callable[..., Any], kind: FaultKind
) -> None:
    target, name = (shamir, "share_secret") if name == "shamir" else (sharing, name)
    coordinator = federation.coordinator()
    with dealing(2, target, name, replacement):
        record = coordinator._run_round(1)
    assert claims(record) >= {(3, 2, kind)}
    assert {(accused, found) for _, accused, found in claims(record)} == {(2, kind)}
    coordinator._close_study(1)
    assert set(told(federation, "hospital-2", secfed_faults.what_it_did(kind))) == EVERYBODY - {"hospital-2"}
    assert set(told(federation, "this node", secfed_faults.what_it_did(kind))) >= {"hospital-2"}


def test_a_ledger_that_went_back_is_named_to_every_owner(federation: Federation) -> None:
    coordinator = federation.coordinator()
    coordinator._run_round(1)
    federation.nodes[3].parts.store.remember_ledger_sequences({identities(5)[0].public.raw: 1000})
    record = coordinator._run_round(2)
    assert not record.void
    assert claims(record) == {(3, 0, FaultKind.LEDGER)}
    assert record.dropped == (("hospital-3", "share"),)
    coordinator._run_round(3)
    assert told(federation, "hospital-3 says (signed) that hospital-0 showed") == once_each(
        EVERYBODY - {"hospital-0", "hospital-3"}
    )


def test_a_node_whose_own_ledger_went_back_accuses_nobody(federation: Federation) -> None:
    coordinator = federation.coordinator()
    federation.nodes[3].parts.store.remember_ledger_sequences({identities(5)[3].public.raw: 1000})
    record = coordinator._run_round(1)
    assert record.dropped == (("hospital-3", "share"),)
    assert record.faults == ()
    assert [name for name, _ in federation.refusals] == ["hospital-3"]


def test_too_many_complainers_void_the_round_and_every_owner_knows_of_whom(federation: Federation) -> None:
    coordinator = federation.coordinator()
    with dealing(0, sharing, "ReceivedShares", other_contribution()):
        record = coordinator._run_round(1)
    assert record.void
    assert claims(record) == {(node, 0, FaultKind.CHECKSUM) for node in range(1, 5)}
    assert not coordinator._run_round(2).void
    for node in range(1, 5):
        others = EVERYBODY - {"hospital-0", f"hospital-{node}"}
        assert told(federation, f"hospital-{node} says (signed) that hospital-0") == once_each(others)
    assert told(federation, "that this node sealed") == {"hospital-0": 4}


# Faults that the aggregator finds.


def test_a_node_that_releases_a_wrong_share_is_named_and_the_round_completes(federation: Federation) -> None:
    def release_another(message: Unmask) -> bytes:
        first, *rest = message.self_mask_shares
        changed = type(first)(first.owner, other_share(first.share))
        return resigned(federation, 3, message, self_mask_shares=(changed, *rest))

    bend_answers(federation, 3, Unmask, release_another)
    _, records = federation.run()
    assert [record.void for record in records] == [False] * 4
    assert claims(records[0]) == {(None, 3, FaultKind.RELEASED_SHARE)}
    assert [record.faults for record in records[1:]] == [()] * 3
    line = "round 1: the aggregator says (its word only) that {} released a share other than the one it was dealt"
    assert told(federation, line.format("hospital-3")) == once_each(EVERYBODY - {"hospital-3"})
    assert told(federation, line.format("this node")) == {"hospital-3": 1}
    assert len(federation.states()) == 1


@pytest.mark.parametrize(
    "deal", [bent_sharing(0, 1, 3, 4), sharing_of_another_secret()], ids=["no polynomial", "another secret"]
)
def test_a_dealer_whose_shares_give_no_secret_voids_the_round_and_is_named(
    federation: Federation, deal: Callable[..., Any]
) -> None:
    coordinator = federation.coordinator()
    with dealing(2, shamir, "share_secret", deal):
        record = coordinator._run_round(1)
    assert record.void
    assert claims(record) == {(None, 2, FaultKind.SECRET)}
    assert not coordinator._run_round(2).void
    assert told(federation, "hospital-2 dealt shares that do not give") == once_each(EVERYBODY - {"hospital-2"})
    assert told(federation, "this node dealt shares that do not give") == {"hospital-2": 1}


def test_a_pair_seed_that_is_not_derived_is_named_when_its_owner_drops(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(2, 1, "masked input"),))
    coordinator = federation.coordinator()
    with dealing(2, sharing, "pair_seed", other_seed(4)):
        record = coordinator._run_round(1)
    assert record.void
    assert claims(record) == {(None, 2, FaultKind.DERIVATION)}


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda message: encode(MaskedInput(**{**fields_of(message), "signature": bytes(64)})), FaultKind.SIGNATURE),
        (lambda message: encode(message)[:-1], FaultKind.MALFORMED),
        (lambda message: b"\x1b[2J\x1b]0;owned\x07", FaultKind.MALFORMED),
        (lambda message: encode(MaskedInput(**{**fields_of(message), "session": bytes(32)})), FaultKind.MISPLACED),
    ],
    ids=["signature", "cut short", "escapes", "another session"],
)
def test_a_bad_upload_is_named_to_every_owner(
    federation: Federation, change: Callable[[Any], bytes], kind: FaultKind
) -> None:
    bend_answers(federation, 1, MaskedInput, change)
    _, records = federation.run()
    assert [record.void for record in records] == [False] * 4
    assert claims(records[0]) == {(None, 1, kind)}
    assert told(federation, "round 1:", secfed_faults.what_it_did(kind)) == once_each(EVERYBODY)
    assert all(text.isprintable() for _, text in federation.told)


def test_an_honest_run_claims_nothing(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(1, 1, "share"), cut(2, 3, "unmask")))
    _, records = federation.run()
    assert federation.told == []
    assert all(record.faults == () for record in records)


def test_the_last_rounds_faults_come_with_the_closing_header(federation: Federation) -> None:
    coordinator = federation.coordinator()
    for number in (1, 2, 3):
        coordinator._run_round(number)
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        coordinator._run_round(4)
    assert told(federation, "says") == {}
    coordinator._close_study(4)
    assert told(federation, "hospital-1 says (signed) that hospital-4") == once_each(
        EVERYBODY - {"hospital-1", "hospital-4"}
    )


def test_a_node_that_was_away_is_told_when_it_is_back(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(0, 3, "advertise"),))
    bend_answers(federation, 1, MaskedInput, lambda message: encode(message)[:-1])
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        coordinator = federation.coordinator()
        coordinator._run_round(1)
        coordinator._run_round(2)
    federation.told.clear()
    coordinator._run_round(3)
    assert "hospital-0" not in {name for name, _ in federation.told}
    coordinator._run_round(4)
    assert told(federation, "round 2: hospital-1 says (signed) that hospital-4") == once_each(
        EVERYBODY - {"hospital-1", "hospital-4"}
    )


# What a complaint is.


def complaint_of(federation: Federation, number: int = 1) -> tuple[Coordinator, Complaint]:
    """A round in which node 1 complains of node 4."""
    coordinator = federation.coordinator()
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        for at in range(1, number + 1):
            coordinator._run_round(at)
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
        record = coordinator._run_round(1)
    assert claims(record) == {(None, 1, FaultKind.MALFORMED)}
    assert not record.void


def test_a_node_cannot_hand_in_anothers_complaint(federation: Federation) -> None:
    """Node 1 colludes with node 2, which has signed; the channel vouches for who answers."""

    def anothers(message: Complaint) -> bytes:
        return resigned(federation, 2, message, sender=2)

    bend_answers(federation, 1, Complaint, anothers)
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        record = federation.coordinator()._run_round(1)
    assert claims(record) == {(None, 1, FaultKind.MALFORMED)}


@pytest.mark.parametrize("kind", [Unmask, MaskedInput])
def test_a_complaint_counts_only_where_a_peers_fault_can_show(federation: Federation, kind: Any) -> None:
    def accuse(_: Any) -> bytes:
        message = Complaint(federation.study.digest, 1, 2, 0, int(FaultKind.SHARE), b"")
        return encode(sharing.sign(message, federation.nodes[2].parts.identity))

    bend_answers(federation, 2, kind, accuse)
    record = federation.coordinator()._run_round(1)
    assert not record.void
    expected = (2, 0, FaultKind.SHARE) if kind is MaskedInput else (None, 2, FaultKind.MALFORMED)
    assert claims(record) == {expected}


# What an untrusted aggregator can do with claims: show lines that name no more than who says what.


class Inventing:
    """Passes everything on, and adds claims of its own to every header."""

    def __init__(self, federation: Federation, invent: Callable[[int], Faults]) -> None:
        self._honest = federation.coordinator()._channel
        self._limits = federation.nodes[0]._limits
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
    coordinator._run_round(2)
    coordinator._channel = Inventing(federation, lambda _: Faults((complaint,), ()))
    before = len(federation.told)
    record = coordinator._run_round(3)
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
            assert not coordinator._run_round(number).void
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
