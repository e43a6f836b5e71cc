"""Two hundred rounds, with a site and the server started again among them, leave less than a megabyte of logs at each.

Rounds are as short as they can be: no upload is held back. What is counted is everything that is a log, wherever it is
kept: what the programs print goes to a file here, and to the journal of a service elsewhere.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from secfed.engines.flare.progress import read_log
from tests.flare import Processes, federation, owners_log

pytestmark = [pytest.mark.flare, pytest.mark.timeout(5400)]
ROUNDS, SITE_AT, SERVER_AT = 200, 40, 100
MOST_BYTES = 600_000


def logs(folder: Path) -> list[Path]:
    """Every log of a kit or a home, old ones and those of its jobs included."""
    patterns = ("*.log", "*.log.*", "log*.txt", "log*.txt.*", "*.jsonl")
    return sorted({path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()})


def written(processes: Processes, name: str) -> dict[str, int]:
    """Bytes by log, of a site or the server. What nodes hand over of their ledgers is evidence, and no log."""
    homes = {home.name: home.path for home in processes.homes}
    kit = processes.kits[name]
    found = [*logs(kit), *logs(homes.get(name, processes.aggregator.path)), processes.folder / "logs" / f"{name}.log"]
    patients = {Path(each.file) for home in processes.homes for each in home.node.data}
    return {
        str(path.relative_to(processes.folder)): path.stat().st_size
        for path in found
        if not {path, path.parent} & {*patients, processes.run / "ledgers"}
    }


def wait_for_round(processes: Processes, number: int) -> None:
    """Until it is opened. The log is long, and read once a second only."""
    end = time.monotonic() + 3600.0
    while not any(event.get("round_number", 0) >= number for event in read_log(processes.run)):
        assert time.monotonic() < end, f"round {number} was never opened"
        time.sleep(1.0)


def test_two_hundred_rounds_with_restarts_leave_small_logs(tmp_path: Path) -> None:
    with federation(tmp_path, ROUNDS, pace="") as processes:
        processes.start()
        processes.wait_for_sites()
        submit_when_connected(processes.operator, processes.study, processes.loopback)
        restarted = processes.names[0]
        wait_for_round(processes, SITE_AT)
        processes.loopback.kill(restarted)
        processes.launch(restarted)
        wait_for_round(processes, SERVER_AT)
        processes.loopback.kill(SERVER)
        processes.launch(SERVER)
        wait_for_round(processes, ROUNDS)
        summary = processes.finished()
        completed = [each for each in summary["rounds"] if not each["attempt_void"]]
        assert len(completed) >= ROUNDS - 3
        assert sum(restarted in each["survivors"] for each in completed) >= ROUNDS - 30
        sizes = {name: written(processes, name) for name in (SERVER, *processes.names)}
        for name, files in sizes.items():
            print(f"{name}: {sum(files.values()):,} bytes of logs: {files}")
        lines = {home.name: len(owners_log(home).splitlines()) for home in processes.homes}
        print(f"lines of node.log: {lines}")
        assert all(sum(files.values()) < MOST_BYTES for files in sizes.values()), sizes
        assert all(count < ROUNDS + 40 for count in lines.values()), lines
