"""A small federation of real processes over mutual TLS: a server and four hospitals with homes of their own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secfed.aggregator_home import SETTINGS, AggregatorHome
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.kits import Federation, make_kits
from secfed.engines.flare.loopback import HOST, OPERATOR, SERVER, Loopback, free_port
from secfed.engines.flare.namespaces import Namespaces
from secfed.engines.flare.progress import read_log
from secfed.errors import UserError
from secfed.home import Home
from secfed.study import Study
from tests.homes import SMALL, approve_at, make_hospitals
from tests.tiny import make_tiny_base

ROOT = Path(__file__).parents[1]
CANARY = "zebrafinch"
"""Stands in a patient's name and in a record of every hospital, and nowhere else."""
PACE = "\n[pace]\nupload_after_seconds = 3.0\n"
SETTINGS_TEXT = """\
[deadlines]
stage_seconds = 15.0
training_seconds = 60.0
gathering_seconds = 120.0
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
        for name in (SERVER, *self.names):
            self.loopback.start(name)

    def wait_for_sites(self, names: Iterable[str] | None = None, seconds: float = 120.0) -> None:
        """Until these sites, or all of the study, are connected."""
        wanted = set(self.names if names is None else names)
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

    def at_stage(self, number: int, stage: str) -> dict[str, Any]:
        return self.until(lambda event: (event.get("round_number"), event.get("stage")) == (number, stage))

    def closed(self, number: int) -> dict[str, Any]:
        """The event that a round is over, with a receipt or without."""
        kinds = ("round-closed", "round-void")
        return self.until(lambda event: event["event"] in kinds and event["round_number"] == number)


@contextmanager
def federation(folder: Path, rounds: int, *, apart: bool = False, hooks: Path | None = None) -> Iterator[Processes]:
    """Set it up in this folder; whatever was started is ended with it.

    Args:
        folder: a new folder.
        rounds: of the study.
        apart: each participant has a network namespace; else all are on the loopback.
        hooks: a folder with a `sitecustomize.py`, which every process is to run at its start.
    """
    base = make_tiny_base(folder / "base")
    hospitals = make_hospitals(folder, base, replace(SMALL, hospitals=4, minimum=3, steps=rounds))
    for home in hospitals.homes:
        with (home.path / "policy.toml").open("a") as policy:
            policy.write(PACE)  # long enough in the masked input for a kill to find it there
        plant(folder / "workspace" / "sites" / home.name / "patients.jsonl")
        approve_at(home, hospitals.study_path)
    study = hospitals.study
    names = tuple(entry.name for entry in study.roster)
    aggregator = AggregatorHome(folder / "aggregator")
    aggregator.add(hospitals.study_path)
    (aggregator.path / SETTINGS).write_text(SETTINGS_TEXT)
    homes = {SERVER: aggregator.path, **{home.name: home.path for home in hospitals.homes}}
    with ExitStack() as stack:
        stack.enter_context(our_code(hooks))
        namespaces = stack.enter_context(Namespaces((SERVER, *names))) if apart else None
        host = namespaces.address(SERVER) if namespaces else HOST
        kits = make_kits(Federation("loopback", host, free_port(), names), folder / "kits")
        loopback = stack.enter_context(Loopback(kits, homes, folder / "logs", namespaces))
        yield Processes(folder, hospitals.study_path, study, hospitals.homes, kits, aggregator, loopback, namespaces)


@contextmanager
def our_code(hooks: Path | None) -> Iterator[None]:
    """The processes are to run this code, wherever another copy is installed, and a test's hooks."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, [ROOT] if hooks is None else [hooks, ROOT]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def plant(patients: Path) -> None:
    """Put the canary into the first record: its patient's name and its text."""
    lines = patients.read_text().splitlines()
    first = json.loads(lines[0])
    renamed = {**first, "patient": f"{CANARY} {first['patient']}"}
    own = [json.loads(line) for line in lines]
    changed = [renamed | {"text": each["text"]} if each["patient"] == first["patient"] else each for each in own]
    changed[0]["text"] = f"{CANARY} {changed[0]['text']}"
    patients.write_text("".join(json.dumps(each) + "\n" for each in changed))
