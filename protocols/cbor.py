"""A reader for exactly the CBOR that this protocol writes: RFC 8949, section 4.2.1, and nothing else.

Why not a general decoder: CBOR's tags make a decoder build decimals, fractions, regular expressions, dates and
references from hostile bytes, before we can check anything. A four-megabyte decimal takes minutes. Our messages have
only unsigned and negative integers, byte strings, text, lists, maps with text keys, booleans and null; each item has
its shortest head and a definite length, and map keys are in order, each once. The reader refuses everything else at the
first wrong byte, with an error that names the sender and the field. Memory is bounded by the bytes read and by
`MOST_ITEMS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocols.errors import MalformedMessage, NotCanonical, WrongType

MAX_DEPTH = 6
MOST_ITEMS = 1 << 18
"""More items than any message of the largest roster has: 16 receipts of 1000 nodes have 130,000."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG, _OTHER = range(8)
_SIMPLE: dict[int, bool | None] = {20: False, 21: True, 22: None}
_LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Source:
    """What an error names: the sender, and the field being read."""

    sender: int | None
    field: str | None = None

    def inside(self, name: str) -> Source:
        # A name from the wire ends up on somebody's terminal: print it only if it could be a field's name.
        shown = name if name.isascii() and name.replace("_", "").isalnum() else "?"
        shown = shown[:_LONGEST_NAME]
        return Source(self.sender, shown if self.field is None else f"{self.field}.{shown}")


def read(data: bytes, sender: int | None) -> Any:
    """The one value in `data`.

    Args:
        data: all the bytes of a message.
        sender: roster index of the sender, None for the aggregator; errors name it.

    Returns:
        int, bytes, str, list, dict, bool or None.

    Raises:
        MalformedMessage: truncated, too deep, too many items, or not CBOR.
        NotCanonical: an encoding of the value that is not the canonical one, or bytes after the end.
        WrongType: a tag, a floating-point number, or a map key that is not text.
    """
    reader = _Reader(data, sender)
    value = reader.item(MAX_DEPTH)
    if reader.at != len(data):
        raise NotCanonical("bytes after the end of the message", sender=sender)
    return value


class _Reader:
    """The position in the bytes and in the message, and the number of items so far."""

    __slots__ = ("at", "data", "items", "path", "sender")

    def __init__(self, data: bytes, sender: int | None) -> None:
        self.data = data
        self.sender = sender
        self.at = 0
        self.items = 0
        self.path: list[str] = []

    def item(self, depth: int) -> Any:
        self.items += 1
        if self.items > MOST_ITEMS:
            raise self._fault(MalformedMessage, "more items than any message has")
        major, argument = self._head()
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self._take(argument)
        if major == _TEXT:
            return self._text(argument)
        if major in (_LIST, _MAP):
            if depth == 0:
                raise self._fault(MalformedMessage, "nested too deeply")
            return self._list(argument, depth - 1) if major == _LIST else self._map(argument, depth - 1)
        if major == _TAG:
            raise self._fault(WrongType, "a tagged value")
        if argument not in _SIMPLE:
            raise self._fault(WrongType, "a floating-point or simple value")
        return _SIMPLE[argument]

    def _head(self) -> tuple[int, int]:
        """Major type and argument of the next item. For major type 7 with a short argument, its five bits."""
        first = self._take(1)[0]
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short
        if short == 31:
            raise self._fault(NotCanonical, "an indefinite length")
        if short > 27:
            raise self._fault(MalformedMessage, "not CBOR")
        width = 1 << (short - 24)
        argument = int.from_bytes(self._take(width), "big")
        if major == _OTHER:
            return major, 256  # a float, or a simple value without a name: this protocol has neither
        if argument < (24 if width == 1 else 1 << (4 * width)):
            raise self._fault(NotCanonical, "a longer form than needed")
        return major, argument

    def _take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self._fault(MalformedMessage, "ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def _text(self, length: int) -> str:
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise self._fault(MalformedMessage, "text that is not UTF-8") from None

    def _list(self, length: int, depth: int) -> list[Any]:
        values: list[Any] = []
        for at in range(length):
            self.path.append(str(at))
            values.append(self.item(depth))
            self.path.pop()
        return values

    def _map(self, length: int, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        previous = b""
        for _ in range(length):
            start = self.at
            name = self.item(depth)
            if type(name) is not str:
                raise self._fault(WrongType, "a map key that is not text")
            key = self.data[start : self.at]
            self.path.append(name)
            if key == previous:
                raise self._fault(NotCanonical, "a key occurs twice")
            if key < previous:
                raise self._fault(NotCanonical, "map keys not in order")
            previous = key
            values[name] = self.item(depth)
            self.path.pop()
        return values

    def _fault(self, kind: type[MalformedMessage], reason: str) -> MalformedMessage:
        source = Source(self.sender)
        for name in self.path:
            source = source.inside(name)
        return kind(reason, sender=source.sender, field=source.field)
