"""What `secfed federation status` reports about a study, from the server and from the run's state file. No nvflare.

FLARE knows jobs and connections, but a job that it calls RUNNING may have reported its end, and it lists a killed site
for minutes. The run knows which sites answer. Each source counts for what it knows. If the aggregator's folder is on
another machine, the status says what is missing without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from secfed.aggregator.aggregation import GATHERING, HANDOVER
from secfed.engines.flare.run_state import Doing, RunState, SiteState
from secfed.rounds.events import KEEPS_OUT, LEFT_OUT

HEARD_SECONDS = 30.0
"""Silence after which a site counts as not connected: it sends a heartbeat every ten seconds."""
_CLOCK_SECONDS = 5.0
_FORGOTTEN_SECONDS = 700.0
"""The server never keeps a site that was silent for so long: then the clocks differ."""
_OVERDUE_SECONDS = 60.0
_COMPLETED, _RUNNING = "completed", "running"
_REASON = "the reason is in its owner's node.log"


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A job, as the server reports it."""

    id: str
    status: str
    is_over: bool


@dataclass(frozen=True, slots=True)
class Connections:
    """The sites that are connected."""

    heard: Mapping[str, float]
    """Seconds since the server last heard from each site."""
    open: frozenset[str] | None = None
    """The sites that the server has an open connection to; None if its folder, which records them, is not here."""

    def has(self, site: str) -> bool:
        """Whether a site is connected."""
        age = self.heard.get(site)
        return age is not None and age <= HEARD_SECONDS and (self.open is None or site in self.open)


@dataclass(frozen=True, slots=True)
class SiteStatus:
    """One site of a study."""

    name: str
    connected: bool
    last_heard_seconds: float | None
    state: str
    """"takes part", "asked", "silent", "refuses", "left out", "out", "not connected", "not asked", "not running" or
    "unknown"."""
    since_round: int | None
    since_seconds: float | None
    text: str


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """A study."""

    study: str
    """Its digest, in hexadecimal."""
    name: str
    """Empty if the study's file is not here."""
    state: str
    """"running", "starting", "submitted", "completed", "stopped", "aborted", "failed" or "cut short"."""
    text: str
    """The state explained, in words."""
    job: str
    server_says: str
    rounds: int | None
    """Rounds of the study. This and the next: None if not known here."""
    rounds_over: int | None
    rounds_of_job: int | None
    """Completed rounds in its newest job."""
    waits_for: str
    """What it waits for, and from which sites; empty if it is not running."""
    missing: tuple[str, ...]
    """The sites that it waits for."""
    sites: tuple[SiteStatus, ...]
    run_is_here: bool

    def as_json(self) -> dict[str, Any]:
        """For JSON output."""
        return asdict(self)


def ages(last_heard: Mapping[str, float], now: float) -> dict[str, float]:
    """Seconds since each site was heard from.

    Args:
        last_heard: by the server's clock.
        now: by the clock of this machine. If the clocks visibly differ, the site heard last counts as just heard.
    """
    newest = max(last_heard.values(), default=now)
    if newest > now + _CLOCK_SECONDS or now - newest > _FORGOTTEN_SECONDS:
        now = newest
    return {name: max(0.0, now - moment) for name, moment in last_heard.items()}


def study_status(
    digest: str,
    name: str,
    roster: Sequence[str],
    run: RunState | None,
    jobs: Sequence[JobSeen],
    connections: Connections,
    *,
    late_come_in: bool = False,
    no_room: bool = False,
    now: datetime | None = None,
) -> StudyStatus:
    """The status of one study.

    Args:
        digest: of the study, in hexadecimal.
        name: of the study; empty if not known here.
        roster: the names of its sites, as far as known.
        run: the run's state, if the aggregator's folder is here and the run has begun.
        jobs: this study's jobs, newest first.
        connections: the connected sites.
        late_come_in: the running job was told that sites wait to join.
        no_room: the run waits for free space on its disk.
        now: the time; the machine's clock if None.
    """
    now = now or datetime.now(UTC)
    job = _newest(jobs, run)
    state, text = _state(run, job)
    running = state == _RUNNING
    sites = tuple(_site(each, run, running, connections, now) for each in roster)
    waits_for, missing = _waits_for(run, now) if running else ("", ())
    if running and late_come_in:
        waits_for = f"{waits_for}; late sites join after it".lstrip("; ")
    if running and no_room:
        waits_for, missing = (
            "free space on the disk of the aggregator's folder, which is full; the run then continues by itself",
            (),
        )
    elif running and run is not None and run.doing is not None and not run.doing.is_over:
        overdue = (now - run.doing.until).total_seconds()
        if overdue > _OVERDUE_SECONDS:
            text = f"the run should have continued {_ago(overdue)} but has not: look at the server's log"
    return StudyStatus(
        study=digest,
        name=name,
        state=state,
        text=text,
        job=job.id if job is not None else (run.job if run is not None else ""),
        server_says=job.status if job is not None else "",
        rounds=run.rounds or None if run is not None else None,
        rounds_over=run.done if run is not None else None,
        rounds_of_job=run.done - run.done_before if run is not None else None,
        waits_for=waits_for,
        missing=missing,
        sites=sites,
        run_is_here=run is not None,
    )


def _newest(jobs: Sequence[JobSeen], run: RunState | None) -> JobSeen | None:
    """The job that counts: one that is not over, or else the newest, ignoring second jobs that were never started."""
    unstarted = [each for each in jobs if "ABANDONED" in each.status.upper() and run is not None and each.id != run.job]
    counts = [each for each in jobs if each not in unstarted] or jobs
    return next((each for each in counts if not each.is_over), counts[0] if counts else None)


