"""The demo between processes: a server and four hospitals, each with its own key and home, over mutual TLS.

It runs the same study as the demo in one process (`secfed.demo.workspace`), with one hospital less and far fewer
rounds. If the machine allows it, each participant has a network namespace; otherwise all are on the loopback. The demo
ends every process that it started. The run's folder has the same layout as in the other demo.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from secfed.aggregator.home import SETTINGS, AggregatorHome
from secfed.demo.loopback import HOST, OPERATOR, SERVER, Loopback, free_port
from secfed.demo.namespaces import Namespaces
from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.kits import Federation, make_kits
from secfed.engines.flare.progress import END, event_of, read_log
from secfed.errors import UserError
from secfed.node.approve import approve, examine
from secfed.node.home import MODELS, NODE, STUDIES, Home
from secfed.node.pace import OWNERS_LOG, TOOK
from secfed.node.policy import load_policy_file
from secfed.node.settings import Dataset, NodeFile, write_node_file
from secfed.reports import folder as run_folder
from secfed.rounds.events import Note, Reporter
from secfed.study.manifest import Study, load_study

DEMO = DemoSettings(hospitals=4, minimum=3, steps=8)
_START_SECONDS, _RUN_SECONDS = 120.0, 3600.0
_DEADLINES = "[deadlines]\nstage_seconds = 60.0\ntraining_seconds = 600.0\ngathering_seconds = 120.0\n"
_ANSWERED = re.compile(rf"(\S+) round \d+: {TOOK.pattern}")
_DISTANCE = timedelta(seconds=0.5)
"""The most by which the time of one moment differs between two logs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a demo over FLARE."""

    summary: Mapping[str, Any]
    overheads: tuple[float, ...]
    """For each completed round, in seconds: its time without the training of the slowest site."""


def run_demo(out: Path, reporter: Reporter, base: Path | None = None, settings: DemoSettings = DEMO) -> Outcome:
    """Make the hospitals, start everything, run the study, end everything.

    Args:
        out: a new or empty folder.
        reporter: shows the progress.
        base: a base model's folder; by default that of the `demo` extra.
        settings: the study's figures.

    Raises:
        UserError: something does not start, or the run fails; it names the folder of the logs.
    """
    study_path = prepare_demo(out, base=base, settings=settings)
    study = load_study(study_path)
    homes = make_homes(study_path)
    reporter.show(Note(f"the owners of {len(homes)} hospitals approve the study, each for its own home"))
    for home in homes:
        approve(home, examine(home, study_path, None), datetime.now(UTC))
    aggregator = AggregatorHome(out / "aggregator")
    aggregator.add(study_path)
    (aggregator.path / SETTINGS).write_text(_DEADLINES)
    names = tuple(entry.name for entry in study.roster)
    folders = {SERVER: aggregator.path, **{home.name: home.path for home in homes}}
    with ExitStack() as stack:
        apart = Namespaces.possible()
        namespaces = stack.enter_context(Namespaces((SERVER, *names))) if apart else None
        host = namespaces.address(SERVER) if namespaces else HOST
        kits = make_kits(Federation(study.name, host, free_port(), names), out / "kits")
        processes = stack.enter_context(Loopback(kits, folders, out / "logs", namespaces))
        for name in (SERVER, *names):
            processes.start(name)
        where = "its own network namespace" if apart else "its own process, on this machine's loopback"
        reporter.show(Note(f"a server and {len(names)} hospitals run, each in {where}, over mutual TLS"))
        submit_when_connected(kits[OPERATOR], study, processes)
        ending = follow(aggregator.run(study.digest), reporter, processes)
    if ending["how"] != "completed":
        raise UserError(f"the run ended early: {ending['text']}", f"Look at the logs in {out / 'logs'}")
    shutil.copytree(aggregator.run(study.digest), out, dirs_exist_ok=True)
    summary = json.loads((out / run_folder.SUMMARY).read_text())
    return Outcome(summary, overheads(aggregator.run(study.digest), homes))


def make_homes(study_path: Path) -> tuple[Home, ...]:
    """Turn each site's folder in a demo's workspace into a node's home. Returns them in roster order."""
    study, homes = load_study(study_path), []
    for entry in study.roster:
        folder = study_path.parent / "sites" / entry.name
        budget = load_policy_file(folder / "policy.toml", entry.name).budget[0]
        data = Dataset(
            name="records",
            file=str((folder / "patients.jsonl").resolve()),
            population=budget.population,
            patient_column=study.task.patient_column,
        )
        (folder / STUDIES).mkdir(mode=0o700)
        write_node_file(folder / NODE, NodeFile(name=entry.name, data=(data,)))
        shutil.copytree(study_path.parent / study.model.base, folder / MODELS / Path(study.model.base).name)
        homes.append(Home.open(folder))
    return tuple(homes)


def submit_when_connected(kit: Path, study: Study, processes: Loopback, seconds: float = _START_SECONDS) -> str:
    """Submit the study as soon as all its sites are connected. Returns the job's id.

    Raises:
        UserError: after these seconds not all are connected, or a process has ended.
    """
    end = time.monotonic() + seconds
    wanted = {entry.name for entry in study.roster}
    while True:
        processes.check()
        try:
            with connect(kit) as operator:
                if wanted <= set(operator.sites()):
                    return operator.submit(study)
        except UserError:
            if time.monotonic() >= end:
                raise
        if time.monotonic() >= end:
            raise UserError(
                f"not all sites were connected within {seconds:.0f} s", "Look at the logs of the server and the sites"
            )
        time.sleep(0.5)


def follow(run: Path, reporter: Reporter, processes: Loopback, seconds: float = _RUN_SECONDS) -> Mapping[str, Any]:
    """Show a run's events as they come. Returns the last one, which says how the run ended.

    Raises:
        UserError: the run has not ended after these seconds, or a process has.
    """
    end, seen = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        processes.check()
        for line in read_log(run, seen):
            seen = line["number"]
            event = event_of(line)
            if event is not None:
                reporter.show(event)
            if line["event"] == END:
                return line
        time.sleep(0.1)
    raise UserError(f"the run has not ended within {seconds:.0f} s", f"Look at {run} and at the logs")


def overheads(run: Path, homes: Sequence[Home]) -> tuple[float, ...]:
    """The time of each completed round without the longest answer of any site, which is its training.

    Only the owners' logs say how long a site took: only a demo, which has all of them, can compute this.
    """
    answered = [
        (datetime.fromisoformat(moment), float(seconds))
        for home in homes
        for moment, seconds in _ANSWERED.findall((home.path / OWNERS_LOG).read_text())
    ]
    found = []
    for line in read_log(run):
        if line["event"] == "round-closed":
            until = datetime.fromisoformat(line["time"]) + _DISTANCE
            since = until - timedelta(seconds=line["seconds"]) - 2 * _DISTANCE
            training = max((seconds for moment, seconds in answered if since <= moment <= until), default=0.0)
            found.append(line["seconds"] - training)
    return tuple(found)
