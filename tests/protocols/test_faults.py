"""Dishonest nodes: what is wrong is found, the node at fault is named, and the round goes on where it can.

Every attack here is also run with the check against it taken out, and then it succeeds: the sum is wrong, or the wrong
node is named, or nobody notices. So each test fails when its check is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crypto import shamir
from crypto.identity import PublicIdentity
from crypto.kdf import digest
from protocols import derivations, encoding, sharing
from protocols.aggregator import Stage
from protocols.errors import (
    BadSignature,
    Equivocation,
    MalformedMessage,
    OutOfOrder,
    RemoteError,
    RoundVoid,
    WrongCommitment,
    WrongSession,
)
from protocols.events import Rejected
from protocols.messages import ReleasedShare, Unmask
from protocols.session import SessionConfig
from protocols.unmasking import Unmasking
from protocols.wire import encode
from tests.protocols.dealers import (
    bent_sharing,
    dealing,
    miscommit,
    other_sealed_seed,
    other_seed,
    other_share,
    sharing_of_another_secret,
)
from tests.protocols.rounds import configure, plain_sum
from tests.protocols.stages import FROM_NODE, Walk, flipped, replaced

STAGES = list(FROM_NODE)


def seven() -> SessionConfig:
    """N = 7, c = 1, f = 2: quorum 5."""
    return configure(7, dropouts=2, colluders=1)


def right(walk: Walk) -> bool:
    """Whether what the aggregator published, and every node that accepted it has, is the survivors' sum."""
    expected = plain_sum(walk.config, walk.vectors, walk.aggregator.survivors)
    shape = walk.config.context.shape
    published = encoding.from_ring(encoding.unpack(walk.aggregator.packed_sum, shape), shape)
    return all(total.tolist() == expected for total in (published, *walk.totals.values()))


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
    monkeypatch.setattr("protocols.unmasking._subsets", lambda nodes, size: iter([tuple(nodes[:size])]))
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


# Answers that are not the sender's own.


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.value)
def test_an_answer_with_a_wrong_signature_is_rejected(stage: Stage) -> None:
    walk = Walk(seven()).to(stage)
    walk.collect()
    message = walk.read(FROM_NODE[stage], walk.answers[4])
    walk.answers[4] = encode(replaced(message, signature=flipped(message.signature, 77)))
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, BadSignature)
    assert (rejected.sender, rejected.fault.sender) == (4, 4)


@pytest.mark.parametrize("stage", STAGES[2:], ids=lambda stage: stage.value)
def test_without_signatures_a_changed_answer_would_be_counted(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Walk(seven()).to(stage)
    walk.collect()
    message = walk.read(FROM_NODE[stage], walk.answers[4])
    walk.answers[4] = encode(replaced(message, signature=bytes(64)))
    monkeypatch.setattr(PublicIdentity, "verifies", lambda *_: True)
    walk.hand_over()
    assert walk.rejected == []
    assert 4 not in walk.aggregator.absent


def test_a_changed_masked_input_is_not_counted() -> None:
    walk = Walk(seven()).to(Stage.MASKED_INPUT)
    walk.collect()
    message = walk.read(FROM_NODE[walk.stage], walk.answers[4])
    walk.answers[4] = encode(replaced(message, vector=flipped(message.vector, 3)))
    walk.hand_over()
    assert isinstance(walk.rejected[0].fault, BadSignature)
    walk.finish()
    assert walk.aggregator.survivors == (0, 1, 2, 3, 5, 6)
    assert right(walk)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.value)
def test_an_answer_in_anothers_name_is_rejected_and_leaves_the_other_alone(stage: Stage) -> None:
    walk = Walk(seven()).to(stage)
    walk.collect()
    walk.answers[4] = walk.answers[5]
    walk.hand_over()
    (rejected,) = walk.rejected
    assert (rejected.sender, rejected.fault.sender) == (4, 4)
    if stage is not Stage.CLOSE:
        assert walk.aggregator.absent == {4: stage}


