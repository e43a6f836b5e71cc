"""What `secfed federation status` says is so at every moment: with late and killed sites, after aborts and ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from typer.testing import CliRunner

from secfed.aggregator.home import SETTINGS
from secfed.cli import app
from secfed.demo.loopback import SERVER
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.progress import read_log
from secfed.verify.folder import verify_folder
from tests.flare import SETTINGS_TEXT, Processes, federation
from tests.homes import approve_at

pytestmark = [pytest.mark.flare, pytest.mark.timeout(1500)]
SECONDS = 15.0
"""Within which the status knows of a killed site: less than it takes until it has not been heard from."""


def status(processes: Processes) -> dict[str, Any]:
    """What the command says of the study, with its sites by name."""
    arguments = ["federation", "status", "--kit", processes.operator, "--aggregator", processes.aggregator.path]
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    told = json.loads(done.stdout)
    (study,) = (each for each in told["studies"] if each["study"] == processes.study.digest.hex())
    return {**study, "sites": {each["name"]: each for each in study["sites"]}, "connected": told["connected"]}


def until(processes: Processes, holds: Callable[[dict[str, Any]], bool], seconds: float = 240.0) -> dict[str, Any]:
    """The first status for which this holds."""
    end = time.monotonic() + seconds
    while True:
        found = status(processes)
        if holds(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.5)


def submit(processes: Processes) -> str:
    with connect(processes.operator) as operator:
        return operator.submit(processes.study)


def next_masked_input(processes: Processes) -> int:
    """Wait until nodes train in a round that was not opened yet."""
    opened = max((e["round_number"] for e in read_log(processes.run) if e["event"] == "round-opened"), default=0)
    event = processes.until(lambda e: e.get("stage") == "masked input" and e["round_number"] > opened)
    return int(event["round_number"])


def another(processes: Processes) -> Processes:
    """The same study under another name, approved everywhere."""
    path = processes.study_path.with_name("second.toml")
    path.write_text(processes.study_path.read_text().replace('name = "icd-chapters"', 'name = "second-study"', 1))
    second = processes.of(path)
    second.aggregator.add(path)
    for home in second.homes:
        approve_at(home, path)
    return second


def test_the_status_says_what_is_so_through_a_late_site_a_kill_an_abort_and_the_next_study(tmp_path: Path) -> None:
    with federation(tmp_path, 7, studies=2, gathering_seconds=5.0) as first:
        second = another(first)
        *early, late = first.names
        killed = early[0]
        for name in (SERVER, *early):
            first.launch(name)
        first.wait_for_sites(early)
        job = submit(first)
        first.closed(1)
        found = status(first)
        assert (found["state"], found["job"], found["rounds"]) == ("running", job, 7)
        assert found["rounds_over"] == found["rounds_of_job"] >= 1
        assert (found["sites"][late]["connected"], found["sites"][late]["state"]) == (False, "not connected")
        assert sorted(found["connected"]) == sorted(early)

        number = next_masked_input(first)
        first.loopback.kill(killed)
        found = until(first, lambda each: not each["sites"][killed]["connected"], SECONDS)
        assert found["sites"][killed]["state"] == "not connected"
        assert killed not in found["connected"]
        assert "last heard from" in found["sites"][killed]["text"]
        assert first.closed(number)["event"] == "round-void", "two of three that are needed"
        found = until(first, lambda each: "needed" in each["waits_for"])
        assert found["state"] == "running"
        assert sorted(found["missing"]) == sorted([killed, late])
        assert verify_folder(first.run).missing, "it goes on, and is not broken"

        for name in (killed, late):
            first.launch(name)
        found = until(first, lambda each: {site["state"] for site in each["sites"].values()} <= {"takes part", "asked"})
        assert found["state"] == "running"
        assert found["rounds_of_job"] < found["rounds_over"], "the job was started anew with them"

        next_masked_input(first)
        first.abort()
        found = status(first)
        assert (found["state"], found["waits_for"], found["missing"]) == ("aborted", "", [])
        assert not {site["state"] for site in found["sites"].values()} & {"takes part", "asked"}

        job = submit(second)
        found = until(second, lambda each: each["rounds_of_job"])
        assert (found["state"], found["job"], found["name"]) == ("running", job, "second-study")
        assert status(first)["state"] == "aborted"
        second.until(lambda event: event["event"] == "end", 600.0)
        second.loopback.kill(killed)  # the server waits for its word, and calls the job RUNNING
        assert status(second)["state"] == "completed"
        second.finished()
        until(second, lambda each: killed not in each["connected"], SECONDS)
        assert status(second)["waits_for"] == ""
        assert "COMPLETED" in second.status(job)


def test_a_study_that_one_site_never_joins_stops_in_time_names_it_and_goes_on_once_it_is_there(tmp_path: Path) -> None:
    with federation(tmp_path, 1, gathering_seconds=5.0) as processes:
        settings = SETTINGS_TEXT.format(gathering_seconds=5.0).replace(
            "handover_seconds = 120.0", "handover_seconds = 5"
        )
        (processes.aggregator.path / SETTINGS).write_text(settings)
        *there, missing = processes.names
        for name in (SERVER, *there):
            processes.launch(name)
        processes.wait_for_sites(there)
        identity = submit(processes)
        found = until(processes, lambda each: each["waits_for"].startswith("signature and ledger") or each["text"])
        assert found["state"] in ("running", "stopped")
        processes.until(lambda event: event["event"] == "end")
        found = status(processes)
        assert (found["state"], found["rounds_over"], found["waits_for"]) == ("stopped", 1, "")
        assert f"{missing} did not hand over" in found["text"]
        assert found["sites"][missing]["state"] == "not connected"
        processes.status(identity)
        processes.launch(missing)
        processes.wait_for_sites()
        submit(processes)
        processes.finished()
        assert status(processes)["state"] == "completed"
