"""The node's state machine against an aggregator that shows, withholds, repeats and changes what it likes."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.identity import Identity
from crypto.kdf import digest
from protocols import sharing
from protocols.aggregator import Stage
from protocols.client import Client, State
from protocols.errors import (
    BadSignature,
    CohortTooSmall,
    Equivocation,
    Excluded,
    LocalError,
    NotCanonical,
    OutOfOrder,
    OversizedMessage,
    ProtocolError,
    RemoteError,
    WrongLength,
    WrongSession,
)
from protocols.events import InputWanted, Send, SumPublished
from protocols.messages import (
    Advertise,
    Agree,
    Agreement,
    Cohort,
    Opening,
    ShareCommitments,
    Signature,
    Survivors,
    Unmask,
)
from protocols.parameters import CohortRules
from protocols.session import SessionConfig
from protocols.wire import encode, message_type
from tests.protocols.rounds import configure
from tests.protocols.stages import NEW_STATE, TO_NODE, Walk, flipped, replaced

NODE = 1
OTHER = ShareCommitments(bytes(32), bytes(32))
STAGES = list(TO_NODE)


def five() -> SessionConfig:
    """N = 5, c = 1, f = 1: quorum 4, one node may be missing at any stage."""
    return configure(5, dropouts=1, colluders=1)


def refused(walk: Walk, data: bytes, error: type[ProtocolError], field: str | None = None) -> RemoteError:
    """The client refuses the bytes, and then it is over for good: nothing sent, no secret left, no second try."""
    client = walk.clients[NODE]
    with pytest.raises(error) as caught:
        client.receive(data)
    assert_over(client, walk.outgoing[NODE])
    if field is not None:
        assert isinstance(caught.value, RemoteError)
        assert caught.value.field == field
    return caught.value  # type: ignore[return-value]


def assert_over(client: Client, honest: bytes) -> None:
    assert client.state is State.FAILED
    assert client._secrets.wiped
    assert not client._received
    assert not client._pair_seeds
    assert not client.checksum_contributions
    with pytest.raises(LocalError, match="failed"):
        client.receive(honest)
    with pytest.raises(LocalError):
        client.submit(np.zeros(7, dtype=np.int64))
    with pytest.raises(LocalError):
        client.close(NEW_STATE)


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


def test_a_vector_that_does_not_fit_is_refused_before_anything_is_sent() -> None:
    walk = Walk(five()).to(Stage.MASKED_INPUT)
    client = walk.clients[NODE]
    client.receive(walk.outgoing[NODE])
    for vector in (np.full(7, client.config.magnitude + 1), np.zeros(6, dtype=np.int64), np.zeros(7)):
        with pytest.raises(LocalError):
            client.submit(vector)
    assert client.receive(walk.outgoing[NODE]) == ()
    client.submit(np.zeros(7, dtype=np.int64))
    with pytest.raises(LocalError):
        client.submit(np.zeros(7, dtype=np.int64))


def test_a_state_that_is_no_digest_is_not_signed() -> None:
    walk = Walk(five()).to(Stage.CLOSE)
    walk.clients[NODE].receive(walk.outgoing[NODE])
    with pytest.raises(LocalError):
        walk.clients[NODE].close(b"short")
    with pytest.raises(LocalError):
        _ = walk.clients[NODE].statement


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.value)
def test_a_session_is_never_pickled_or_copied(stage: Stage) -> None:
    client = Walk(five()).to(stage).clients[NODE]
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            attempt(client)


def test_nothing_secret_is_printed() -> None:
    walk = Walk(five()).to(Stage.MASKED_INPUT)
    client = walk.clients[NODE]
    client.receive(walk.outgoing[NODE])
    for value in (client, client._secrets, client._received):
        for share in client._received.values():
            for secret in (share.mask_key, share.self_mask, share.checksum):
                assert repr(secret)[2:-1] not in repr(value)
                assert secret.hex() not in repr(value)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.value)
def test_an_abandoned_session_keeps_nothing_and_answers_nothing(stage: Stage) -> None:
    walk = Walk(five()).to(stage)
    walk.clients[NODE].abandon()
    assert_over(walk.clients[NODE], walk.outgoing[NODE])


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.value)
def test_a_crash_inside_a_handler_ends_the_session_as_well(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    walk = Walk(five()).to(stage)
    honest = walk.outgoing[NODE]

    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr("protocols.client.decode", crash)
    with pytest.raises(RuntimeError):
        walk.clients[NODE].receive(honest)
    assert_over(walk.clients[NODE], honest)


def test_only_the_rosters_own_identity_may_take_part() -> None:
    config = five()
    for index, key in (
        (0, Identity(digest("stranger"))),
        (5, Identity(digest("stranger"))),
        (-1, Walk(config).keys[4]),
    ):
        with pytest.raises(LocalError):
            Client(config, index, key, ledger_sequence=1)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_an_entropy_source_that_gives_another_number_of_bytes_is_refused(size: int) -> None:
    walk = Walk(five())
    with pytest.raises(LocalError):
        Client(walk.config, 0, walk.keys[0], ledger_sequence=1, entropy=lambda _: bytes(size))


def test_every_session_has_secrets_of_its_own() -> None:
    walk = Walk(five())
    first, second = (Client(walk.config, 0, walk.keys[0], ledger_sequence=1) for _ in range(2))
    assert first.receive(walk.outgoing[0]) != second.receive(walk.outgoing[0])


def test_a_message_larger_than_any_that_may_come_now_is_not_parsed() -> None:
    walk = Walk(configure(5, dimension=5000))
    refused(walk, bytes(600), OversizedMessage)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.value)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_no_bytes_bring_a_node_down_or_get_a_share_out_of_it(stage: Stage, data: st.DataObject) -> None:
    walk = Walk(configure(3)).to(stage)
    honest = walk.outgoing[NODE]
    bits = st.integers(0, 8 * len(honest) - 1)
    hostile = data.draw(st.one_of(bits.map(lambda bit: flipped(honest, bit)), st.binary(max_size=300)))
    client = walk.clients[NODE]
    try:
        events = client.receive(hostile)
    except ProtocolError:
        assert_over(client, honest)
    else:
        # A flipped bit in the sum gives another sum: the verified sum finds that. Anything else is found here.
        assert stage is Stage.CLOSE
        assert all(isinstance(event, SumPublished) for event in events)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_no_bytes_get_anything_out_of_a_node_that_is_training(data: st.DataObject) -> None:
    walk = Walk(configure(3)).to(Stage.MASKED_INPUT)
    client, honest = walk.clients[NODE], walk.outgoing[NODE]
    client.receive(honest)
    bits = st.integers(0, 8 * len(honest) - 1)
    hostile = data.draw(st.one_of(bits.map(lambda bit: flipped(honest, bit)), st.binary(max_size=300)))
    with pytest.raises(RemoteError):
        client.receive(hostile)
    assert_over(client, honest)


def test_an_opening_is_what_the_context_says() -> None:
    walk = Walk(five())
    assert walk.read(Opening, walk.outgoing[NODE]) == walk.config.context.opening()
