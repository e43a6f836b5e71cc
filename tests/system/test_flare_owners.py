"""What owners do to their nodes in a running study, and what befalls these: a round or two without them, then with.

One federation after the other lets each of its sites stay away for another reason, one at a time: the study has four
sites and goes on with three.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from secfed.demo.flare import submit_when_connected
from secfed.engines.flare.progress import read_log
from secfed.node.home import Home
from secfed.rounds.events import KEEPS_OUT, NO_ANSWER
from tests.flare import Processes, by_number, federation, owners_log, wait_until_told
from tests.small_disk import SmallDisk, small_disk

pytestmark = [pytest.mark.flare, pytest.mark.timeout(1800)]
ROUNDS = 30
STOPPED_SECONDS = 90.0
_ROOM_BYTES = 3 << 20


@pytest.fixture
def disks() -> Iterator[ExitStack]:
    """Mounted file systems: unmounted after all processes have ended."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def running(disks: ExitStack, tmp_path: Path) -> Iterator[Processes]:
    with federation(tmp_path, ROUNDS) as processes:
        yield processes


def on_a_small_disk(home: Home, disks: ExitStack) -> SmallDisk:
    """Move a home to a disk of its own, before anything runs."""
    aside = home.path.with_name(f"{home.name}-aside")
    home.path.rename(aside)
    size = sum(each.stat().st_size for each in aside.rglob("*") if each.is_file())
    disk = disks.enter_context(small_disk(home.path, size + _ROOM_BYTES))
    shutil.copytree(aside, home.path, dirs_exist_ok=True)
    home.path.chmod(0o700)
    return disk


def secfed(*arguments: object) -> str:
    """What a command prints."""
    call = [sys.executable, "-c", "from secfed.cli import main; main()", *map(str, arguments)]
    return subprocess.run(call, check=True, capture_output=True, timeout=120, text=True).stdout


def site_status(processes: Processes, name: str) -> dict[str, Any]:
    """What the aggregator's operator is told of a site."""
    printed = secfed(
        "federation", "status", "--kit", processes.operator, "--aggregator", processes.aggregator.path, "--json"
    )
    (study,) = [each for each in json.loads(printed)["studies"] if each["study"] == processes.study.digest.hex()]
    assert study["state"] == "running"
    return dict(next(each for each in study["sites"] if each["name"] == name))


def opened(processes: Processes) -> int:
    """The last round that was opened."""
    return max(each["round_number"] for each in read_log(processes.run) if each["event"] == "round-opened")


def out(processes: Processes, name: str, *reasons: str) -> int:
    """Wait until a site is out of a round that opens from now on, for one of these reasons. Gives the round."""
    after = opened(processes)
    event = processes.until(
        lambda each: each["event"] == "absent" and each["node"] == name and each["round_number"] > after
    )
    assert event["reason"] in reasons, event
    return int(event["round_number"])


def back(processes: Processes, name: str) -> int:
    """Wait until a site takes part in a round that opens from now on. Gives how many it needed, at least 1."""
    after = opened(processes)
    for number in range(after + 1, ROUNDS + 1):
        processes.closed(number)
        absent = [each for each in read_log(processes.run) if each["event"] == "absent"]
        if not any((each["round_number"], each["node"]) == (number, name) for each in absent):
            return number - after
    raise AssertionError(f"{name} never came back")


def test_sites_stay_away_for_a_while_and_come_back_by_themselves(running: Processes, disks: ExitStack) -> None:
    full, owner, stopped, restarted = running.homes
    disk = on_a_small_disk(full, disks)
    digest = running.study.digest.hex()
    running.start()
    running.wait_for_sites()
    submit_when_connected(running.operator, running.study, running.loopback)
    running.closed(1)

    secfed("node", "pause", digest[:16], "--home", owner.path)
    first = out(running, owner.name, KEEPS_OUT)
    assert running.closed(first)["event"] == "round-closed", "the others go on"
    assert site_status(running, owner.name)["state"] == "refuses"
    assert "PAUSED" in secfed("node", "status", "--home", owner.path)
    secfed("node", "resume", digest[:16], "--home", owner.path)
    assert back(running, owner.name) <= 2

    policy = owner.path / "policy.toml"
    allowing = policy.read_text()
    policy.write_text(re.sub(r"^(epsilon = .*)$", r"\1\nepsilon_per_study = 1.0", allowing, flags=re.MULTILINE))
    out(running, owner.name, KEEPS_OUT)
    wait_until_told(owner, "allows one study at most 1")
    out(running, owner.name, KEEPS_OUT)
    policy.write_text(allowing)
    assert back(running, owner.name) <= 2
    told = owners_log(owner)
    assert told.count("takes no part in the study's rounds for now") == 2, "once for each reason"
    assert told.count("takes part in the study's rounds again") == 2

    disk.fill()
    processes = [each.pid for each in running.loopback.family(full.name)]
    first = out(running, full.name, KEEPS_OUT, NO_ANSWER)  # the round in which the disk fills up ends in silence
    assert running.closed(first)["event"] == "round-closed"
    disk.free()
    assert back(running, full.name) <= 2
    assert [each.pid for each in running.loopback.family(full.name)] == processes, "nobody had to start it again"

    running.loopback.kill(restarted.name)
    running.launch(restarted.name)
    assert back(running, restarted.name) <= 3

    family = running.loopback.family(stopped.name)
    for each in reversed(family):
        each.send_signal(signal.SIGSTOP)
    until = time.monotonic() + STOPPED_SECONDS
    first = out(running, stopped.name, NO_ANSWER)
    assert running.closed(first)["event"] == "round-closed"
    assert site_status(running, stopped.name)["state"] in ("silent", "not connected")
    time.sleep(max(0.0, until - time.monotonic()))
    for each in family:
        each.send_signal(signal.SIGCONT)
    assert back(running, stopped.name) <= 3

    summary = running.finished()
    assert not any(each["attempt_void"] for each in by_number(summary).values())
    check_logs(running, restarted)


def check_logs(processes: Processes, restarted: Home) -> None:
    """Owners read a line a round; and the site that was started anew is not refused twice a second ever after."""
    for home in processes.homes:
        lines = owners_log(home).splitlines()
        took_part = [line for line in lines if "took part, " in line]
        assert ROUNDS // 3 < len(took_part) <= ROUNDS
        assert len(lines) < 2 * ROUNDS, lines
    refused = sum(
        path.read_text().count("request authentication failed")
        for path in processes.kits[restarted.name].rglob("log.txt")
    )
    assert refused < 40, "as many as come before the server knows its new session"
