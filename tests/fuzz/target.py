"""What is fuzzed: a parser, its promise, real inputs to start from, and a way to change them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

Mutator: TypeAlias = Callable[[bytes, int, Random], bytes]
"""Changes an input: the bytes, the most bytes that may come out, and where choices come from."""

SMALL = 1 << 14
LARGE = 1 << 16
"""For text, in which a few thousand brackets are a danger of their own."""


class PromiseBroken(Exception):
    """A parser did what it promises not to do. Any exception that it does not declare is a finding, too."""


@dataclass(frozen=True, slots=True)
class Target:
    """One parser of bytes that come from a stranger."""

    name: str
    promise: str
    """What `check` checks, in one line."""
    check: Callable[[bytes], None]
    """Gives one input to the parser. Raises when the promise is broken."""
    seeds: tuple[bytes, ...]
    """Real inputs, as honest parties make them."""
    mutate: Mutator
    most_bytes: int = SMALL
    """Inputs are not made longer than this."""


def need(condition: bool, otherwise: str) -> None:
    """Find fault unless the condition holds."""
    if not condition:
        raise PromiseBroken(otherwise)


def check_text(error: Exception) -> None:
    """An error's text goes to a person's terminal: nothing in it may move the cursor or start a line of its own."""
    need(str(error).isprintable(), f"an error's text is not printable: {str(error)!r}")
