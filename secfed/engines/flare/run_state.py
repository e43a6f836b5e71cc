"""The state of a run: what it waits for, which sites answered, and since when the others have not. No nvflare.

`DIGEST.state.json` is stored beside the run's folder and its log, and is rewritten at every change. Its size depends on
the roster, not on the length of the run. It is for `secfed federation status`, and contains what the aggregator knows,
which is what the protocol tells it. Nothing depends on it; if it cannot be written, for example on a full disk, the run
continues. Its times are by the aggregator's clock.
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
"""Stages that a node outside the rounds also answers."""
_TEXT_MAX = 1000
_BYTES_MAX = 1 << 22


class Moment(Section):
    """What a site was asked for, and when."""

    round: int
    stage: str
    time: datetime


class Out(Section):
    """Why a site that answers takes no part in the rounds."""

    round: int
    """The first round that it took no part in."""
    reason: str
    time: datetime


class SiteState(Section):
    """What is known about one site."""

    answered: Moment | None = None
    """Its last answer."""
    silent: Moment | None = None
    """The first request since then that it has not answered in time."""
    out: Out | None = None


class Doing(Section):
    """What all nodes of a stage were last asked for."""

    round: int
    stage: str
    since: datetime
    until: datetime
    """Sites that have not answered by then count as absent."""
    waits_for: tuple[str, ...]
    """Sites that have not answered yet; once the stage is over, sites that did not answer at all."""
    is_over: bool = False


class Ended(Section):
    """How a job ended, as it reported itself."""

    how: str
    text: str
    time: datetime


class RunState(Section):
    """The state of a study's newest job."""

    format: Literal[1] = 1
    job: str = ""
    started: datetime
    time: datetime
    """When it last changed."""
    rounds: int = 0
    """The study's number of rounds; 0 before the first is opened."""
    opened: int = 0
    """The last round that was opened."""
    done: int = 0
    """The last completed round."""
    done_before: int = 0
    """The last round completed when the job began."""
    note: str = ""
    """The run's last message, in words."""
    doing: Doing | None = None
    ended: Ended | None = None
    sites: dict[str, SiteState] = Field(default_factory=dict)


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{FILE}")


def read_state(folder: Path) -> RunState | None:
    """The state of the run in this folder; None if there is none.

    Raises:
        UserError: it exists but cannot be read.
    """
    try:
        with _path(folder).open("rb") as file:
            return RunState.model_validate_json(file.read(_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "the aggregator did not write it in this form"
        raise UserError(f"cannot read {_path(folder)} ({why})", "Run this command as the aggregator's user") from error


def runs_among(runs: Path) -> tuple[str, ...]:
    """The names of the folders in here whose run has a state file."""
    return tuple(sorted(path.name.removesuffix(f".{FILE}") for path in runs.glob(f"[!.]*.{FILE}")))


class StateFile:
    """Keeps the state of one run in its file. Thread-safe within one process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state: RunState | None = None
        self._lock = threading.Lock()

    def start(self, job: str) -> None:
        """A job begins or continues the study. What is known about the sites is kept."""
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
        """Record an event of the run."""
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
        """These sites are being asked, and have the given seconds to answer."""
        now = datetime.now(UTC)
        until = now + timedelta(seconds=seconds)
        doing = Doing(round=round_number, stage=stage, since=now, until=until, waits_for=tuple(sites))
        with self._lock:
            self._change(doing=doing)

    def answered(self, site: str) -> None:
        """A site has answered."""
        with self._lock:
            doing = self._state.doing if self._state is not None else None
            if self._state is None or doing is None:
                return
            before = self._state.sites.get(site, SiteState())
            moment = Moment(round=doing.round, stage=doing.stage, time=datetime.now(UTC))
            # A node outside the rounds also answers their openings; only an answer to a later stage shows that it takes
            # part.
            out = before.out if doing.stage in _ENTRY else None
            left = tuple(name for name in doing.waits_for if name != site)
            self._change(
                doing=doing.model_copy(update={"waits_for": left}),
                sites={**self._state.sites, site: SiteState(answered=moment, out=out)},
            )

    def waited(self) -> None:
        """All have answered, or the time for answers is over."""
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
        """Record how the job ended."""
        with self._lock:
            self._change(ended=Ended(how=how, text=text[:_TEXT_MAX], time=datetime.now(UTC)), note="")

    def again(self) -> None:
        """Write the file again; the last attempt may have failed for lack of space."""
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
    """Like `write_whole`, but a power failure may lose the file, and it never raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(data)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
