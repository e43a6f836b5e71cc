"""`secfed federation status`: where each study stands, what it waits for, and who is missing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from secfed.errors import UserError

if TYPE_CHECKING:
    from secfed.aggregator.home import AggregatorHome
    from secfed.engines.flare.jobs import Job
    from secfed.engines.flare.status import Connections, StudyStatus


def tell_status(kit: Path, aggregator: Path | None, as_json: bool) -> None:
    """Ask the server, read the aggregator's folder, and print.

    Raises:
        UserError: the server does not answer, or a file of a run cannot be read.
    """
    from secfed.aggregator.home import AggregatorHome, default_home
    from secfed.engines.flare.connections import read_connections
    from secfed.engines.flare.jobs import connect
    from secfed.engines.flare.status import Connections, ages, lines_of

    home = AggregatorHome(aggregator or default_home())
    with connect(kit) as operator:
        heard, jobs = ages(operator.last_heard(), time.time()), operator.jobs()
        elsewhere = [job for job in _newest(jobs) if not home.study_file(bytes.fromhex(job.study)).exists()]
        rosters = {job.study: operator.sites_of(job.id) for job in elsewhere}
    connections = Connections(heard, read_connections(home.path))
    studies = [
        _status(home, digest, [job for job in jobs if job.study == digest], rosters.get(digest, ()), connections)
        for digest in _digests(home, jobs)
    ]
    connected = sorted(name for name in heard if connections.has(name))
    if as_json:
        told = [{"job": job.id, "study": job.study, "server_says": job.status} for job in jobs]
        typer.echo(json.dumps({"connected": connected, "studies": [each.as_json() for each in studies], "jobs": told}))
        return
    blocks = ["\n".join(lines_of(each)) for each in studies] or ["no study was submitted yet"]
    typer.echo("\n\n".join([f"connected    {', '.join(connected) or 'nobody'}", *blocks]))


def _status(
    home: AggregatorHome, digest: str, jobs: list[Job], sites: tuple[str, ...], connections: Connections
) -> StudyStatus:
    from secfed.engines.flare.progress import RunLog, waits_for_room
    from secfed.engines.flare.run_state import read_state
    from secfed.engines.flare.status import JobSeen, study_status

    name, roster, folder = "", sites, home.run(bytes.fromhex(digest))
    try:
        study = home.study(bytes.fromhex(digest))
        name, roster = study.name, tuple(entry.name for entry in study.roster)
    except (UserError, OSError):  # only the aggregator's machine has the study's file
        pass
    seen = [JobSeen(job.id, job.status, job.is_over) for job in jobs]
    late = any(RunLog(folder).sites_wait(job.id) for job in jobs if not job.is_over)
    run, no_room = read_state(folder), waits_for_room(folder)
    return study_status(digest, name, roster, run, seen, connections, late_come_in=late, no_room=no_room)


def _digests(home: AggregatorHome, jobs: list[Job]) -> list[str]:
    """Digests of every study that has a job on the server, newest first, then of every other run in the folder."""
    from secfed.engines.flare.run_state import runs_among

    return list(dict.fromkeys([*(job.study for job in jobs), *runs_among(home.runs)]))


def _newest(jobs: list[Job]) -> list[Job]:
    """The newest job of each study."""
    return list({job.study: job for job in reversed(jobs)}.values())
