"""What happens during a run, as events, and three ways to show them: a live display, plain lines, JSON lines."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TextIO

from secfed.files.figures import rounded_up
from secfed.rounds.channel import Standing

NO_ANSWER = "no answer"
LEFT_OUT = "left out by the operator"
KEEPS_OUT = "takes no part in it, by its own word"
"""Why a node is absent, where it is not for what it answered. Why it keeps out is for its owner alone."""


@dataclass(frozen=True, slots=True)
class Event:
    """Base of everything that is reported."""

    KIND: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Something a person wants to know."""

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
    """One node has finished one private step. Inside the embedded engine only: no such message exists on a wire."""

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
        standing: what it answered to the opening, if that was where it stands.
        head: the last round with a receipt. A node that stands there could join, and does not.
    """
    if left_out:
        return LEFT_OUT
    return NO_ANSWER if standing is None or standing.round_number != head else KEEPS_OUT


@dataclass(frozen=True, slots=True)
class OwnerTold(Event):
    """A node tells its owner who is said to have broken a round, or that an upload was late. Inside the embedded engine
    only, like a local step."""

    KIND: ClassVar[str] = "owner-told"
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class RoundClosed(Event):
    """A receipt has been made."""

    KIND: ClassVar[str] = "round-closed"
    round_number: int
    survivors: int
    roster: int
    seconds: float
    epsilon: float
    """Spent so far at every hospital that took part in all rounds, at nominal noise."""


@dataclass(frozen=True, slots=True)
class RoundFailed(Event):
    """The round is void: the model stays, the spend counts."""

    KIND: ClassVar[str] = "round-void"
    round_number: int
    reason: str


class Reporter(Protocol):
    """Shows events."""

    def show(self, event: Event) -> None: ...
    def close(self) -> None: ...


class JsonReporter:
    """One JSON object a line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def show(self, event: Event) -> None:
        print(json.dumps({"event": event.KIND, **dataclasses.asdict(event)}), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to end."""


class PlainReporter:
    """One line for each thing that matters, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def show(self, event: Event) -> None:
        line = describe(event)
        if line is not None:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to end."""


class LiveReporter:
    """A progress display for a terminal: finished rounds as lines, the present one as a moving bar."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._console = Console()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._rounds: Any = None
        self._steps: Any = None

    def show(self, event: Event) -> None:
        match event:
            case RoundOpened(number, rounds):
                if self._rounds is None:
                    self._progress.start()  # not before: somebody may be asked something first
                    self._rounds = self._progress.add_task("rounds", total=rounds)
                self._progress.update(self._rounds, description=f"round {number}", completed=number - 1)
            case StageReached(_, stage, nodes):
                self._clear_steps()
                self._progress.update(self._rounds, description=f"round {event.round_number}: {stage}, {nodes} nodes")
            case LocalStep(node, step, steps):
                if self._steps is None:
                    self._steps = self._progress.add_task("", total=steps)
                self._progress.update(self._steps, description=f"  training at {node}", completed=step, total=steps)
            case _:
                line = describe(event)
                if line is not None:
                    self._progress.console.print(line, highlight=False)

    def close(self) -> None:
        """Take the display down."""
        self._progress.stop()

    def _clear_steps(self) -> None:
        if self._steps is not None:
            self._progress.remove_task(self._steps)
            self._steps = None


def describe(event: Event) -> str | None:
    """An event as one line; None for those that only move a bar."""
    match event:
        case Note(text):
            return text
        case NodeAbsent(_, node, stage, reason):
            return f"  {node} is absent from {stage} on ({reason})"
        case OwnerTold(node, text):
            return f"  {node} is told: {text}"
        case RoundClosed(number, survivors, roster, seconds, epsilon):
            spent = rounded_up(epsilon, 2)
            return f"round {number:>3}: {survivors} of {roster} in the sum, {seconds:.1f} s, epsilon so far {spent}"
        case RoundFailed(number, reason):
            return f"round {number:>3}: void ({reason}); the model stays, the spend counts"
        case _:
            return None


def choose_reporter(as_json: bool) -> Reporter:
    """JSON lines if asked for, a live display on a terminal, plain lines elsewhere."""
    if as_json:
        return JsonReporter()
    return LiveReporter() if sys.stdout.isatty() else PlainReporter()
