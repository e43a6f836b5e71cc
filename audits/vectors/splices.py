"""A changed message as what it differs in from an honest one: vectors stay small, and a reader sees the defect."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class Splice:
    """Some bytes go away in one place, and others come."""

    at: int
    """The first byte that differs from the honest message."""
    remove: int
    """How many bytes of it go away there."""
    insert: str
    """What comes in their place, in hexadecimal."""

    @classmethod
    def between(cls, honest: bytes, data: bytes) -> Splice:
        """The splice that leads from one to the other."""
        start = _common(honest, data)
        end = _common(honest[start:][::-1], data[start:][::-1])
        return cls(start, len(honest) - start - end, data[start : len(data) - end].hex())

    def apply(self, honest: bytes) -> bytes:
        """The changed message."""
        return honest[: self.at] + bytes.fromhex(self.insert) + honest[self.at + self.remove :]


def _common(one: bytes, other: bytes) -> int:
    """How many bytes both begin with."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
