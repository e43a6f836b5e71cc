"""A small federation of real processes over mutual TLS: a server and four hospitals with homes of their own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from secfed.aggregator.home import SETTINGS, AggregatorHome
from secfed.demo.loopback import HOST, OPERATOR, SERVER, Loopback, free_port
from secfed.demo.namespaces import Namespaces
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.kits import Federation, make_kits
from secfed.engines.flare.progress import read_log
from secfed.errors import UserError
from secfed.node.enrol import NewBudget
from secfed.node.home import Home
from secfed.node.pace import OWNERS_LOG
from secfed.study.manifest import Study, load_study
from secfed.verify.folder import verify_folder
from tests.homes import SMALL, approve_at, make_hospitals, set_up
from tests.tiny import make_tiny_base

ROOT = Path(__file__).parents[1]
NEEDS_NAMESPACES = pytest.mark.skipif(
    not Namespaces.possible(), reason="needs root and `ip`, to make network namespaces"
)
CANARY = "zebrafinch"
"""Stands in a patient's name and in a record of every hospital, and nowhere else."""
PACE = "\n[pace]\nupload_after_seconds = 3.0\n"
SETTINGS_TEXT = """\
[deadlines]
stage_seconds = 15.0
training_seconds = 60.0
gathering_seconds = {gathering_seconds}
handover_seconds = 120.0
"""


@dataclass(frozen=True, slots=True)
class Processes:
    """A federation that was set up; nothing of it runs at first but what a test starts."""

    folder: Path
    study_path: Path
    study: Study
    homes: tuple[Home, ...]
    kits: Mapping[str, Path]
    aggregator: AggregatorHome
    loopback: Loopback
    namespaces: Namespaces | None
    strangers: tuple[Home, ...] = ()
    """Of sites that the roster does not name, with a certificate of the same federation."""
    hooks: dict[str, Path] = field(default_factory=dict)
    """By participant: a folder whose `sitecustomize.py` its processes run first, and nobody else's."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.study.roster)

    @property
    def operator(self) -> Path:
        return self.kits[OPERATOR]

    @property
    def run(self) -> Path:
        return self.aggregator.run(self.study.digest)

    def start(self) -> None:
        for name in (SERVER, *self.sites):
            self.launch(name)

    def launch(self, name: str) -> None:
        """Start the server, or a site, with its hooks; after it was killed, too."""
        with python_path(*([self.hooks[name]] if name in self.hooks else []), ROOT):
            self.loopback.start(name)

    def of(self, study_path: Path) -> Processes:
        """The same processes, looked at for another study."""
        return replace(self, study_path=study_path, study=load_study(study_path))

    @property
    def sites(self) -> tuple[str, ...]:
        """All that have a certificate."""
        return (*self.names, *(home.name for home in self.strangers))

    def wait_for_sites(self, names: Iterable[str] | None = None, seconds: float = 120.0) -> None:
        """Until these sites, or all that have a certificate, are connected."""
        wanted = set(self.sites if names is None else names)
        end = time.monotonic() + seconds
        while True:
            self.loopback.check()
            try:
                with connect(self.operator) as operator:
                    if wanted <= set(operator.sites()):
                        return
            except UserError:
                if time.monotonic() > end:
                    raise
            assert time.monotonic() < end, "not all sites are connected"
            time.sleep(0.5)

    def until(self, holds: Callable[[dict[str, Any]], bool], seconds: float = 240.0) -> dict[str, Any]:
        """The first event of the run's log for which this holds, as soon as it is there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for event in read_log(self.run):
                if holds(event):
                    return event
            time.sleep(0.005)
        raise TimeoutError(f"not within {seconds} s; the last events: {list(read_log(self.run))[-5:]}")

    def submit(self, job: Path) -> str:
        """Any job's folder, as its operator submits it. Gives the job's id."""
        with connect(self.operator) as operator:
            return operator.submit_folder(job)

    def status(self, identity: str, seconds: float = 90.0) -> str:
        """The status of a job once it is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with connect(self.operator) as operator:
                status = str(operator.meta(identity)["status"]).upper()
            if status.startswith(("FINISHED", "FAILED", "ABANDONED")):
                return status
            time.sleep(1.0)
        raise TimeoutError(f"job {identity} is not over: {status}")

    def outcome(self, job: Path) -> str:
        """What becomes of a job's folder: what the server says to it, or its status once it is over."""
        try:
            identity = self.submit(job)
        except UserError as error:
            return str(error)
        return self.status(identity)

    def abort(self) -> None:
        """Its operator ends the study's job, and waits until it is over."""
        with connect(self.operator) as operator:
            ended = operator.abort(self.study.digest)
        for identity in ended:
            self.status(identity)

    def written_by_server(self) -> list[Path]:
        """Every file of the server's processes, logs and stores included."""
        folders = (self.kits[SERVER], self.aggregator.path, self.folder / "logs")
        return [
            path
            for folder in folders
            for path in folder.rglob("*")
            if path.is_file() and (folder.name != "logs" or path.name.startswith(SERVER))
        ]

    def at_stage(self, number: int, stage: str) -> dict[str, Any]:
        return self.until(lambda event: (event.get("round_number"), event.get("stage")) == (number, stage))

    def closed(self, number: int) -> dict[str, Any]:
        """The event that a round is over, with a receipt or without."""
        kinds = ("round-closed", "round-void")
        return self.until(lambda event: event["event"] in kinds and event["round_number"] == number)

    def finished(self, seconds: float = 600.0) -> dict[str, Any]:
        """The summary of the study's run once it is completed: all of it holds, and all nodes have the same model."""
        self.until(lambda event: event["event"] == "end" and event["how"] == "completed", seconds)
        verdict = verify_folder(self.run)
        assert verdict.problem is None, verdict.problem
        summary = dict(json.loads((self.run / "summary.json").read_text()))
        rounds = self.study.algorithm.rounds
        assert [each["number"] for each in summary["rounds"]] == list(range(1, rounds + 1))
        assert {each["state_digest"] for each in summary["hospitals"]} == {summary["state_digest"]}
        for each in summary["hospitals"]:
            assert each["rounds_released"] <= each["rounds_committed"] <= rounds
        return summary


