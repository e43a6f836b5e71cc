"""Answers that are not their sender's own, or not of this place: rejected, named, and never counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crypto.identity import PublicIdentity
from protocols.aggregator import Stage
from protocols.errors import (
    BadSignature,
    Equivocation,
    MalformedMessage,
    OutOfOrder,
    RemoteError,
    RoundVoid,
    WrongSession,
)
from protocols.events import Rejected
from protocols.wire import encode
from tests.protocols.rounds import configure
from tests.protocols.seven import right, seven
from tests.protocols.stages import FROM_NODE, Walk, flipped, replaced

STAGES = list(FROM_NODE)


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
