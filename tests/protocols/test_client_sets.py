"""The node's state machine: which sets, envelopes, agreements and sums it takes, and what it releases for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from protocols import sharing
from protocols.aggregator import Stage
from protocols.client import Client
from protocols.errors import (
    BadSignature,
    CohortTooSmall,
    Excluded,
    NotCanonical,
    RemoteError,
    WrongLength,
    WrongSession,
)
from protocols.events import Send
from protocols.messages import (
    Agree,
    Agreement,
    ShareCommitments,
    Signature,
    Survivors,
    Unmask,
)
from protocols.parameters import CohortRules
from protocols.steps import State
from protocols.wire import encode, message_type
from tests.protocols.client_walks import NODE, five, refused
from tests.protocols.rounds import configure
from tests.protocols.stages import TO_NODE, Walk, replaced

OTHER = ShareCommitments(bytes(32), bytes(32))


@pytest.mark.parametrize(
    "rules",
    [
        CohortRules(5, 1, 1, 3),  # t = 4
        CohortRules(5, 0, 2, 2, site_minimum=4),
        CohortRules(5, 0, 2, 2, site_honest_minimum=4),
        CohortRules(5, 0, 1, 4),
    ],
)
@pytest.mark.parametrize("stage", [Stage.SHARE, Stage.MASKED_INPUT, Stage.AGREE], ids=lambda stage: stage.value)
def test_a_set_below_the_minimum_is_refused_at_every_stage(stage: Stage, rules: CohortRules) -> None:
    config = dataclasses.replace(five(), rules=rules)
    field = {Stage.SHARE: "advertisements", Stage.MASKED_INPUT: "shares", Stage.AGREE: "survivors"}[stage]

    def shortened(walk: Walk, count: int) -> bytes:
        whole = getattr(walk.read(TO_NODE[stage], walk.outgoing[NODE]), field)
        return walk.bend(NODE, **{field: whole[: len(whole) - count]})

    enough = Walk(config).to(stage)
    assert enough.clients[NODE].receive(shortened(enough, 1))
    few = Walk(config).to(stage)
    refused(few, shortened(few, 2), CohortTooSmall)


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        (lambda m: {"shares": m.shares[::-1]}, NotCanonical, "shares"),
        (lambda m: {"shares": (m.shares[0], *m.shares)}, NotCanonical, "shares"),
        (lambda m: {"shares": m.shares[1:]}, WrongSession, "seeds"),
        (lambda m: {"seeds": ()}, WrongSession, "seeds"),
        (lambda m: {"seeds": m.seeds * 2}, WrongSession, "seeds"),
        (lambda m: {"shares": (replaced(m.shares[0], receiver=2), *m.shares[1:])}, WrongSession, "receiver"),
        (lambda m: {"seeds": (replaced(m.seeds[0], receiver=2),)}, WrongSession, "receiver"),
        (lambda m: {"shares": (m.shares[0], replaced(m.shares[1], sender=1), *m.shares[2:])}, WrongSession, "shares"),
        (lambda m: {"shares": (replaced(m.shares[0], sealed=m.shares[1].sealed), *m.shares[1:])}, BadSignature, None),
        (lambda m: {"shares": (replaced(m.shares[0], commitments=OTHER), *m.shares[1:])}, BadSignature, None),
        (lambda m: {"seeds": (replaced(m.seeds[0], commitment=bytes(32)),)}, BadSignature, None),
        (lambda m: {"seeds": (replaced(m.seeds[0], signature=bytes(64)),)}, BadSignature, None),
    ],
)  # fmt: skip
def test_a_delivery_of_anything_but_the_senders_own_envelopes_is_the_aggregators_fault(
    change: Callable[[Any], dict[str, Any]], error: type[RemoteError], field: str | None
) -> None:
    walk = Walk(five()).to(Stage.MASKED_INPUT)
    message = walk.read(TO_NODE[walk.stage], walk.outgoing[NODE])
    assert refused(walk, walk.bend(NODE, **change(message)), error, field).sender is None


def test_an_envelope_of_a_node_outside_the_cohort_is_refused() -> None:
    walk = Walk(five()).to(Stage.MASKED_INPUT, {Stage.ADVERTISE: {4}})
    message = walk.read(TO_NODE[walk.stage], walk.outgoing[NODE])
    data = walk.bend(NODE, shares=(*message.shares, replaced(message.shares[-1], sender=4)))
    refused(walk, data, WrongSession, "shares")


def test_a_survivor_that_never_shared_is_refused() -> None:
    walk = Walk(five()).to(Stage.AGREE, {Stage.SHARE: {4}})
    refused(walk, walk.bend(NODE, survivors=(0, 1, 2, 3, 4)), WrongSession, "survivors")


def test_a_node_left_out_of_the_survivors_leaves() -> None:
    walk = Walk(five()).to(Stage.AGREE)
    refused(walk, walk.bend(NODE, survivors=(0, 2, 3, 4)), Excluded)


def agreement_over(walk: Walk, sharers: tuple[int, ...], survivors: tuple[int, ...]) -> Agreement:
    """What a dishonest aggregator would need: everybody's signature on these sets."""
    signatures = []
    for node in survivors:
        message = sharing.sign(Agree(walk.aggregator.session, node, sharers, survivors, b""), walk.keys[node])
        signatures.append(Signature(node, message.signature))
    return Agreement(walk.aggregator.session, tuple(signatures))


