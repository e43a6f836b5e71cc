"""Messages for the tests of the wire format: any, the largest, and plain ones with one change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from hypothesis import strategies as st

from protocols import wire
from protocols.errors import (
    MalformedMessage,
    RemoteError,
)
from protocols.messages import FROM_AGGREGATOR, FROM_NODE, Agree
from protocols.receipts import Receipt
from protocols.wire import Limits, Message, Record, decode, encode

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


def entries(changes: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The plain message with its map entries rearranged."""
    sorted_entries = sorted(reference(key) + reference(value) for key, value in AGREE_MAP.items())
    changed = changes(sorted_entries)
    return head(5, len(changed)) + b"".join(changed)