def _state(run: RunState | None, job: JobSeen | None) -> tuple[str, str]:
    """The run's own report of its end counts; without one, the server's."""
    ended = run.ended if run is not None else None
    if ended is not None and ended.how == _COMPLETED:
        return _COMPLETED, ended.text
    is_runs = run is not None and (job is None or job.id == run.job)
    if ended is not None and is_runs:
        return ended.how, ended.text
    if job is None:
        return "cut short", "the server has no job for it; submit the study again to continue"
    said = job.status.upper()
    if not job.is_over:
        if "RUNNING" not in said:
            return "submitted", "the server starts the job once enough of its sites are connected"
        return (_RUNNING, "") if run is None or is_runs else ("starting", "the job has not begun its work")
    if "ABORT" in said:
        return "aborted", "the job was aborted; to continue, submit the study again"
    if "COMPLETED" in said and run is None:
        return _COMPLETED, "as the server reports"
    if "SCHEDULE" in said or "FAILED" in said:
        return (
            "failed",
            f"the server could not run the job ({job.status}); look at its log, then submit the study again",
        )
    return "cut short", "the server resubmits the study by itself; if it has not after two minutes, submit it again"


def _waits_for(run: RunState | None, now: datetime) -> tuple[str, tuple[str, ...]]:
    """What the run waits for, in words, and the sites."""
    if run is None:
        return "", ()
    doing = run.doing
    if doing is None or not doing.waits_for or (doing.is_over and doing.stage not in (GATHERING, HANDOVER)):
        return run.note or "the aggregator's own work", ()
    since = f", since {_span((now - doing.since).total_seconds())}" if not doing.is_over else ""
    text = f"{_asked(doing)} from {', '.join(doing.waits_for)}{since}"
    return f"{text} ({run.note})" if run.note and doing.stage == GATHERING else text, doing.waits_for


def _asked(doing: Doing) -> str:
    if doing.stage == GATHERING:
        return f"an attendance answer before round {max(1, doing.round)}"
    if doing.stage == HANDOVER:
        return "signature and ledger"
    return f"{doing.stage} of round {doing.round}"


def _site(name: str, run: RunState | None, running: bool, connections: Connections, now: datetime) -> SiteStatus:
    heard, connected = connections.heard.get(name), connections.has(name)
    state, since, moment, text = _doing(name, run, running, connected)
    line = "connected" if connected else ("not connected" if heard is None else f"last heard from {_ago(heard)}")
    seconds = (now - moment).total_seconds() if moment is not None else None
    if text and seconds is not None:
        text = text.replace("{ago}", _ago(seconds))
    return SiteStatus(
        name=name,
        connected=connected,
        last_heard_seconds=None if heard is None else round(heard, 1),
        state=state,
        since_round=since,
        since_seconds=None if seconds is None else round(seconds, 1),
        text=f"{line}; {text}" if text else line,
    )


def _doing(
    name: str, run: RunState | None, running: bool, connected: bool
) -> tuple[str, int | None, datetime | None, str]:
    """A site's state, since which round and moment, and its explanation."""
    if run is None:
        return ("unknown" if connected else "not connected"), None, None, ""
    site, doing = run.sites.get(name, SiteState()), run.doing
    if site.silent is not None:
        silent = site.silent
        state = "silent" if connected else "not connected"
        why = f"; {_REASON}" if connected and running else ""
        return state, silent.round, silent.time, f"silent since {_when(silent.round, silent.stage)}, {{ago}}{why}"
    if site.out is not None:
        out = site.out
        state = {KEEPS_OUT: "refuses", LEFT_OUT: "left out"}.get(out.reason, "out")
        return state, out.round, out.time, f"out of the rounds since round {out.round}: {out.reason}"
    if running and doing is not None and not doing.is_over and name in doing.waits_for:
        state = "asked" if connected else "not connected"
        return state, doing.round, doing.since, f"asked for {_asked(doing)} {{ago}}, no answer yet"
    answered = site.answered
    if answered is None:
        return ("not asked" if connected else "not connected"), None, None, "has not answered yet" if running else ""
    last = f"last answered {{ago}}, {_when(answered.round, answered.stage)}"
    if not running:
        return "not running", answered.round, answered.time, last
    if not connected:
        return "not connected", answered.round, answered.time, last
    return "takes part", answered.round, answered.time, "takes part"


def _when(number: int, stage: str) -> str:
    if stage == HANDOVER:
        return "the handover"
    return f"before round {max(1, number)}" if stage == GATHERING else f"round {number} ({stage})"


def lines_of(status: StudyStatus) -> Iterable[str]:
    """The status as lines of text."""
    yield f"study        {status.study[:16]}{'  ' + status.name if status.name else ''}"
    job = f", job {status.job}" if status.job else ""
    yield f"state        {status.state}{job}{': ' + status.text if status.text else ''}"
    if not status.run_is_here:
        yield "rounds       not known here: this machine's aggregator folder has no run of it (--aggregator DIR)"
    elif status.rounds is None:
        yield "rounds       none opened yet"
    else:
        yield f"rounds       {status.rounds_over} of {status.rounds} over, {status.rounds_of_job} of them in this job"
    if status.waits_for:
        yield f"waits for    {status.waits_for}"
    if status.state != _COMPLETED:
        width = max((len(site.name) for site in status.sites), default=0)
        for at, site in enumerate(status.sites):
            yield f"{'sites' if not at else '':<12} {site.name:<{width}}  {site.text}"


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _ago(seconds: float) -> str:
    return f"{_span(max(0.0, seconds))} ago"