EVERYBODY = (0, 1, 2, 3, 4)


def test_an_agreement_needs_the_quorum() -> None:
    walk = Walk(five()).to(Stage.UNMASK)
    signatures = walk.read(Agreement, walk.outgoing[NODE]).signatures
    assert walk.clients[NODE].receive(walk.bend(NODE, signatures=signatures[:4]))
    walk = Walk(five()).to(Stage.UNMASK)
    refused(walk, walk.bend(NODE, signatures=signatures[:3]), CohortTooSmall)


@pytest.mark.parametrize("signers", [(0, 0, 1, 2), (0, 1, 2, 2), (3, 2, 1, 0)])
def test_an_agreement_names_each_signer_once_and_in_order(signers: tuple[int, ...]) -> None:
    walk = Walk(five()).to(Stage.UNMASK)
    signatures = walk.read(Agreement, walk.outgoing[NODE]).signatures
    data = walk.bend(NODE, signatures=tuple(signatures[signer] for signer in signers))
    refused(walk, data, NotCanonical, "signatures")


def test_a_signer_that_is_no_survivor_does_not_count() -> None:
    walk = Walk(five()).to(Stage.UNMASK, {Stage.MASKED_INPUT: {4}})
    agreement = walk.read(Agreement, walk.outgoing[NODE])
    dropped = sharing.sign(Agree(walk.aggregator.session, 4, EVERYBODY, (0, 1, 2, 3), b""), walk.keys[4])
    outsider = replaced(agreement.signatures[0], signer=4, signature=dropped.signature)
    data = walk.bend(NODE, signatures=(*agreement.signatures[1:], outsider))
    refused(walk, data, NotCanonical, "signatures")


@pytest.mark.parametrize(
    ("sharers", "survivors"),
    [(EVERYBODY, (0, 1, 2, 3)), ((0, 1, 2, 3), (0, 1, 2, 3)), ((0, 1, 2, 3), EVERYBODY)],
)
def test_signatures_over_other_sets_release_nothing(sharers: tuple[int, ...], survivors: tuple[int, ...]) -> None:
    walk = Walk(five()).to(Stage.UNMASK)
    assert walk.read(Agreement, walk.outgoing[NODE]) == agreement_over(walk, EVERYBODY, EVERYBODY)
    refused(walk, encode(agreement_over(walk, sharers, survivors)), BadSignature)


def test_a_signature_of_the_wrong_survivor_releases_nothing() -> None:
    walk = Walk(five()).to(Stage.UNMASK)
    signatures = walk.read(Agreement, walk.outgoing[NODE]).signatures
    swapped = (replaced(signatures[0], signature=signatures[1].signature), *signatures[1:])
    refused(walk, walk.bend(NODE, signatures=swapped), BadSignature)


def test_a_node_releases_one_kind_of_share_per_peer() -> None:
    walk = Walk(five()).to(Stage.UNMASK, {Stage.MASKED_INPUT: {4}})
    walk.collect()
    for node, data in walk.answers.items():
        unmask = walk.read(Unmask, data)
        assert [entry.owner for entry in unmask.self_mask_shares] == [0, 1, 2, 3]
        assert [entry.owner for entry in unmask.mask_key_shares] == [4]
        assert walk.clients[node]._secrets.wiped
        assert not walk.clients[node]._received


class Forgetful(Client):
    """A client that does not remember what it answered: it takes a second U3 as if it were the first."""

    def _dispatch(self, data: bytes) -> Any:
        if self.state is State.AGREED and message_type(data, len(data), None) == Survivors.TYPE:
            self.state = State.MASKED
            self._answers.pop(Survivors.TYPE)
        return super()._dispatch(data)


def test_without_its_memory_a_node_would_sign_two_survivor_sets() -> None:
    signed = []
    walk = Walk(five(), client_class=Forgetful).to(Stage.AGREE)
    for survivors in (EVERYBODY, (0, 1, 2, 3)):
        (event,) = walk.clients[NODE].receive(walk.bend(NODE, survivors=survivors))
        assert isinstance(event, Send)
        signed.append(walk.read(Agree, event.data).survivors)
    assert signed == [EVERYBODY, (0, 1, 2, 3)]


@pytest.mark.parametrize(
    "vector", [b"\x00\x00\x00\x80" * 7, b"\xff\xff\xff\x7f" * 7], ids=["most negative", "most positive"]
)
def test_a_sum_that_the_survivors_cannot_have_made_is_refused(vector: bytes) -> None:
    walk = Walk(five()).to(Stage.CLOSE)
    refused(walk, walk.bend(NODE, vector=vector), WrongLength, "vector")


def test_a_sum_with_padding_is_refused() -> None:
    walk = Walk(configure(3, ring_bits=13, dimension=7)).to(Stage.CLOSE)
    vector = walk.read(TO_NODE[walk.stage], walk.outgoing[NODE]).vector
    refused(walk, walk.bend(NODE, vector=vector[:-1] + b"\xff"), NotCanonical, "vector")
