"""Who broke a round is named to every owner, and the round goes on where it can."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crypto import shamir
from protocols import sharing
from protocols.errors import FaultKind
from protocols.messages import MaskedInput, Unmask
from protocols.wire import encode, fields_of
from secfed.rounds import faults as secfed_faults
from secfed.rounds.events import NodeAbsent
from tests.protocols.dealers import (
    bent_sharing,
    dealing,
    miscommit,
    other_sealed_share,
    other_seed,
    other_share,
    sharing_of_another_secret,
)
from tests.secfed.bending import EVERYBODY, bend_answers, claims, once_each, resigned, told
from tests.secfed.federation import Federation, cut, identities, make_study

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


def share_out_of_range(which: int, share: int) -> Callable[..., dict[int, bytes]]:
    """Deals hospital-3 this number as its share of one secret, and commits to it: 0 for the mask key's, which a dealer
    makes first, and 1 for the self-mask's."""
    honest = shamir.share_secret
    turns = itertools.count()

    def share_secret(*arguments: Any) -> dict[int, bytes]:
        shares = honest(*arguments)
        return {**shares, 1 + 3: share.to_bytes(33, "big")} if next(turns) % 2 == which else shares

    return share_secret


@pytest.mark.parametrize(
    ("name", "replacement", "kind"),
    [
        ("_commitments", miscommit(3), FaultKind.SHARE),
        ("_seal", bad_envelope("shares envelope"), FaultKind.ENVELOPE),
        ("_seal", bad_envelope("pair seed envelope"), FaultKind.ENVELOPE),
        ("ReceivedShares", other_contribution(), FaultKind.CHECKSUM),
        ("shamir", share_out_of_range(0, shamir.PRIME), FaultKind.SHARE_RANGE),
        ("shamir", share_out_of_range(1, shamir.PRIME), FaultKind.SHARE_RANGE),
        ("shamir", share_out_of_range(1, 2 ** (8 * shamir.SHARE_BYTES) - 1), FaultKind.SHARE_RANGE),
    ],
)
def test_each_fault_of_a_dealer_has_its_name(
    federation: Federation, name: str, replacement: Callable[..., Any], kind: FaultKind
) -> None:
    target, name = (shamir, "share_secret") if name == "shamir" else (sharing, name)
    coordinator = federation.coordinator()
    with dealing(2, target, name, replacement):
        record = coordinator.run_round(1)
    assert claims(record) >= {(3, 2, kind)}
    assert {(accused, found) for _, accused, found in claims(record)} == {(2, kind)}
    coordinator.close_study()
    assert set(told(federation, "hospital-2", secfed_faults.what_it_did(kind))) == EVERYBODY - {"hospital-2"}
    assert set(told(federation, "this node", secfed_faults.what_it_did(kind))) >= {"hospital-2"}


def test_a_ledger_that_went_back_is_named_to_every_owner(federation: Federation) -> None:
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    federation.nodes[3].parts.store.remember_ledger_sequences({identities(5)[0].public.raw: 1000})
    record = coordinator.run_round(2)
    assert not record.void
    assert claims(record) == {(3, 0, FaultKind.LEDGER)}
    assert record.dropped == (("hospital-3", "share"),)
    coordinator.run_round(3)
    assert told(federation, "hospital-3 says (signed) that hospital-0 showed") == once_each(
        EVERYBODY - {"hospital-0", "hospital-3"}
    )


def test_a_node_whose_own_ledger_went_back_accuses_nobody(federation: Federation) -> None:
    coordinator = federation.coordinator()
    federation.nodes[3].parts.store.remember_ledger_sequences({identities(5)[3].public.raw: 1000})
    record = coordinator.run_round(1)
    assert record.dropped == (("hospital-3", "share"),)
    assert record.faults == ()
    assert [name for name, _ in federation.refusals] == ["hospital-3"]


def test_too_many_complainers_void_the_round_and_every_owner_knows_of_whom(federation: Federation) -> None:
    coordinator = federation.coordinator()
    with dealing(0, sharing, "ReceivedShares", other_contribution()):
        record = coordinator.run_round(1)
    assert record.void
    assert claims(record) == {(node, 0, FaultKind.CHECKSUM) for node in range(1, 5)}
    assert not coordinator.run_round(2).void
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
        record = coordinator.run_round(1)
    assert record.void
    assert claims(record) == {(None, 2, FaultKind.SECRET)}
    assert not coordinator.run_round(2).void
    assert told(federation, "hospital-2 dealt shares that do not give") == once_each(EVERYBODY - {"hospital-2"})
    assert told(federation, "this node dealt shares that do not give") == {"hospital-2": 1}


def test_a_pair_seed_that_is_not_derived_is_named_when_its_owner_drops(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(2, 1, "masked input"),))
    coordinator = federation.coordinator()
    with dealing(2, sharing, "pair_seed", other_seed(4)):
        record = coordinator.run_round(1)
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
        coordinator.run_round(number)
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        coordinator.run_round(4)
    assert told(federation, "says") == {}
    coordinator.close_study()
    assert told(federation, "hospital-1 says (signed) that hospital-4") == once_each(
        EVERYBODY - {"hospital-1", "hospital-4"}
    )


def test_a_node_that_was_away_is_told_when_it_is_back(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=(cut(0, 3, "advertise"),))
    bend_answers(federation, 1, MaskedInput, lambda message: encode(message)[:-1])
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        coordinator = federation.coordinator()
        coordinator.run_round(1)
        coordinator.run_round(2)
    federation.told.clear()
    coordinator.run_round(3)
    assert "hospital-0" not in {name for name, _ in federation.told}
    coordinator.run_round(4)
    assert told(federation, "round 2: hospital-1 says (signed) that hospital-4") == once_each(
        EVERYBODY - {"hospital-1", "hospital-4"}
    )
