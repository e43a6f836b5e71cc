"""The log with which an operator follows a run: `DIGEST.progress.jsonl` beside the run's folder, one event per line. No
nvflare.

It contains what the aggregator knows, which is what the protocol tells it. Its times are exact, so it is stored beside
the run's folder and not in it: the folder is shared with others, and how long a round took is not. There are at most
`FILES_KEPT` files of `FILE_BYTES`, however long the run; the oldest lines are dropped. Lines are numbered, so that a
reader knows which are new. Where the run is now, and which sites are missing, is in `DIGEST.state.json` (`run_state`).
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from secfed.bounded_log import BoundedFile
from secfed.engines.flare.run_state import StateFile
from secfed.files.full_disk import has_room
from secfed.files.whole import READABLE, write_whole
from secfed.rounds.events import Event, NodeAbsent, Note, RoundClosed, RoundFailed, RoundOpened, StageReached

FILE, WAITING, NO_ROOM = "progress.jsonl", "sites-wait", "no-room"
START, END, ROUND = "start", "end", "round-closed"
FILE_BYTES, FILES_KEPT = 1 << 20, 3
"""Size of a log file: enough for hundreds of rounds, and for all the failed starts that a keeper makes."""
_TEXT_MAX = 1000
"""Longest text in the log, in characters: an event is one line, and lines are never cut."""
_KINDS: tuple[type[Event], ...] = (Note, RoundOpened, StageReached, NodeAbsent, RoundClosed, RoundFailed)
_KEPT_LINES = 1000
"""More events than two rounds have; the run itself waits for free space before a third."""
_EVENTS = {kind.KIND: kind for kind in _KINDS}


class RunLog:
    """Appends to a run's log, and keeps its state beside it. Thread-safe within the one process that runs it.

    A log that cannot be written never ends a run or delays a round: lines are kept, and written once there is space.
    Where a job must not continue without them, at its start and end, it calls `flush`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = _beside(folder, FILE)
        self._waiting = _beside(folder, WAITING)
        self._no_room = _beside(folder, NO_ROOM)
        self._kept: deque[dict[str, Any]] = deque(maxlen=_KEPT_LINES)
        self._file = BoundedFile(self._path, FILE_BYTES, FILES_KEPT, READABLE)
        self._state = StateFile(folder)
        self._number: int | None = None
        self._lock = threading.Lock()

    def start(self, job: str) -> None:
        """Record that a job begins or continues the study."""
        self.no_room(waits=False)
        self._write({"event": START, "job": job})
        self._state.start(job)

    def show(self, event: Event) -> None:
        """Record an event."""
        self._write({"event": event.KIND, **dataclasses.asdict(event)})
        self._state.show(event)

    def asks(self, sites: Iterable[str], round_number: int, stage: str, seconds: float) -> None:
        """Record that these sites are asked for a stage's answers within the given seconds. In the state only."""
        self._state.asks(sites, round_number, stage, seconds)

    def answered(self, site: str) -> None:
        """Record that one of them has answered."""
        self._state.answered(site)

    def waited(self) -> None:
        """Record that all have answered, or that their time is over."""
        self._state.waited()

    def end(self, how: str, text: str) -> None:
        """Record how the job ended (completed, stopped, aborted or failed) and why."""
        self._state.end(how, text)
        self._write({"event": END, "how": how, "text": text})

    def flush(self) -> None:
        """Write the lines that are still kept.

        Raises:
            OSError: the disk is full. Other write errors are ignored.
        """
        with self._lock:
            self._write_kept()
            if self._kept and not has_room(self._folder.parent):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._state.again()

    def no_room(self, *, waits: bool) -> None:
        """Mark that the run waits for free space on its disk, or no longer does. The mark is an empty file and needs no
        space.
        """
        with suppress(OSError):
            if waits:
                self._no_room.touch()
            else:
                self._no_room.unlink(missing_ok=True)

    @property
    def is_begun(self) -> bool:
        """Whether the study's first job has begun."""
        return self._path.exists()

    def let_wait(self, job: str) -> None:
        """Record that sites have connected that take no part in this running job of the study."""
        self._waiting.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._waiting, job.encode(), READABLE)

    def sites_wait(self, job: str) -> bool:
        """Whether this was recorded for this job."""
        return self._waiting.exists() and self._waiting.read_text() == job

    def _write(self, line: Mapping[str, Any]) -> None:
        cut = {name: value[:_TEXT_MAX] if isinstance(value, str) else value for name, value in line.items()}
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            self._kept.append({"time": moment, **cut})
            self._write_kept()

    def _write_kept(self) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._number is None:
                if not self._ends_whole() and not self._file.append(""):
                    return  # the next line must not be joined to one that a crash cut short
                self._number = max((event["number"] for event in read_log(self._folder)), default=0)
            while self._kept:
                line = json.dumps({"number": self._number + 1, **self._kept[0]}, ensure_ascii=False)
                if not self._file.append(line):
                    break
                self._number += 1
                self._kept.popleft()

    def _ends_whole(self) -> bool:
        data = self._path.read_bytes() if self._path.exists() else b""
        return not data or data.endswith(b"\n")


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}.{name}")


def read_log(folder: Path, after: int = 0) -> Iterator[dict[str, Any]]:
    """The events of a run with a number above this one. Skips a line that a crash cut short."""
    path = _beside(folder, FILE)
    texts = []
    # Newest file first: if a file is rotated meanwhile, its lines are read twice, but none is missed.
    for each in (path, *(path.with_name(f"{path.name}.{age}") for age in range(1, FILES_KEPT))):
        with suppress(FileNotFoundError):
            texts.append(each.read_text(errors="replace"))
    last = after
    for line in (line for text in reversed(texts) for line in text.split("\n")[:-1]):
        try:
            event = json.loads(line)
            number = event["number"]
        except (ValueError, TypeError, KeyError):
            continue
        if number > last:
            yield event
            last = number


def waits_for_room(folder: Path) -> bool:
    """Whether the newest job waits for free space on its disk."""
    return _beside(folder, NO_ROOM).exists()


def event_of(line: Mapping[str, Any]) -> Event | None:
    """The event in a line; None for the log's own lines."""
    kind = _EVENTS.get(line["event"])
    if kind is None:
        return None
    return kind(**{field.name: line[field.name] for field in dataclasses.fields(kind)})


def starts_in_vain(events: Sequence[Mapping[str, Any]]) -> int:
    """How many jobs have begun since the last completed round."""
    count = 0
    for event in events:
        count = 0 if event["event"] == ROUND else count + (event["event"] == START)
    return count
