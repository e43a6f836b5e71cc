"""Canonical CBOR and strict parsing: the only way to turn a message into bytes, or bytes into a message.

Encoding is RFC 8949 core deterministic: shortest forms, definite lengths, map keys sorted, each once. Decoding passes
four gates, in this order. Each has its own error classes, which name the sender and the field:

1. size: input longer than the largest message that may come now is not parsed at all;
2. form (`protocols.cbor`): no tags, floats or indefinite lengths, no deep nesting, no byte after the end;
3. canonical form: encoding the decoded value again, with a library, must give the same bytes;
4. schema: exactly the fields of the message, each of its type, length and range.

A message is a frozen dataclass whose fields carry a `Wire` type; size bounds are computed from those types.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, cast

import cbor2

from crypto.identity import SIGNATURE_BYTES
from protocols import cbor
from protocols.cbor import Source
from protocols.errors import (
    MalformedMessage,
    MissingField,
    NotCanonical,
    OversizedMessage,
    UnknownField,
    WrongLength,
    WrongType,
)

_HEAD_BYTES = 9
NUMBER_MAX = 2**53 - 1
_TYPE_NAME = re.compile("[a-z-]{1,40}")
_WIRES: dict[type, dict[str, Wire]] = {}
"""The fields of each kind of record, cached on first use."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The numbers that bound the sizes of a session's messages."""

    roster_size: int
    """N: no list has more entries, and every index is below it."""
    packed_bytes: int
    """Exact bytes of a packed vector."""


class Wire(Protocol):
    """The form of one field on the wire."""

    def encode(self, value: Any) -> Any: ...
    def decode(self, value: Any, limits: Limits, source: Source) -> Any: ...
    def most_bytes(self, limits: Limits) -> int: ...


@dataclass(frozen=True, slots=True)
class Number:
    """An integer from 0 to `most`; without it, below 2^53."""

    most: int = NUMBER_MAX

    def encode(self, value: Any) -> Any:
        return value

    def decode(self, value: Any, limits: Limits, source: Source) -> int:
        if type(value) is not int:
            raise WrongType("not an integer", sender=source.sender, field=source.field)
        if not 0 <= value <= self.most:
            raise WrongLength("a number out of range", sender=source.sender, field=source.field)
        return value

    def most_bytes(self, limits: Limits) -> int:
        return _HEAD_BYTES


@dataclass(frozen=True, slots=True)
class Index:
    """A roster index: 0 to N - 1."""

    def encode(self, value: Any) -> Any:
        return value

    def decode(self, value: Any, limits: Limits, source: Source) -> int:
        return Number(limits.roster_size - 1).decode(value, limits, source)

    def most_bytes(self, limits: Limits) -> int:
        return _HEAD_BYTES


@dataclass(frozen=True, slots=True)
class Octets:
    """A byte string of exactly `length(limits)` bytes, or of at most that many."""

    length: Callable[[Limits], int]
    exact: bool = True

    def encode(self, value: Any) -> Any:
        return value

    def decode(self, value: Any, limits: Limits, source: Source) -> bytes:
        if type(value) is not bytes:
            raise WrongType("not a byte string", sender=source.sender, field=source.field)
        wanted = self.length(limits)
        if len(value) > wanted or (self.exact and len(value) != wanted):
            raise WrongLength(f"{len(value)} bytes instead of {wanted}", sender=source.sender, field=source.field)
        return value

    def most_bytes(self, limits: Limits) -> int:
        return _HEAD_BYTES + self.length(limits)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of one type, as a tuple: at most N items, or at most `most`."""

    item: Wire
    most: int | None = None

    def encode(self, value: Any) -> Any:
        return [self.item.encode(entry) for entry in value]

    def decode(self, value: Any, limits: Limits, source: Source) -> tuple[Any, ...]:
        if type(value) is not list:
            raise WrongType("not a list", sender=source.sender, field=source.field)
        if len(value) > self._most(limits):
            raise WrongLength(f"a list of {len(value)}", sender=source.sender, field=source.field)
        return tuple(self.item.decode(entry, limits, source.inside(str(at))) for at, entry in enumerate(value))

    def most_bytes(self, limits: Limits) -> int:
        return _HEAD_BYTES + self._most(limits) * self.item.most_bytes(limits)

    def _most(self, limits: Limits) -> int:
        return limits.roster_size if self.most is None else self.most


@dataclass(frozen=True, slots=True)
class IndexSet:
    """A set of roster indices, as a strictly increasing list: one encoding for one set."""

    def encode(self, value: Any) -> Any:
        return sorted(value)

    def decode(self, value: Any, limits: Limits, source: Source) -> tuple[int, ...]:
        indices = Sequence(Index()).decode(value, limits, source)
        if any(earlier >= later for earlier, later in itertools.pairwise(indices)):
            raise NotCanonical("indices not strictly increasing", sender=source.sender, field=source.field)
        return indices

    def most_bytes(self, limits: Limits) -> int:
        return Sequence(Index()).most_bytes(limits)


@dataclass(frozen=True, slots=True)
class Struct:
    """A record inside a message."""

    record: type[Record]

    def encode(self, value: Any) -> Any:
        return to_map(value)

    def decode(self, value: Any, limits: Limits, source: Source) -> Any:
        return from_map(self.record, value, limits, source)

    def most_bytes(self, limits: Limits) -> int:
        return most_map_bytes(self.record, limits)


def exactly(length: int) -> Any:
    """A dataclass field: a byte string of this many bytes."""
    return wired(Octets(lambda _: length))


def wired(wire: Wire, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field of a wire type. A default only helps code that builds the record: the field always travels."""
    return dataclasses.field(default=default, metadata={"wire": wire})


