"""The node's state machine: what order of messages it takes, and of which session and cohort."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from crypto.identity import Identity
from crypto.kdf import digest
from protocols import sharing
from protocols.aggregator import Stage
from protocols.errors import (
    BadSignature,
    Equivocation,
    Excluded,
    LocalError,
    NotCanonical,
    OutOfOrder,
    OversizedMessage,
    RemoteError,
    WrongSession,
)
from protocols.events import InputWanted, Send, SumPublished
from protocols.messages import (
    Advertise,
    Cohort,
    Survivors,
)
from protocols.steps import State
from protocols.wire import encode
from tests.protocols.client_walks import NODE, STAGES, five, refused
from tests.protocols.rounds import configure
from tests.protocols.stages import NEW_STATE, TO_NODE, Walk, replaced


def other_valid(walk: Walk) -> bytes:
    """A second message of the present stage that differs and that an honest aggregator might have sent as well."""
    message = walk.read(TO_NODE[walk.stage], walk.outgoing[NODE])
    match walk.stage:
        case Stage.ADVERTISE:
            return walk.bend(NODE, state=digest("another state"))
        case Stage.SHARE:
            return walk.bend(NODE, advertisements=message.advertisements[:-1])
        case Stage.MASKED_INPUT:
            return walk.bend(NODE, shares=message.shares[:-1])
        case Stage.AGREE:
            return walk.bend(NODE, survivors=message.survivors[:-1])
        case Stage.UNMASK:
            return walk.bend(NODE, signatures=message.signatures[:-1])
        case Stage.CLOSE:
            return walk.bend(NODE, vector=bytes(len(message.vector)))


@pytest.mark.parametrize("stage", STAGES[1:-1], ids=lambda stage: stage.value)  # there is only one sum: its tag fits
def test_the_other_message_of_these_tests_would_have_been_accepted_as_the_first(stage: Stage) -> None:
    walk = Walk(five()).to(stage)
    assert walk.clients[NODE].receive(other_valid(walk))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.value)
def test_a_second_different_message_of_a_kind_ends_the_session(stage: Stage) -> None:
    walk = Walk(five()).to(stage)
    other = other_valid(walk)
    walk.collect()
    if stage is not Stage.CLOSE:
        refused(walk, other, Equivocation)
        return
    client = walk.clients[NODE]
    signed = client.statement
    with pytest.raises(Equivocation):
        client.receive(other)
    assert client.statement == signed
    with pytest.raises(LocalError):
        client.close(digest("another state"))


@pytest.mark.parametrize("later", STAGES[1:], ids=lambda stage: stage.value)
def test_a_changed_message_of_an_earlier_stage_ends_the_session_too(later: Stage) -> None:
    walk = Walk(five())
    others = []
    while walk.stage is not later:
        others.append(other_valid(walk))
        walk.collect()
        walk.hand_over()
    for at, other in enumerate(others):
        again = Walk(five()).to(later)
        refused(again, other, Equivocation)
        assert at < len(others)


@pytest.mark.parametrize("state", STAGES, ids=lambda stage: stage.value)
def test_a_message_of_a_later_stage_ends_the_session(state: Stage) -> None:
    whole = Walk(five())
    messages = {}
    while True:
        messages[whole.stage] = whole.outgoing[NODE]
        if whole.stage is Stage.CLOSE:
            break
        whole.collect()
        whole.hand_over()
    for later in STAGES[STAGES.index(state) + 1 :]:
        error = refused(Walk(five()).to(state), messages[later], RemoteError)
        assert isinstance(error, OutOfOrder | OversizedMessage)


def test_nothing_but_the_sum_is_taken_between_delivery_and_submission() -> None:
    walk = Walk(five()).to(Stage.MASKED_INPUT)
    client = walk.clients[NODE]
    assert client.receive(walk.outgoing[NODE]) == (InputWanted((0, 1, 2, 3, 4)),)
    assert client.receive(walk.outgoing[NODE]) == ()
    refused(walk, encode(Survivors(walk.aggregator.session, (0, 1, 2, 3, 4))), OutOfOrder)


def test_repeated_bytes_get_identical_answers_in_every_later_state() -> None:
    walk = Walk(five())
    seen: list[tuple[bytes, bytes]] = []
    while True:
        walk.collect()
        seen.append((walk.outgoing[NODE], walk.answers[NODE]))
        for data, answer in seen:
            sent = [event.data for event in walk.clients[NODE].receive(data) if isinstance(event, Send)]
            assert sent == [answer]
        if walk.stage is Stage.CLOSE:
            break
        walk.hand_over()
    assert walk.clients[NODE].state is State.CLOSED
    assert len(seen) == len(STAGES)


def test_a_repeated_sum_is_not_answered_before_the_next_state_is_known() -> None:
    walk = Walk(five()).to(Stage.CLOSE)
    client = walk.clients[NODE]
    assert isinstance(client.receive(walk.outgoing[NODE])[0], SumPublished)
    assert client.receive(walk.outgoing[NODE]) == ()
    closing = client.close(NEW_STATE)
    assert client.receive(walk.outgoing[NODE]) == (Send(closing),)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("study", digest("x")),
        ("round_number", 2),
        ("predecessor", digest("x")),
        ("base_model", digest("x")),
        ("state", digest("x")),
        ("dimension", 8),
        ("ring_bits", 31),
    ],
)
def test_an_opening_for_anything_else_is_refused_by_field(field: str, change: Any) -> None:
    walk = Walk(five())
    error = refused(walk, walk.bend(NODE, **{field: change}), WrongSession, field)
    assert error.sender is None


@pytest.mark.parametrize("field", ["study", "round_number", "predecessor", "base_model", "state", "shape"])
def test_a_node_told_another_context_advertises_under_another_digest(field: str) -> None:
    config = five()
    other = {
        "round_number": 2,
        "shape": dataclasses.replace(config.context.shape, dimension=8),
    }.get(field, digest("x"))
    context = dataclasses.replace(config.context, **{field: other})
    assert context.digest() != config.context.digest()
    elsewhere = Walk(dataclasses.replace(config, context=context)).to(Stage.SHARE)
    walk = Walk(config).to(Stage.SHARE)
    own = walk.read(Cohort, walk.outgoing[NODE]).advertisements[NODE]
    foreign = list(elsewhere.read(Cohort, elsewhere.outgoing[NODE]).advertisements)
    foreign[NODE] = own
    refused(walk, encode(Cohort(tuple(foreign))), WrongSession, "context")


@pytest.mark.parametrize("stage", STAGES[2:], ids=lambda stage: stage.value)
def test_a_message_of_another_session_is_refused(stage: Stage) -> None:
    walk = Walk(five()).to(stage)
    other = Walk(five(), seed=b"other").to(stage)
    assert other.aggregator.session != walk.aggregator.session
    refused(walk, other.outgoing[NODE], WrongSession, "session")


def bent_cohort(walk: Walk, change: Callable[[list[Advertise]], object]) -> bytes:
    advertisements = list(walk.read(Cohort, walk.outgoing[NODE]).advertisements)
    change(advertisements)
    return encode(Cohort(tuple(advertisements)))


def resign(walk: Walk, advertisements: list[Advertise], node: int, **changes: Any) -> None:
    advertisements[node] = sharing.sign(replaced(advertisements[node], **changes), walk.keys[node])


def test_a_node_refuses_a_cohort_with_its_own_advertisement_changed_or_missing() -> None:
    for change in (
        lambda walk, entries: entries.pop(NODE),
        lambda walk, entries: resign(walk, entries, NODE, ledger_sequence=4),
        lambda walk, entries: resign(walk, entries, NODE, channel_key=bytes(1216)),
        lambda walk, entries: entries.__setitem__(NODE, replaced(entries[NODE], signature=bytes(64))),
    ):
        walk = Walk(five()).to(Stage.SHARE)
        data = bent_cohort(walk, lambda entries, walk=walk, change=change: change(walk, entries))  # type: ignore[misc]
        refused(walk, data, Excluded, "advertisements")


@pytest.mark.parametrize("change", [lambda entries: entries.reverse(), lambda entries: entries.append(entries[-1])])
def test_a_cohort_has_one_order_and_everybody_once(change: Callable[[list[Advertise]], object]) -> None:
    walk = Walk(configure(6, dropouts=1)).to(Stage.SHARE, {Stage.ADVERTISE: {5}})
    refused(walk, bent_cohort(walk, change), NotCanonical, "advertisements")


@pytest.mark.parametrize(
    ("own", "copied", "source"),
    [
        (own, copied, source)
        for own in ("channel_key", "mask_key")
        for copied in ("channel_key", "mask_key")
        for source in (NODE, 2, 3)
        if source != 3 or own != copied
    ],
)
def test_a_cohort_with_one_public_key_twice_is_refused(own: str, copied: str, source: int) -> None:
    walk = Walk(five()).to(Stage.SHARE)

    def copy_key(entries: list[Advertise]) -> None:
        resign(walk, entries, 3, **{own: getattr(entries[source], copied)})

    refused(walk, bent_cohort(walk, copy_key), WrongSession, "advertisements")


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64])
def test_an_unsigned_advertisement_is_refused_as_the_aggregators_fault(signature: bytes) -> None:
    walk = Walk(five()).to(Stage.SHARE)
    data = bent_cohort(walk, lambda entries: entries.__setitem__(3, replaced(entries[3], signature=signature)))
    assert refused(walk, data, BadSignature).sender is None


def test_an_advertisement_signed_by_a_stranger_is_refused() -> None:
    walk = Walk(five()).to(Stage.SHARE)
    stranger = Identity(digest("stranger"))
    data = bent_cohort(walk, lambda entries: entries.__setitem__(3, sharing.sign(entries[3], stranger)))
    assert refused(walk, data, BadSignature).sender is None


def test_a_ledger_that_has_become_shorter_is_refused_and_its_node_named() -> None:
    Walk(five(), seen_ledgers={3: 5}).finish()
    walk = Walk(five(), seen_ledgers={3: 6}).to(Stage.SHARE)
    assert refused(walk, walk.outgoing[NODE], WrongSession, "ledger_sequence").sender == 3


@pytest.mark.parametrize("part", ["channel_key", "mask_key"])
@pytest.mark.parametrize("tail", [bytes(32), b"\x01" + bytes(31)])
def test_a_peers_key_that_cannot_be_sealed_to_is_the_peers_fault(part: str, tail: bytes) -> None:
    """An X25519 point of small order: the shared secret would be zero."""
    walk = Walk(five()).to(Stage.SHARE)

    def weaken(entries: list[Advertise]) -> None:
        resign(walk, entries, 3, **{part: getattr(entries[3], part)[:-32] + tail})

    assert refused(walk, bent_cohort(walk, weaken), RemoteError).sender == 3
