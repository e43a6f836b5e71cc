"""A changed message as its difference from an honest one: vectors stay small, and a reader sees the defect."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class Splice:
    """Removes bytes in one place, and inserts others."""

    at: int
    """The position of the first byte that differs from the honest message."""
    remove: int
    """The number of bytes removed there."""
    insert: str
    """The bytes in their place, in hexadecimal."""

    @classmethod
    def between(cls, honest: bytes, data: bytes) -> Splice:
        """The splice that changes one into the other."""
        start = _common(honest, data)
        end = _common(honest[start:][::-1], data[start:][::-1])
        return cls(start, len(honest) - start - end, data[start : len(data) - end].hex())

    def apply(self, honest: bytes) -> bytes:
        """The changed message."""
        return honest[: self.at] + bytes.fromhex(self.insert) + honest[self.at + self.remove :]


def _common(one: bytes, other: bytes) -> int:
    """The number of bytes with which both begin."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
