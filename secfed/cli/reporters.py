"""Three ways to show what happens during a run: a live display, plain lines, JSON lines."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any, Protocol, TextIO

from secfed.files.figures import rounded_up
from secfed.rounds.events import (
    Event,
    LocalStep,
    NodeAbsent,
    Note,
    OwnerTold,
    Reporter,
    RoundClosed,
    RoundFailed,
    RoundOpened,
    StageReached,
)


class Display(Reporter, Protocol):
    """A reporter that can remove its display."""

    def close(self) -> None: ...


class JsonReporter:
    """One JSON object per line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def show(self, event: Event) -> None:
        print(json.dumps({"event": event.KIND, **dataclasses.asdict(event)}), file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to end."""


class PlainReporter:
    """One line for each important event, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def show(self, event: Event) -> None:
        line = describe(event)
        if line is not None:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to end."""


class LiveReporter:
    """A progress display for a terminal: finished rounds as lines, the current round as a moving bar."""

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
                    self._progress.start()  # not earlier: a question to the user may come first
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
        """Remove the display."""
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


def choose_reporter(as_json: bool) -> Display:
    """JSON lines if requested, a live display on a terminal, plain lines otherwise."""
    if as_json:
        return JsonReporter()
    return LiveReporter() if sys.stdout.isatty() else PlainReporter()
