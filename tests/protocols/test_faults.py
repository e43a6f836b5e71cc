"""Bad shares, seeds and envelopes are traced to their node, and the round goes on where the quorum is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crypto import shamir
from crypto.kdf import digest
from protocols import derivations, sharing
from protocols.aggregator import Stage
from protocols.errors import (
    MalformedMessage,
    RoundVoid,
    WrongCommitment,
)
from protocols.messages import ReleasedShare, Unmask
from protocols.unmasking import Search, Unmasking
from tests.protocols.dealers import (
    bent_sharing,
    dealing,
    miscommit,
    other_sealed_seed,
    other_seed,
    other_share,
    sharing_of_another_secret,
)
from tests.protocols.rounds import configure
from tests.protocols.seven import right, seven
from tests.protocols.stages import Walk, flipped, replaced

# A releaser shows a share that it was not dealt.


def release_wrong_share(walk: Walk, node: int, field: str, at: int) -> None:
    walk.to(Stage.UNMASK, {Stage.MASKED_INPUT: {6}})
    walk.collect()
    shares = list(getattr(walk.read(Unmask, walk.answers[node]), field))
    shares[at] = replaced(shares[at], share=other_share(shares[at].share))
    walk.bend_answer(node, **{field: tuple(shares)})
    walk.hand_over()
    walk.collect()


@pytest.mark.parametrize("node", [0, 3, 5])
@pytest.mark.parametrize(("field", "at"), [("self_mask_shares", 0), ("self_mask_shares", 5), ("mask_key_shares", 0)])
def test_a_wrong_share_is_found_by_its_commitment_and_its_releaser_named(node: int, field: str, at: int) -> None:
    walk = Walk(seven())
    release_wrong_share(walk, node, field, at)
    (rejected,) = walk.rejected
    assert (rejected.sender, rejected.stage) == (node, Stage.UNMASK.value)
    assert isinstance(rejected.fault, WrongCommitment)
    assert (rejected.fault.sender, rejected.fault.field) == (node, field)
    assert walk.aggregator.absent == {6: Stage.MASKED_INPUT, node: Stage.UNMASK}
    assert right(walk)


@pytest.mark.parametrize("field", ["self_mask_shares", "mask_key_shares"])
def test_without_share_commitments_nobody_is_named(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unmasking, "_is_dealt", lambda *_: True)
    walk = Walk(seven())
    release_wrong_share(walk, 0, field, 0)
    assert walk.rejected == []
    assert right(walk)  # another subset gives the committed secret


def test_without_any_commitment_a_wrong_share_of_a_self_mask_gives_a_wrong_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unmasking, "_is_dealt", lambda *_: True)
    monkeypatch.setattr(Unmasking, "_is_self_mask_seed", lambda *_: True)
    walk = Walk(seven())
    release_wrong_share(walk, 0, "self_mask_shares", 0)
    assert walk.rejected == []
    assert not right(walk)


def test_without_any_commitment_a_wrong_share_of_a_mask_key_is_blamed_on_an_innocent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Unmasking, "_is_dealt", lambda *_: True)
    monkeypatch.setattr(Unmasking, "_is_mask_seed", lambda *_: True)
    with pytest.raises(RoundVoid) as void:  # the wrong key opens none of the envelopes that honest nodes sealed
        release_wrong_share(Walk(seven()), 3, "mask_key_shares", 0)
    assert 3 not in void.value.blamed
    assert void.value.blamed


@pytest.mark.parametrize(
    "change",
    [
        lambda shares: shares[:-1],
        lambda shares: (*shares, shares[-1]),
        lambda shares: (*shares, ReleasedShare(6, shares[0].share)),
        lambda shares: shares[::-1],
    ],
)
def test_shares_of_others_than_the_agreed_sets_are_rejected(change: Callable[[Any], Any]) -> None:
    walk = Walk(seven()).to(Stage.UNMASK, {Stage.MASKED_INPUT: {6}})
    walk.collect()
    walk.bend_answer(2, self_mask_shares=change(walk.read(Unmask, walk.answers[2]).self_mask_shares))
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, MalformedMessage)
    assert (rejected.fault.sender, rejected.fault.field) == (2, "self_mask_shares")


# A dealer deals shares that do not fit together.


@pytest.mark.parametrize("absent", [{}, {Stage.MASKED_INPUT: {2}}], ids=["a survivor", "dropped"])
@pytest.mark.parametrize("receivers", [(0,), (6,), (1, 3), (0, 4), (3, 6)])
def test_a_subset_that_gives_the_committed_secret_saves_the_round(
    receivers: tuple[int, ...], absent: dict[Stage, set[int]]
) -> None:
    """Node 2 deals shares that lie on no one polynomial; five right ones are left, in whatever places."""
    with dealing(2, shamir, "share_secret", bent_sharing(*receivers)):
        config = configure(7, dropouts=3, colluders=0) if absent else seven()
        walk = Walk(config).finish(absent)
    assert walk.rejected == []
    assert walk.left == {}
    assert right(walk)


@pytest.mark.parametrize("absent", [{}, {Stage.MASKED_INPUT: {2}}], ids=["a survivor", "dropped"])
@pytest.mark.parametrize("deal", [bent_sharing(0, 1, 3, 5), sharing_of_another_secret()], ids=["bent", "another"])
def test_a_dealer_whose_shares_never_give_its_secret_voids_the_round_and_is_named(
    deal: Callable[..., Any], absent: dict[Stage, set[int]]
) -> None:
    with dealing(2, shamir, "share_secret", deal), pytest.raises(RoundVoid) as void:
        Walk(seven()).finish(absent)
    assert void.value.blamed == {2}
    assert void.value.stage == Stage.UNMASK.value
    assert "node 2" in str(void.value)


def test_without_the_commitment_to_the_self_mask_another_secret_gives_a_wrong_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Unmasking, "_is_self_mask_seed", lambda *_: True)
    with dealing(2, shamir, "share_secret", sharing_of_another_secret()):
        walk = Walk(seven()).to(Stage.CLOSE)
    assert walk.rejected == []
    assert not right(walk)


def test_without_trying_subsets_one_bent_share_would_void_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "subsets", lambda _, nodes, size: iter([tuple(nodes[:size])]))
    with dealing(2, shamir, "share_secret", bent_sharing(0)), pytest.raises(RoundVoid):
        Walk(seven()).finish()


# A dealer commits to another share than it seals to one receiver.


@pytest.mark.parametrize("receiver", [0, 6])
def test_a_receiver_of_another_share_than_the_committed_one_leaves_and_names_the_dealer(receiver: int) -> None:
    with dealing(2, sharing, "_commitments", miscommit(receiver)):
        walk = Walk(seven()).finish()
    error = walk.left[receiver]
    assert isinstance(error, WrongCommitment)
    assert error.sender == 2
    assert set(walk.left) == {receiver}
    assert walk.clients[receiver]._secrets.wiped
    assert walk.aggregator.absent == {receiver: Stage.MASKED_INPUT}
    assert right(walk)


def test_without_the_receivers_check_an_innocent_receiver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_unchecked(envelope: Any, session: bytes, channel_key: Any, _: Any) -> Any:
        binding = sharing._binding(session, envelope.sender, envelope.receiver)
        plaintext = channel_key.open(envelope.sealed, derivations.SHARES_LABEL, *binding)
        return sharing.ReceivedShares(plaintext[:33], plaintext[33:66], plaintext[66:])

    monkeypatch.setattr(sharing, "_open_shares", open_unchecked)
    with dealing(2, sharing, "_commitments", miscommit(0)):
        walk = Walk(seven()).finish()
    assert [rejected.fault.sender for rejected in walk.rejected] == [0]


def test_a_checksum_contribution_other_than_the_advertised_one_is_the_dealers_fault() -> None:
    honest = sharing.ReceivedShares

    def other(mask_key: bytes, self_mask: bytes, checksum: bytes) -> Any:
        return honest(mask_key, self_mask, digest("another", checksum))

    walk = Walk(seven())
    with dealing(2, sharing, "ReceivedShares", other), pytest.raises(RoundVoid):
        walk.finish()
    assert {type(error) for error in walk.left.values()} == {WrongCommitment}
    assert {error.sender for error in walk.left.values()} == {2}  # type: ignore[attr-defined]


@pytest.mark.parametrize("target", ["channel", "mask"])
def test_an_envelope_that_does_not_open_is_its_senders_fault(target: str) -> None:
    honest = sharing._seal
    wanted = derivations.SHARES_LABEL if target == "channel" else derivations.SEED_LABEL

    def seal(key: bytes, plaintext: bytes, label: str, session: bytes, sender: int, receiver: int) -> bytes:
        sealed = honest(key, plaintext, label, session, sender, receiver)
        return flipped(sealed, 5000) if (receiver, label) == (4, wanted) else sealed

    walk = Walk(seven())
    with dealing(2, sharing, "_seal", seal):
        walk.to(Stage.AGREE)
    error = walk.left[4]
    assert isinstance(error, MalformedMessage)
    assert error.sender == 2


def test_a_share_that_is_no_number_below_the_prime_is_the_dealers_fault() -> None:
    honest = shamir.share_secret

    def share_secret(*arguments: Any) -> dict[int, bytes]:
        return {**honest(*arguments), 1 + 4: b"\xff" * 33}

    walk = Walk(seven())
    with dealing(2, shamir, "share_secret", share_secret):
        walk.to(Stage.AGREE)
    assert isinstance(walk.left[4], MalformedMessage)
    assert walk.left[4].sender == 2


# A dealer seals another pair seed than its mask seed gives, or than it commits to.


def test_a_pair_seed_that_is_not_derived_is_found_when_its_owner_drops() -> None:
    with dealing(2, sharing, "pair_seed", other_seed(5)), pytest.raises(RoundVoid) as void:
        Walk(seven()).finish({Stage.MASKED_INPUT: {2}})
    assert void.value.blamed == {2}


def test_a_pair_seed_that_is_not_derived_but_kept_to_does_no_harm_while_its_owner_stays() -> None:
    with dealing(2, sharing, "pair_seed", other_seed(5)):
        assert right(Walk(seven()).finish())
        assert right(Walk(seven()).finish({Stage.MASKED_INPUT: {5}}))


def test_a_pair_seed_other_than_the_committed_one_is_found_by_its_receiver_and_by_the_aggregator() -> None:
    walk = Walk(seven())
    with dealing(2, sharing, "_seal", other_sealed_seed(5)), pytest.raises(RoundVoid) as void:
        walk.finish()
    assert isinstance(walk.left[5], WrongCommitment)
    assert walk.left[5].sender == 2
    assert void.value.blamed == {2}


@pytest.mark.parametrize(
    ("name", "bend", "dropped"), [("pair_seed", other_seed(5), 2), ("_seal", other_sealed_seed(5), 5)]
)
def test_without_the_commitment_to_pair_seeds_a_dropout_gives_a_wrong_sum(
    name: str, bend: Callable[..., bytes], dropped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derivations, "commit_pair_seed", lambda *_: bytes(32))
    monkeypatch.setattr(sharing, "commit_pair_seed", lambda *_: bytes(32))
    with dealing(2, sharing, name, bend):
        walk = Walk(seven()).to(Stage.CLOSE, {Stage.MASKED_INPUT: {dropped}})
    assert walk.rejected == []
    assert walk.left == {}
    assert not right(walk)
