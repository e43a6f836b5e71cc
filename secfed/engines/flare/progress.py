"""What a run's operator can follow: `DIGEST.progress.jsonl` beside the run's folder, one event a line. No nvflare.

It holds what the aggregator knows, which is what the protocol tells it. Its times are exact, to follow a run by; so it
lies beside the run's folder and not in it: the folder is handed on, and how long a round took is not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secfed.files import READABLE, write_whole
from secfed.progress import Event, NodeAbsent, Note, RoundClosed, RoundFailed, RoundOpened, StageReached

FILE, WAITING = "progress.jsonl", "sites-wait"
START, END, ROUND = "start", "end", "round-closed"
_KINDS: tuple[type[Event], ...] = (Note, RoundOpened, StageReached, NodeAbsent, RoundClosed, RoundFailed)
_EVENTS = {kind.KIND: kind for kind in _KINDS}


class RunLog:
    """Appends to a run's log."""

    def __init__(self, folder: Path) -> None:
        self._path = _beside(folder, FILE)
        self._waiting = _beside(folder, WAITING)

    def start(self, job: str) -> None:
        """Write down that a job begins, or goes on with, the study."""
        self._write({"event": START, "job": job})

    def show(self, event: Event) -> None:
        """Write down an event."""
        self._write({"event": event.KIND, **dataclasses.asdict(event)})

    def end(self, how: str, text: str) -> None:
        """Write down how the job ended: completed, stopped, aborted or failed, and why."""
        self._write({"event": END, "how": how, "text": text})

    @property
    def is_begun(self) -> bool:
        """Whether the study's first job has begun."""
        return self._path.exists()

    def let_wait(self, job: str) -> None:
        """Write down that sites have come which take no part in this job of the study, which is begun."""
        self._waiting.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._waiting, job.encode(), READABLE)

    def sites_wait(self, job: str) -> bool:
        """Whether that was written down of this job."""
        return self._waiting.exists() and self._waiting.read_text() == job

    def _write(self, line: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **line}) + "\n")


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}.{name}")


def read_log(folder: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """The events of a run from a line on. A line that a crash cut short is left out."""
    path = _beside(folder, FILE)
    lines = path.read_text().split("\n")[start:-1] if path.exists() else []
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def event_of(line: Mapping[str, Any]) -> Event | None:
    """The event that a line tells of; None for the log's own."""
    kind = _EVENTS.get(line["event"])
    if kind is None:
        return None
    return kind(**{field.name: line[field.name] for field in dataclasses.fields(kind)})


def starts_in_vain(events: Sequence[Mapping[str, Any]]) -> int:
    """How many jobs have begun since the last round that was completed."""
    count = 0
    for event in events:
        count = 0 if event["event"] == ROUND else count + (event["event"] == START)
    return count


def how_far(folder: Path) -> str:
    """How far a run has come, in a few words."""
    rounds = done = 0
    ending = ""
    for event in read_log(folder):
        match event["event"]:
            case "round-opened":
                rounds = event["rounds"]
            case "round-closed" | "round-void":
                done = event["round_number"]
            case "start":
                ending = ""
            case "end":
                ending = f", {event['how']}: {event['text']}"
    return f"{done} of {rounds} rounds{ending}" if rounds else f"not begun{ending}"