class Record:
    """Base of everything that travels. Subclasses are frozen dataclasses whose fields come from `wired`."""

    __slots__ = ()


class Message(Record):
    """A record that travels on its own. `TYPE` is its name on the wire."""

    __slots__ = ()
    TYPE: ClassVar[str]


class SignedMessage(Message):
    """A message whose last field is the sender's signature over everything before it."""

    __slots__ = ()
    signature: bytes

    def body(self) -> bytes:
        """The signed bytes: the canonical encoding of the message without its signature."""
        fields = to_map(self)
        del fields["signature"]
        return canonical(fields)


def signature_field() -> Any:
    return exactly(SIGNATURE_BYTES)


def canonical(value: Any) -> bytes:
    """RFC 8949 core deterministic encoding."""
    return cbor2.dumps(value, canonical=True)


def encode(message: Message) -> bytes:
    """The canonical bytes of a message."""
    return canonical(to_map(message))


AnyMessage = TypeVar("AnyMessage", bound=Message)


def decode(kind: type[AnyMessage], data: bytes, limits: Limits, sender: int | None) -> AnyMessage:
    """Parse one message strictly.

    Args:
        kind: the message type that the session's state expects.
        data: all received bytes.
        limits: bounds of this session.
        sender: roster index of the sender, None for the aggregator; errors name it.

    Raises:
        MalformedMessage: the subclass of the gate that refused.
    """
    most = most_map_bytes(kind, limits)
    if len(data) > most:
        raise OversizedMessage(f"{len(data)} bytes where a {kind.TYPE} message has at most {most}", sender=sender)
    value = parse_canonical(data, sender)
    return cast(AnyMessage, from_map(kind, value, limits, Source(sender)))


def message_type(data: bytes, most_bytes: int, sender: int | None) -> str:
    """The `type` of a message. Checks nothing else in it."""
    if len(data) > most_bytes:
        raise OversizedMessage(f"{len(data)} bytes where at most {most_bytes} are read", sender=sender)
    value = parse_canonical(data, sender)
    name = value.get("type") if type(value) is dict else None
    # A name from the wire ends up on somebody's terminal: accept only what could be a message's name.
    if type(name) is not str or not _TYPE_NAME.fullmatch(name):
        raise MalformedMessage("not a message of this protocol", sender=sender, field="type")
    return name


def parse_canonical(data: bytes, sender: int | None) -> Any:
    """Gates 2 and 3: one well-formed value, in its canonical encoding, and nothing after it."""
    value = cbor.read(data, sender)
    if canonical(value) != data:
        raise NotCanonical("not the canonical encoding", sender=sender)
    return value


def to_map(record: Record) -> dict[str, Any]:
    values = {name: wire.encode(getattr(record, name)) for name, wire in _wires(type(record)).items()}
    if isinstance(record, Message):
        values["type"] = record.TYPE
    return values


def from_map(kind: type[Record], value: Any, limits: Limits, source: Source) -> Any:
    if type(value) is not dict:
        raise WrongType("not a map", sender=source.sender, field=source.field)
    wires = _wires(kind)
    expected = set(wires)
    if issubclass(kind, Message):
        expected.add("type")
        if value.get("type") != kind.TYPE:
            raise WrongType(f"not a {kind.TYPE} message", sender=source.sender, field="type")
    for name in value:
        if name not in expected:
            raise UnknownField("no such field", sender=source.sender, field=source.inside(name).field)
    for name in sorted(expected):
        if name not in value:
            raise MissingField("missing", sender=source.sender, field=source.inside(name).field)
    return kind(**{name: wire.decode(value[name], limits, source.inside(name)) for name, wire in wires.items()})


def most_map_bytes(kind: type[Record], limits: Limits) -> int:
    """An upper bound on the encoded size of a record: its field names, and the largest size of each field."""
    total = _HEAD_BYTES
    for name, wire in _wires(kind).items():
        total += _HEAD_BYTES + len(name) + wire.most_bytes(limits)
    if issubclass(kind, Message):
        total += 2 * _HEAD_BYTES + len("type") + len(kind.TYPE)
    return total


def fields_of(record: Record) -> dict[str, Any]:
    """The fields of a record by name, not encoded: to make a copy that differs in one of them."""
    return {name: getattr(record, name) for name in _wires(type(record))}


def _wires(kind: type[Record]) -> dict[str, Wire]:
    wires = _WIRES.get(kind)
    if wires is None:
        wires = {field.name: field.metadata["wire"] for field in dataclasses.fields(cast(Any, kind))}
        _WIRES[kind] = wires
    return wires
