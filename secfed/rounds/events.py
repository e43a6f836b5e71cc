"""What happens during a run, as events for a reporter to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from secfed.rounds.channel import Standing

NO_ANSWER = "no answer"
LEFT_OUT = "left out by the operator"
KEEPS_OUT = "says that it takes no part in it"
"""Why a node is absent, if its answer is not at fault. Only its owner learns why it takes no part."""


@dataclass(frozen=True, slots=True)
class Event:
    """Base of everything that is reported."""

    KIND: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Note(Event):
    """A line of text for a person."""

    KIND: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True, slots=True)
class RoundOpened(Event):
    """A round begins."""

    KIND: ClassVar[str] = "round-opened"
    round_number: int
    rounds: int


@dataclass(frozen=True, slots=True)
class StageReached(Event):
    """The nodes are being asked for this stage's answer."""

    KIND: ClassVar[str] = "stage"
    round_number: int
    stage: str
    nodes: int


@dataclass(frozen=True, slots=True)
class LocalStep(Event):
    """One node has finished one private step. Only in the embedded engine: no message on a wire says this."""

    KIND: ClassVar[str] = "local-step"
    node: str
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class NodeAbsent(Event):
    """A node gave no valid answer at a stage."""

    KIND: ClassVar[str] = "absent"
    round_number: int
    node: str
    stage: str
    reason: str


def why_absent(left_out: bool, standing: Standing | None, head: int) -> str:
    """Why a node whose answer is not wrong is absent from a round.

    Args:
        left_out: whether the operator left it out.
        standing: its answer to the opening, if that said where it stands.
        head: the last round with a receipt. A node that stands there could join, but does not.
    """
    if left_out:
        return LEFT_OUT
    return NO_ANSWER if standing is None or standing.round_number != head else KEEPS_OUT


@dataclass(frozen=True, slots=True)
class OwnerTold(Event):
    """A node tells its owner who is said to have broken a round, or that an upload was late. Only in the embedded
    engine, like a local step."""

    KIND: ClassVar[str] = "owner-told"
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class RoundClosed(Event):
    """The round has a receipt."""

    KIND: ClassVar[str] = "round-closed"
    round_number: int
    survivors: int
    roster: int
    seconds: float
    epsilon: float
    """Spent so far at every site that took part in all rounds, at nominal noise."""


@dataclass(frozen=True, slots=True)
class RoundFailed(Event):
    """The round is void: the model stays, the spend counts."""

    KIND: ClassVar[str] = "round-void"
    round_number: int
    reason: str


class Reporter(Protocol):
    """Shows events: any object with this method."""

    def show(self, event: Event) -> None: ...
