"""What a run shows, kept to be looked at afterwards."""

from __future__ import annotations

from secfed.rounds.events import Event


class Recorder:
    """Keeps every event, and shows none."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def show(self, event: Event) -> None:
        self.events.append(event)
