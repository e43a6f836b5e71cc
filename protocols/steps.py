"""What a session's line of states is made of: the states, and what moves a session from one to the next.

Apart from the node's machine (`protocols.client`), so that its table, `STEPS`, says all there is to say of the order of
things: the machine goes by it, tests weaken it, and SPEC.md's diagram is made from it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from protocols.events import ClientEvent
from protocols.wire import AnyMessage, Message

if TYPE_CHECKING:
    from protocols.client import Client

Given = TypeVar("Given")


class State(enum.Enum):
    """Where a session stands."""

    NEW = "new"
    ADVERTISED = "advertised"
    SHARED = "shared"
    READY = "ready"
    MASKED = "masked"
    AGREED = "agreed"
    UNMASKED = "unmasked"
    SUMMED = "summed"
    CLOSED = "closed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Received:
    """A message of this kind from the aggregator moves the session on. Made by `received`."""

    kind: type[Message]
    handler: Callable[[Client, Any], tuple[ClientEvent, ...]]
    then: State


@dataclass(frozen=True, slots=True)
class Called(Generic[Given]):
    """A call moves the session on, with what only the program around the node has: its vector, the next state."""

    name: str
    """Of the method of `Client`."""
    handler: Callable[[Client, Given], Message]
    answers: type[Message]
    """The message taken before to which the handler makes the answer; that is its answer from then on, too."""
    then: State


Step = Received | Called[Any]


def received(
    kind: type[AnyMessage], handler: Callable[[Client, AnyMessage], tuple[ClientEvent, ...]], then: State
) -> Received:
    """A row whose handler takes messages of just this kind: the type checker sees to it."""
    return Received(kind, handler, then)
