"""The node's state machine: what becomes of its secrets, whatever it is sent and however it ends."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.identity import Identity
from crypto.kdf import digest
from protocols.aggregator import Stage
from protocols.client import Client
from protocols.errors import (
    LocalError,
    OversizedMessage,
    ProtocolError,
    RemoteError,
)
from protocols.events import SumPublished
from protocols.messages import (
    Opening,
)
from tests.protocols.client_walks import NODE, STAGES, assert_over, five, refused
from tests.protocols.rounds import configure
from tests.protocols.stages import Walk, flipped


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
