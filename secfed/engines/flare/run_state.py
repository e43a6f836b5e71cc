"""Where a run is: what it waits for, who answered, and since when the others have not. No nvflare.

`DIGEST.state.json` lies beside the run's folder and its log, and is written whole at every change: its size follows
from the roster, however long the run. It is there for `secfed federation status` and holds what the aggregator knows,
which is what the protocol tells it. Nothing depends on it; where it cannot be written, on a full disk as elsewhere, the
run goes on. Its times are by the aggregator's clock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from protocols.aggregator import Stage
from secfed.aggregator.aggregation import GATHERING
from secfed.errors import UserError
from secfed.rounds.events import NO_ANSWER, Event, NodeAbsent, Note, RoundClosed, RoundFailed, RoundOpened
from secfed.study.sections import Section

FILE = "state.json"
_ENTRY = {GATHERING, Stage.ADVERTISE.value}
"""Stages that a node outside the rounds answers, too."""
_TEXT_MAX = 1000
_BYTES_MAX = 1 << 22


class Moment(Section):
    """When a site was asked for what."""

    round: int
    stage: str
    time: datetime


class Out(Section):
    """Why a site that answers is not in the rounds."""

    round: int
    """The first one that it was not in."""
    reason: str
    time: datetime


class SiteState(Section):
    """What is known of one site."""

    answered: Moment | None = None
    """Its last answer."""
    silent: Moment | None = None
    """The first request since then that it has not answered in time."""
    out: Out | None = None


class Doing(Section):
    """What all nodes of a stage were asked for last."""

    round: int
    stage: str
    since: datetime
    until: datetime
    """Who has not answered by then is absent."""
    waits_for: tuple[str, ...]
    """Who has not answered yet; of a stage that is over, who has not answered at all."""
    is_over: bool = False


class Ended(Section):
    """How a job ended, by its own word."""

    how: str
    text: str
    time: datetime


class RunState(Section):
    """Of a study's newest job."""

    format: Literal[1] = 1
    job: str = ""
    started: datetime
    time: datetime
    """Of the last change."""
    rounds: int = 0
    """Of the study; 0 before the first is opened."""
    opened: int = 0
    """The last round that was opened."""
    done: int = 0
    """The last round that is over."""
    done_before: int = 0
    """The last round that was over when the job began."""
    note: str = ""
    """What the run said last, in words."""
    doing: Doing | None = None
    ended: Ended | None = None
    sites: dict[str, SiteState] = Field(default_factory=dict)


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{FILE}")


def read_state(folder: Path) -> RunState | None:
    """The state of the run in this folder; None where there is none.

    Raises:
        UserError: it is there and cannot be read.
    """
    try:
        with _path(folder).open("rb") as file:
            return RunState.model_validate_json(file.read(_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not what the aggregator writes"
        raise UserError(
            f"{_path(folder)} cannot be read ({why})", "Run this as the user that the aggregator runs as"
        ) from error


def runs_among(runs: Path) -> tuple[str, ...]:
    """The names of the folders in here whose runs have a state."""
    return tuple(sorted(path.name.removesuffix(f".{FILE}") for path in runs.glob(f"[!.]*.{FILE}")))


class StateFile:
    """Keeps the state of one run in its file. For several threads of one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state: RunState | None = None
        self._lock = threading.Lock()

    def start(self, job: str) -> None:
        """A job begins, or goes on with, the study. What is known of sites stays."""
        try:
            before = read_state(self._folder)
        except UserError:
            before = None
        now = datetime.now(UTC)
        with self._lock:
            self._state = before or RunState(started=now, time=now)
            done = self._state.done
            self._change(job=job, started=now, done_before=done, note="", doing=None, ended=None)

    def show(self, event: Event) -> None:
        """An event of the run."""
        with self._lock:
            match event:
                case Note(text):
                    self._change(note=text.strip()[:_TEXT_MAX])
                case RoundOpened(number, rounds):
                    self._change(opened=number, rounds=rounds, note="")
                case RoundClosed(number) | RoundFailed(number):
                    self._change(done=number)
                case NodeAbsent(number, node, _, reason) if reason != NO_ANSWER:
                    self._set_out(node, number, reason)

    def asks(self, sites: Iterable[str], round_number: int, stage: str, seconds: float) -> None:
        """These sites are being asked, and have so many seconds for it."""
        now = datetime.now(UTC)
        until = now + timedelta(seconds=seconds)
        doing = Doing(round=round_number, stage=stage, since=now, until=until, waits_for=tuple(sites))
        with self._lock:
            self._change(doing=doing)

    def answered(self, site: str) -> None:
        """A site has answered what it was asked."""
        with self._lock:
            doing = self._state.doing if self._state is not None else None
            if self._state is None or doing is None:
                return
            before = self._state.sites.get(site, SiteState())
            moment = Moment(round=doing.round, stage=doing.stage, time=datetime.now(UTC))
            # A node that is out of the rounds answers their openings, too: what comes after them tells that it is in.
            out = before.out if doing.stage in _ENTRY else None
            left = tuple(name for name in doing.waits_for if name != site)
            self._change(
                doing=doing.model_copy(update={"waits_for": left}),
                sites={**self._state.sites, site: SiteState(answered=moment, out=out)},
            )

    def waited(self) -> None:
        """The time for answers is over."""
        with self._lock:
            doing = self._state.doing if self._state is not None else None
            if self._state is None or doing is None:
                return
            moment = Moment(round=doing.round, stage=doing.stage, time=doing.since)
            sites = dict(self._state.sites)
            for name in doing.waits_for:
                before = sites.get(name, SiteState())
                sites[name] = before.model_copy(update={"silent": before.silent or moment})
            self._change(doing=doing.model_copy(update={"is_over": True}), sites=sites)

    def end(self, how: str, text: str) -> None:
        """How the job ended."""
        with self._lock:
            self._change(ended=Ended(how=how, text=text[:_TEXT_MAX], time=datetime.now(UTC)), note="")

    def again(self) -> None:
        """Write the file once more: the last time there was no room for it, perhaps."""
        with self._lock:
            if self._state is not None:
                _write(_path(self._folder), self._state.model_dump_json().encode())

    def _set_out(self, site: str, number: int, reason: str) -> None:
        if self._state is None:
            return
        before = self._state.sites.get(site, SiteState())
        since = before.out
        if since is None or since.reason != reason:
            since = Out(round=number, reason=reason[:_TEXT_MAX], time=datetime.now(UTC))
        self._change(sites={**self._state.sites, site: before.model_copy(update={"out": since})})

    def _change(self, **changes: Any) -> None:
        if self._state is not None:
            self._state = self._state.model_copy(update={**changes, "time": datetime.now(UTC)})
            _write(_path(self._folder), self._state.model_dump_json().encode())


def _write(path: Path, data: bytes) -> None:
    """As `write_whole`, but that a power cut may cost it, and that it never raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(data)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
