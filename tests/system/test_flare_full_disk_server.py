"""A full disk at the aggregator stops a study where it is, and the study goes on by itself once there is room.

The disk is a small file system of its own, with the aggregator's folder and the server's kit on it. While it is full a
round is under way, and then the server itself is killed and started again, as a service manager would.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from protocols.aggregator import Stage
from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from secfed.engines.flare.jobs import connect
from secfed.engines.flare.kits import narrow
from secfed.engines.flare.progress import read_log, waits_for_room
from secfed.errors import UserError
from tests.flare import Processes, by_number, federation

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
ROUNDS = 5
SIZE = "48m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Where the federation will have its aggregator."""
    folder = tmp_path / "aggregator"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("needs root and `mount`, for a file system that can be full")
    if subprocess.run([mount, "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=False).returncode:
        pytest.skip("this root may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def running(disk: Path, tmp_path: Path) -> Iterator[Processes]:
    with federation(tmp_path, ROUNDS) as processes:
        kit = disk / "kit"
        shutil.move(processes.kits[SERVER], kit)
        narrow(kit)
        assert isinstance(processes.kits, dict)
        processes.kits[SERVER] = kit  # the loopback's own, too
        processes.start()
        processes.wait_for_sites()
        yield processes


def fill(disk: Path) -> Path:
    """Write until there is no room for a byte."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return path


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not so: {what}"
        time.sleep(0.2)


def keep_up(processes: Processes) -> None:
    """As the service manager: a server that has ended is started again."""
    try:
        processes.loopback.check()
    except UserError:
        processes.launch(SERVER)


def test_a_full_disk_stops_the_aggregator_until_there_is_room_again(running: Processes, disk: Path) -> None:
    printed = running.folder / "logs" / f"{SERVER}.log"
    submit_when_connected(running.operator, running.study, running.loopback)
    running.at_stage(2, Stage.MASKED_INPUT.value)
    filler = fill(disk)
    wait_until(lambda: waits_for_room(running.run), "the run is marked as waiting for room")
    wait_until(lambda: "no room to write" in printed.read_text(), "the server's log says so")
    time.sleep(12.0)  # more than one attempt
    assert not any(event.get("round_number") == 3 for event in read_log(running.run)), "no round is opened unwritten"
    filler.unlink()
    running.closed(3)
    assert not waits_for_room(running.run)
    told = [event["text"] for event in read_log(running.run) if event["event"] == "note"]
    assert any("no room to write" in text for text in told)
    assert any("there is room again" in text for text in told)

    running.at_stage(4, Stage.MASKED_INPUT.value)
    filler = fill(disk)
    running.loopback.kill(SERVER)
    running.launch(SERVER)
    end = time.monotonic() + 45.0
    while time.monotonic() < end:
        keep_up(running)
        time.sleep(5.0)
    filler.unlink()

    def is_over() -> bool:
        keep_up(running)
        return any(event["event"] == "end" for event in read_log(running.run))

    wait_until(is_over, "the study goes on and ends", 300.0)
    rounds = by_number(running.finished())
    assert [rounds[number]["attempt_void"] for number in (1, 2, 3)] == [False] * 3, "a full disk cost a round"
    with connect(running.operator) as operator:
        wait_until(lambda: all(job.is_over for job in operator.jobs()), "no job is called running", 60.0)
        assert operator.jobs()[0].status.upper().startswith("FINISHED")