@pytest.mark.parametrize("stage", STAGES[:-1], ids=lambda stage: stage.value)
def test_an_answer_that_names_another_is_rejected_though_its_own_signature_is_good(stage: Stage) -> None:
    walk = Walk(seven()).to(stage)
    walk.collect()
    walk.bend_answer(4, sender=5)
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, MalformedMessage)
    assert (rejected.fault.sender, rejected.fault.field) == (4, "sender")


@pytest.mark.parametrize("stage", [Stage.AGREE, Stage.UNMASK], ids=lambda stage: stage.value)
def test_a_round_that_ends_because_nodes_are_absent_blames_nobody(stage: Stage) -> None:
    with pytest.raises(RoundVoid, match=r"4 .* where 5 are needed") as void:
        Walk(seven()).finish({stage: {0, 1, 2}})
    assert void.value.blamed == frozenset()
    assert void.value.stage == stage.value


@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.MASKED_INPUT, Stage.AGREE, Stage.UNMASK, Stage.CLOSE])
def test_an_answer_of_another_session_is_rejected(stage: Stage) -> None:
    walk, other = Walk(seven()).to(stage), Walk(seven(), seed=b"other").to(stage)
    walk.collect()
    other.collect()
    walk.answers[4] = other.answers[4]
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, WrongSession)
    assert rejected.fault.field == "session"


def test_an_advertisement_for_another_round_is_rejected() -> None:
    walk, other = Walk(seven()), Walk(configure(7, dropouts=2, colluders=1, round_number=2))
    walk.collect()
    other.collect()
    walk.answers[4] = other.answers[4]
    walk.hand_over()
    assert isinstance(walk.rejected[0].fault, WrongSession)
    assert walk.rejected[0].fault.field == "context"


def test_a_copied_public_key_is_rejected_before_it_can_stop_the_others() -> None:
    for own, other in (("channel_key", "channel_key"), ("mask_key", "channel_key")):
        walk = Walk(seven())
        walk.collect()
        copied = getattr(walk.read(FROM_NODE[walk.stage], walk.answers[0]), other)
        walk.bend_answer(4, **{own: copied})
        walk.hand_over()
        (rejected,) = walk.rejected
        assert isinstance(rejected.fault, WrongSession)
        assert rejected.fault.sender == 4
        assert right(walk.finish())


def test_one_key_for_both_purposes_is_rejected() -> None:
    walk = Walk(seven())
    walk.collect()
    walk.bend_answer(4, mask_key=walk.read(FROM_NODE[walk.stage], walk.answers[4]).channel_key)
    walk.hand_over()
    assert [rejected.fault.sender for rejected in walk.rejected] == [4]


@pytest.mark.parametrize("field", ["channel_key", "mask_key"])
@pytest.mark.parametrize("key", [bytes(1216), b"\xff" * 1216], ids=["small order", "not reduced"])
def test_a_key_that_cannot_be_sealed_to_is_rejected_before_it_can_stop_the_others(field: str, key: bytes) -> None:
    walk = Walk(seven())
    walk.collect()
    walk.bend_answer(4, **{field: key})
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, MalformedMessage)
    assert rejected.fault.sender == 4
    assert right(walk.finish())


@pytest.mark.parametrize("field", ["shares", "seeds"])
@pytest.mark.parametrize("change", [lambda e: e[:-1], lambda e: e[::-1], lambda e: (*e, e[-1]), lambda e: ()])
def test_envelopes_for_others_than_the_peers_are_rejected(field: str, change: Callable[[Any], Any]) -> None:
    walk = Walk(seven()).to(Stage.SHARE)
    walk.collect()
    walk.bend_answer(2, **{field: change(getattr(walk.read(FROM_NODE[walk.stage], walk.answers[2]), field))})
    walk.hand_over()
    (rejected,) = walk.rejected
    assert (rejected.fault.sender, rejected.fault.field) == (2, field)


