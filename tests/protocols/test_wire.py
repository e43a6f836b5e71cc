"""Messages as maps of named fields: they survive the way there and back; other fields, types and sizes do not."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import wire
from protocols.cbor import MOST_ITEMS
from protocols.errors import (
    MissingField,
    NotCanonical,
    OversizedMessage,
    UnknownField,
    WrongLength,
    WrongType,
)
from protocols.messages import Agree, Opening
from protocols.wire import Limits, Message, decode, encode
from tests.protocols.messages_made import (
    AGREE,
    AGREE_MAP,
    KINDS,
    LIMITS,
    SENDER,
    largest_record,
    records,
    reference,
    refused,
)
from tests.protocols.rounds import configure


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
