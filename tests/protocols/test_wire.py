"""Bytes from strangers: one canonical encoding, and a typed error that names sender and field for everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
    MissingField,
    NotCanonical,
    OversizedMessage,
    RemoteError,
    UnknownField,
    WrongLength,
    WrongType,
)
from protocols.events import Rejected
from protocols.messages import FROM_AGGREGATOR, FROM_NODE, Agree, Opening, Survivors
from protocols.receipts import Receipt
from protocols.wire import Limits, Message, Record, decode, encode
from tests.protocols.rounds import configure
from tests.protocols.stages import FROM_NODE as ANSWERS
from tests.protocols.stages import Walk, flipped

LIMITS = Limits(roster_size=5, packed_bytes=19)
KINDS: list[type[Message]] = [*FROM_NODE, *FROM_AGGREGATOR, Receipt]
SENDER = 3


def head(major: int, argument: int) -> bytes:
    for short, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 24:
            return bytes([major << 5 | argument])
        if argument < 1 << (8 * width):
            return bytes([major << 5 | short]) + argument.to_bytes(width, "big")
    raise AssertionError(argument)


def reference(value: Any) -> bytes:
    """RFC 8949, section 4.2.1, written down a second time."""
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case None:
            return b"\xf6"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(reference, value))
        case dict():
            entries = sorted((reference(key), reference(content)) for key, content in value.items())
            return head(5, len(value)) + b"".join(key + content for key, content in entries)
    raise AssertionError(value)


def fields(wire_type: wire.Wire, limits: Limits) -> st.SearchStrategy[Any]:
    """Every value that a field of this type may have."""
    match wire_type:
        case wire.Number(most):
            return st.integers(0, most)
        case wire.Index():
            return st.integers(0, limits.roster_size - 1)
        case wire.Octets(length):
            return st.binary(min_size=length(limits), max_size=length(limits))
        case wire.IndexSet():
            return st.sets(st.integers(0, limits.roster_size - 1)).map(lambda chosen: tuple(sorted(chosen)))
        case wire.Sequence(item):
            return st.lists(fields(item, limits), max_size=limits.roster_size).map(tuple)
        case wire.Struct(record):
            return records(record, limits)
    raise AssertionError(wire_type)


def records(kind: type[Record], limits: Limits) -> st.SearchStrategy[Any]:
    parts = {field.name: fields(field.metadata["wire"], limits) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return st.builds(kind, **parts)


def largest(wire_type: wire.Wire, limits: Limits) -> Any:
    match wire_type:
        case wire.Number(most):
            return most
        case wire.Index():
            return limits.roster_size - 1
        case wire.Octets(length):
            return bytes(length(limits))
        case wire.IndexSet():
            return tuple(range(limits.roster_size))
        case wire.Sequence(item):
            return (largest(item, limits),) * limits.roster_size
        case wire.Struct(record):
            return largest_record(record, limits)
    raise AssertionError(wire_type)


def largest_record(kind: type[Record], limits: Limits) -> Any:
    return kind(**{field.name: largest(field.metadata["wire"], limits) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


AGREE = Agree(bytes(32), 2, (0, 1, 2, 4), (0, 2, 4), bytes(64))
AGREE_MAP: dict[str, Any] = cbor2.loads(encode(AGREE))


def refused(data: bytes, kind: type[Message] = Agree) -> RemoteError:
    with pytest.raises(MalformedMessage) as caught:
        decode(kind, data, LIMITS, SENDER)
    assert caught.value.sender == SENDER
    assert f"node {SENDER}" in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def agree_with(**changes: Any) -> bytes:
    return reference({**AGREE_MAP, **changes})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TYPE)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_message_survives_the_way_there_and_back(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(records(kind, LIMITS))
    encoded = encode(message)
    assert decode(kind, encoded, LIMITS, SENDER) == message
    assert encoded == reference(cbor2.loads(encoded))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.TYPE)
@pytest.mark.parametrize("limits", [LIMITS, Limits(3, 1), Limits(300, 70_000)])
def test_no_message_is_larger_than_the_bound_and_the_bound_is_tight(kind: type[Message], limits: Limits) -> None:
    message = largest_record(kind, limits)
    encoded = encode(message)
    most = wire.most_map_bytes(kind, limits)
    assert len(encoded) <= most <= 5 * len(encoded)
    with pytest.raises(OversizedMessage):
        decode(kind, encoded + bytes(most - len(encoded) + 1), limits, SENDER)


def test_the_largest_message_of_the_largest_roster_has_fewer_items_than_are_read() -> None:
    for kind in KINDS:
        encoded = encode(largest_record(kind, Limits(1000, 8)))
        assert _count(cbor2.loads(encoded)) <= MOST_ITEMS
        wire.parse_canonical(encoded, None)


def _count(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + _count(content) for content in value.values())
    return 1 + (sum(map(_count, value)) if isinstance(value, list) else 0)


def test_the_plain_message_of_these_tests_is_accepted() -> None:
    assert decode(Agree, agree_with(), LIMITS, SENDER) == AGREE


def test_an_oversized_message_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(wire, "parse_canonical", fail)
    error = refused(bytes(wire.most_map_bytes(Agree, LIMITS) + 1))
    assert isinstance(error, OversizedMessage)


@pytest.mark.parametrize("name", ["extra", "Sender", "sender_"])
def test_an_unknown_field_is_named(name: str) -> None:
    error = refused(agree_with(**{name: 1}))
    assert isinstance(error, UnknownField)
    assert error.field == name


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "é", "a b", "", "-"])
def test_a_field_name_that_could_mislead_a_terminal_is_not_repeated(name: str) -> None:
    error = refused(agree_with(**{name: 1}))
    assert isinstance(error, UnknownField)
    assert error.field == "?"
    assert str(error).isascii()
    assert str(error).isprintable()


@pytest.mark.parametrize("name", sorted(set(AGREE_MAP) - {"type"}))
def test_a_missing_field_is_named(name: str) -> None:
    error = refused(reference({key: value for key, value in AGREE_MAP.items() if key != name}))
    assert isinstance(error, MissingField)
    assert error.field == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sender", True),
        ("sender", False),
        ("sender", None),
        ("sender", "2"),
        ("sender", b"\x02"),
        ("sender", [2]),
        ("session", "x" * 32),
        ("session", [0] * 32),
        ("session", 0),
        ("session", None),
        ("sharers", 3),
        ("sharers", {"0": 0}),
        ("sharers", b"\x00\x01"),
        ("type", "survivors"),
        ("type", 1),
        ("type", None),
    ],
)
def test_a_value_of_another_type_is_refused_by_field(name: str, value: Any) -> None:
    error = refused(agree_with(**{name: value}))
    assert isinstance(error, WrongType)
    assert error.field == name


@pytest.mark.parametrize("value", [True, None, "1", b"1"])
def test_a_wrong_type_inside_a_list_is_refused_by_place(value: Any) -> None:
    error = refused(agree_with(sharers=[0, value]))
    assert isinstance(error, WrongType)
    assert error.field == "sharers.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session", bytes(31)),
        ("session", bytes(33)),
        ("session", b""),
        ("signature", bytes(63)),
        ("sender", 5),
        ("sender", -1),
        ("sender", 2**64 - 1),
        ("sharers", [0, 1, 2, 3, 4, 4]),
    ],
)
def test_another_length_or_range_is_refused_by_field(name: str, value: Any) -> None:
    error = refused(agree_with(**{name: value}))
    assert isinstance(error, WrongLength)
    assert error.field == name


@pytest.mark.parametrize("name", ["round_number", "dimension"])
def test_numbers_end_where_every_language_still_counts_exactly(name: str) -> None:
    plain = {**cbor2.loads(encode(configure(3).context.opening()))}
    decode(Opening, reference({**plain, name: 2**53 - 1}), LIMITS, None)
    error = refused(reference({**plain, name: 2**53}), Opening)
    assert isinstance(error, WrongLength)
    assert error.field == name


@pytest.mark.parametrize("indices", [[1, 0], [0, 0], [0, 2, 1]])
def test_a_set_has_one_order(indices: list[int]) -> None:
    error = refused(agree_with(survivors=indices))
    assert isinstance(error, NotCanonical)
    assert error.field == "survivors"


@pytest.mark.parametrize("behind", [b"\x00", b"\xa0", encode(AGREE)])
def test_bytes_behind_the_end_are_refused(behind: bytes) -> None:
    message = Survivors(bytes(32), (0,))
    error = refused(encode(message) + behind[:9], Survivors)
    assert isinstance(error, NotCanonical)
    assert "behind the end" in str(error)


def entries(changes: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The plain message with its map entries rearranged."""
    sorted_entries = sorted(reference(key) + reference(value) for key, value in AGREE_MAP.items())
    changed = changes(sorted_entries)
    return head(5, len(changed)) + b"".join(changed)


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