@pytest.mark.parametrize("field", ["shares", "seeds"])
def test_an_envelope_that_its_sender_did_not_sign_is_rejected(field: str) -> None:
    walk = Walk(seven()).to(Stage.SHARE)
    walk.collect()
    envelopes = getattr(walk.read(FROM_NODE[walk.stage], walk.answers[2]), field)
    walk.bend_answer(2, **{field: (replaced(envelopes[0], sealed=flipped(envelopes[0].sealed, 9)), *envelopes[1:])})
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, BadSignature)
    assert rejected.fault.sender == 2


@pytest.mark.parametrize("field", ["shares", "seeds"])
def test_another_nodes_envelope_is_rejected_though_its_signature_is_good(field: str) -> None:
    walk = Walk(seven()).to(Stage.SHARE)
    walk.collect()
    mine, others = (getattr(walk.read(FROM_NODE[walk.stage], walk.answers[node]), field) for node in (2, 3))
    assert mine[-1].receiver == others[-1].receiver == 6
    walk.bend_answer(2, **{field: (*mine[:-1], others[-1])})
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, MalformedMessage)
    assert (rejected.fault.sender, rejected.fault.field) == (2, "sender")


def test_a_node_that_signs_other_sets_than_announced_does_not_count() -> None:
    walk = Walk(seven()).to(Stage.AGREE)
    walk.collect()
    walk.bend_answer(4, survivors=(0, 1, 2, 3, 4))
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, WrongSession)
    assert rejected.fault.sender == 4


def test_a_second_different_answer_is_rejected_and_the_first_one_stands() -> None:
    walk = Walk(seven()).to(Stage.MASKED_INPUT)
    walk.collect()
    assert walk.aggregator.receive(4, walk.answers[4]) is not None
    first = walk.answers[4]
    walk.bend_answer(4, vector=bytes(28))
    event = walk.aggregator.receive(4, walk.answers[4])
    assert isinstance(event, Rejected)
    assert isinstance(event.fault, Equivocation)
    walk.answers.pop(4)
    walk.hand_over()
    assert walk.aggregator.receive(4, first) is None
    assert right(walk.finish())
    assert 4 in walk.aggregator.survivors


def test_repeated_answers_are_never_counted_twice_nor_held_against_their_sender() -> None:
    walk = Walk(seven())
    sent: list[tuple[int, bytes]] = []
    while walk.stage is not Stage.CLOSE:
        walk.collect()
        sent += walk.answers.items()
        walk.hand_over()
        assert [walk.aggregator.receive(node, data) for node, data in sent] == [None] * len(sent)
    assert right(walk.finish())
    assert walk.aggregator.absent == {}


def test_a_late_answer_of_an_absent_node_is_not_counted() -> None:
    walk = Walk(seven()).to(Stage.MASKED_INPUT)
    walk.collect()
    late = walk.answers.pop(4)
    walk.hand_over()
    event = walk.aggregator.receive(4, late)
    assert isinstance(event, Rejected)
    assert isinstance(event.fault, OutOfOrder)
    assert right(walk.finish())


@pytest.mark.parametrize("sender", [-1, 7, 10**6])
def test_a_sender_outside_the_roster_is_rejected(sender: int) -> None:
    walk = Walk(seven())
    walk.collect()
    event = walk.aggregator.receive(sender, walk.answers[0])
    assert isinstance(event, Rejected)
    assert isinstance(event.fault, RemoteError)


@pytest.mark.parametrize(("field", "value"), [("tag", (2**61 - 1).to_bytes(8, "big")), ("vector", b"\xff" * 8)])
def test_the_rejection_of_a_masked_input_names_the_field_that_is_wrong(field: str, value: bytes) -> None:
    walk = Walk(configure(5, dropouts=1, dimension=7, ring_bits=9)).to(Stage.MASKED_INPUT)
    walk.collect()
    walk.bend_answer(1, **{field: value})
    walk.hand_over()
    (rejected,) = walk.rejected
    assert isinstance(rejected.fault, MalformedMessage)
    assert rejected.fault.field == field
