"""Canonical CBOR: one form for every value, and nothing that is no message brings a reader down."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import messages, wire
from protocols.aggregator import Stage
from protocols.cbor import MOST_ITEMS
from protocols.errors import (
    MalformedMessage,
    NotCanonical,
    WrongType,
)
from protocols.events import Rejected
from protocols.messages import Survivors
from protocols.wire import Message, decode, encode
from tests.protocols.messages_made import (
    AGREE,
    AGREE_MAP,
    KINDS,
    LIMITS,
    SENDER,
    entries,
    head,
    largest_record,
    records,
    reference,
    refused,
)
from tests.protocols.rounds import configure
from tests.protocols.stages import FROM_NODE as ANSWERS
from tests.protocols.stages import Walk, flipped


@pytest.mark.parametrize("behind", [b"\x00", b"\xa0", encode(AGREE)])
def test_bytes_behind_the_end_are_refused(behind: bytes) -> None:
    message = Survivors(bytes(32), (0,))
    error = refused(encode(message) + behind[:9], Survivors)
    assert isinstance(error, NotCanonical)
    assert "after the end" in str(error)


def test_a_duplicate_key_is_refused() -> None:
    assert entries(lambda parts: parts) == encode(AGREE)
    short = [part for part in sorted(reference(key) + reference(0) for key in AGREE_MAP) if b"sender" in part]
    error = refused(entries(lambda parts: [*parts[:2], *short, *parts[2:]]))
    assert isinstance(error, NotCanonical)
    assert "twice" in str(error)
    assert error.field == "sender"


def test_unsorted_keys_are_refused() -> None:
    error = refused(entries(lambda parts: parts[::-1]))
    assert isinstance(error, NotCanonical)
    assert "order" in str(error)


@pytest.mark.parametrize(
    "longer", [b"\x18\x02", b"\x19\x00\x02", b"\x1a\x00\x00\x00\x02", b"\x1b" + bytes(7) + b"\x02"]
)
def test_a_longer_form_of_a_number_is_refused(longer: bytes) -> None:
    plain = encode(AGREE)
    assert plain.count(b"\x66sender\x02") == 1
    error = refused(plain.replace(b"\x66sender\x02", b"\x66sender" + longer))
    assert isinstance(error, NotCanonical)
    assert error.field == "sender"


@pytest.mark.parametrize(
    ("indefinite", "field"),
    [(b"\x9f\x00\x02\x04\xff", "survivors"), (b"\x5f\x41\x00\xff", "survivors"), (b"\x7f\x61a\xff", "survivors")],
)
def test_an_indefinite_length_is_refused(indefinite: bytes, field: str) -> None:
    plain = encode(AGREE)
    assert plain.count(b"survivors\x83\x00\x02\x04") == 1
    error = refused(plain.replace(b"\x83\x00\x02\x04", indefinite))
    assert isinstance(error, NotCanonical)
    assert error.field == field


@pytest.mark.parametrize(
    "oddity",
    [
        cbor2.dumps(2.0),
        cbor2.dumps(2.0, canonical=True),
        cbor2.dumps(float("nan")),
        cbor2.dumps(float("inf")),
        cbor2.dumps(-0.0),
        b"\xf7",  # undefined
        b"\xf8\xff",  # simple value 255
        b"\xe0",  # simple value 0
        b"\xc2\x41\x02",  # a bignum that is 2
        b"\xc4\x82\x00\x02",  # a decimal that is 2
        b"\xd8\x1c\x02",  # a shared value
        b"\xd8\x1d\x00",  # a reference to one
        b"\xd9\xd9\xf7\x02",  # self-described CBOR
        b"\xd8\x23\x61(",  # a regular expression that does not compile
        cbor2.dumps({0, 1}),
    ],
)
def test_floats_tags_and_simple_values_are_refused_by_field(oddity: bytes) -> None:
    error = refused(encode(AGREE).replace(b"\x66sender\x02", b"\x66sender" + oddity))
    assert isinstance(error, WrongType)
    assert error.field == "sender"


def test_a_decimal_of_four_megabytes_is_refused_without_being_computed() -> None:
    # A general decoder turns these bytes into a decimal number, which takes it minutes.
    bomb = b"\xc4\x82\x1a\x7f\xff\xff\xff\xc2\x5a\x00\x3d\x09\x00" + b"\xff" * 4_000_000
    with pytest.raises(WrongType):
        wire.parse_canonical(bomb, None)


@pytest.mark.parametrize("data", [b"\x80" * 70_000, b"\xa1\x60" * 70_000, b"\x81" * 70_000])
def test_deep_nesting_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        wire.parse_canonical(data, None)


def test_a_flood_of_small_items_is_refused() -> None:
    flood = head(4, 10 * MOST_ITEMS) + b"\x80" * (10 * MOST_ITEMS)
    with pytest.raises(MalformedMessage, match="more items"):
        wire.parse_canonical(flood, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x9b" + b"\xff" * 8,
        b"\xbb" + b"\xff" * 8,
        b"\x5b" + b"\xff" * 8,
        b"\x7b\x7f" + b"\xff" * 7,
        b"\x62\xff\xff",
        b"\x63\xed\xa0\x80",  # a surrogate
        b"\x1c",
        b"\xff",
        b"\xa1\x01\x01",
        b"\xa1\x41\x00\x01",
        b"\x18",
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    refused(data)
    with pytest.raises(MalformedMessage):
        wire.message_type(data, 100, SENDER)


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "é", "", "Agree", "a" * 41])
def test_a_type_that_could_mislead_a_terminal_is_not_repeated(name: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        wire.message_type(reference({"type": name}), 100, SENDER)
    assert caught.value.field == "type"
    assert str(caught.value).isprintable()
    assert not name or name not in str(caught.value)


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=30), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=plain_values)
def test_the_reader_agrees_with_an_independent_encoder_and_a_library(value: Any) -> None:
    encoded = reference(value)
    assert wire.canonical(value) == encoded
    try:
        assert wire.parse_canonical(encoded, None) == value
    except MalformedMessage as error:
        assert "nested" in str(error)  # noqa: PT017 - the only reason allowed


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=80))
def test_arbitrary_bytes_are_a_value_in_canonical_form_or_a_malformed_message(data: bytes) -> None:
    try:
        value = wire.parse_canonical(data, SENDER)
    except MalformedMessage as error:
        assert error.sender == SENDER  # noqa: PT017
    else:
        assert reference(value) == data


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TYPE)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_gives_another_message_or_a_malformed_one(kind: type[Message], data: st.DataObject) -> None:
    message = largest_record(kind, LIMITS) if kind in (messages.Share, messages.Cohort) else None
    encoded = encode(message or data.draw(records(kind, LIMITS)))
    changed = flipped(encoded, data.draw(st.integers(0, 8 * len(encoded) - 1)))
    try:
        again = decode(kind, changed, LIMITS, SENDER)
    except MalformedMessage as error:
        assert error.sender == SENDER  # noqa: PT017
    else:
        assert encode(again) == changed


@pytest.mark.parametrize("stage", list(ANSWERS), ids=lambda stage: stage.value)
def test_no_bytes_from_a_node_bring_the_aggregator_down_or_are_blamed_on_another(stage: Stage) -> None:
    walk = Walk(configure(3)).to(stage)
    walk.collect()
    if stage is Stage.CLOSE:
        walk.aggregator.expect_state(bytes(32))
    valid = walk.answers[1]

    @settings(max_examples=60, deadline=None)
    @given(data=st.one_of(st.binary(max_size=200), st.integers(0, 8 * len(valid) - 1).map(lambda b: flipped(valid, b))))
    def attack(data: bytes) -> None:
        event = walk.aggregator.receive(1, data)
        assert isinstance(event, Rejected)
        assert event.fault.sender == 1

    attack()
    assert not walk.aggregator._answered