def by_number(summary: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """A summary's rounds."""
    return {each["number"]: each for each in summary["rounds"]}


@contextmanager
def federation(
    folder: Path,
    rounds: int,
    *,
    studies: int = 1,
    strangers: Sequence[str] = (),
    gathering_seconds: float = 120.0,
    hooks: Mapping[str, Path] | None = None,
    apart: bool = False,
    pace: str = PACE,
) -> Iterator[Processes]:
    """Set it up in this folder; whatever was started is ended with it.

    Args:
        folder: a new one.
        rounds: of the study.
        studies: how many like it each hospital's budget pays for.
        strangers: sites that get a certificate of this federation, and are on no roster.
        gathering_seconds: how long the aggregator waits for a site that is not there.
        hooks: as `Processes` has them.
        apart: each participant has a network namespace; else all are on the loopback.
        pace: what each hospital's policy says about it.
    """
    base = make_tiny_base(folder / "base")
    hospitals = make_hospitals(folder, base, replace(SMALL, hospitals=4, minimum=3, steps=rounds), studies)
    for home in hospitals.homes:
        with (home.path / "policy.toml").open("a") as policy:
            policy.write(pace)  # long enough in the masked input for a kill to find it there
        plant(folder / "workspace" / "sites" / home.name / "patients.jsonl")
        approve_at(home, hospitals.study_path)
    study = hospitals.study
    outside = tuple(make_stranger(folder / "homes" / name, hospitals.study_path) for name in strangers)
    names = (*(entry.name for entry in study.roster), *strangers)
    aggregator = AggregatorHome(folder / "aggregator")
    aggregator.add(hospitals.study_path)
    (aggregator.path / SETTINGS).write_text(SETTINGS_TEXT.format(gathering_seconds=gathering_seconds))
    homes = {SERVER: aggregator.path, **{home.name: home.path for home in (*hospitals.homes, *outside)}}
    with ExitStack() as stack:
        # The processes are to run this code, wherever another copy is installed.
        stack.enter_context(python_path(ROOT))
        namespaces = stack.enter_context(Namespaces((SERVER, *names))) if apart else None
        host = namespaces.address(SERVER) if namespaces else HOST
        kits = make_kits(Federation("loopback", host, free_port(), names), folder / "kits")
        loopback = stack.enter_context(Loopback(kits, homes, folder / "logs", namespaces))
        yield Processes(
            folder,
            hospitals.study_path,
            study,
            hospitals.homes,
            kits,
            aggregator,
            loopback,
            namespaces,
            outside,
            dict(hooks or {}),
        )


@contextmanager
def python_path(*folders: Path) -> Iterator[None]:
    """Where processes that are started meanwhile look for modules first."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def make_stranger(home: Path, study_path: Path) -> Home:
    """A hospital that lacks nothing but its name on the roster: it has data, the base model, and a willing policy."""
    study = load_study(study_path)
    first = study.roster[0]
    data = study_path.parent / "sites" / first.name / "patients.jsonl"
    return set_up(home, study_path, data, NewBudget(first.patients, study.privacy.epsilon, study.privacy.delta, ""))


def owners_log(home: Home) -> str:
    """What a node's owner was told."""
    path = home.path / OWNERS_LOG
    return path.read_text() if path.exists() else ""


def wait_until_told(home: Home, text: str, seconds: float = 90.0) -> None:
    """Until a node's owner has been told this."""
    end = time.monotonic() + seconds
    while text not in owners_log(home):
        assert time.monotonic() < end, f"{home.name} was not told {text!r}: {owners_log(home)}"
        time.sleep(0.1)


def plant(patients: Path) -> None:
    """Put the canary into the first record: its patient's name and its text."""
    lines = patients.read_text().splitlines()
    first = json.loads(lines[0])
    renamed = {**first, "patient": f"{CANARY} {first['patient']}"}
    own = [json.loads(line) for line in lines]
    changed = [renamed | {"text": each["text"]} if each["patient"] == first["patient"] else each for each in own]
    changed[0]["text"] = f"{CANARY} {changed[0]['text']}"
    patients.write_text("".join(json.dumps(each) + "\n" for each in changed))
