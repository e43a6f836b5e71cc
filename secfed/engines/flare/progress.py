"""What a run's operator can follow: `DIGEST.progress.jsonl` beside the run's folder, one event a line. No nvflare.

It holds what the aggregator knows, which is what the protocol tells it. Its times are exact, to follow a run by; so it
lies beside the run's folder and not in it: the folder is handed on, and how long a round took is not. However long the
run, there are at most `FILES_KEPT` files of `FILE_BYTES`: the oldest lines go. Lines are numbered through, so that a
reader knows which are new. Where the run is now, and who is missing, is in `DIGEST.state.json` (`run_state`).
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
"""Of the log: hundreds of rounds, and more than all starts in vain that a keeper makes."""
_TEXT_MAX = 1000
"""Characters of a text in it: an event is one line, and lines are never cut."""
_KINDS: tuple[type[Event], ...] = (Note, RoundOpened, StageReached, NodeAbsent, RoundClosed, RoundFailed)
_KEPT_LINES = 1000
"""More than two rounds have; the run itself waits for room before a third."""
_EVENTS = {kind.KIND: kind for kind in _KINDS}


class RunLog:
    """Appends to a run's log, and keeps its state beside it. For several threads of the one process that runs it.

    No run ends, and no round is held up, because its log cannot be written: lines are kept, and written with the next
    one that there is room for. Who must not go on without them, at a job's start and end, waits for `flush`.
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
        """Write down that a job begins, or goes on with, the study."""
        self.no_room(waits=False)
        self._write({"event": START, "job": job})
        self._state.start(job)

    def show(self, event: Event) -> None:
        """Write down an event."""
        self._write({"event": event.KIND, **dataclasses.asdict(event)})
        self._state.show(event)

    def asks(self, sites: Iterable[str], round_number: int, stage: str, seconds: float) -> None:
        """These sites are being asked for a stage's answers, and have so many seconds. For the state alone."""
        self._state.asks(sites, round_number, stage, seconds)

    def answered(self, site: str) -> None:
        """One of them has answered."""
        self._state.answered(site)

    def waited(self) -> None:
        """All have answered, or their time is over."""
        self._state.waited()

    def end(self, how: str, text: str) -> None:
        """Write down how the job ended: completed, stopped, aborted or failed, and why."""
        self._state.end(how, text)
        self._write({"event": END, "how": how, "text": text})

    def flush(self) -> None:
        """Write what is still kept.

        Raises:
            OSError: the disk is full. Other reasons why a log cannot be written hold nobody up.
        """
        with self._lock:
            self._write_kept()
            if self._kept and not has_room(self._folder.parent):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._state.again()

    def no_room(self, *, waits: bool) -> None:
        """Mark that the run waits for room on its disk, or no longer does. A mark has no bytes, and takes none."""
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
        """Write down that sites have come which take no part in this job of the study, which is begun."""
        self._waiting.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._waiting, job.encode(), READABLE)

    def sites_wait(self, job: str) -> bool:
        """Whether that was written down of this job."""
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
                    return  # a line that a crash cut short must not run into the next one
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
    """The events of a run with a higher number than this one. A line that a crash cut short is left out."""
    path = _beside(folder, FILE)
    texts = []
    # The newest first: of a file that is turned over meanwhile, lines are read twice then, and none is missed.
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
    """Whether the job that last began waits for room on its disk."""
    return _beside(folder, NO_ROOM).exists()


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
