"""The parts of a session's line of states: the states, and the steps that move a session from one to the next.

They are separate from the node's machine (`protocols.client`), so that its table, `STEPS`, alone defines the order: the
machine follows it, tests weaken it, and SPEC.md's diagram is made from it.
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
    """The state of a session."""

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
    """A message of this kind from the aggregator moves the session on. Create it with `received`."""

    kind: type[Message]
    handler: Callable[[Client, Any], tuple[ClientEvent, ...]]
    then: State


@dataclass(frozen=True, slots=True)
class Called(Generic[Given]):
    """A call moves the session on, with a value that only the program around the node has: its vector, the next
    state."""

    name: str
    """The name of the method of `Client`."""
    handler: Callable[[Client, Given], Message]
    answers: type[Message]
    """The earlier message that the handler answers. Its repetitions get the same answer."""
    then: State


Step = Received | Called[Any]


def received(
    kind: type[AnyMessage], handler: Callable[[Client, AnyMessage], tuple[ClientEvent, ...]], then: State
) -> Received:
    """A row whose handler takes messages of exactly this kind; the type checker ensures it."""
    return Received(kind, handler, then)
