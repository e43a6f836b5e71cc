"""A server that is killed in mid-run goes on with the study by itself; an operator who submits it by hand does no harm.

One job of a study runs at a time, whatever is submitted: two would write one journal, and each have some of the sites.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from protocols.aggregator import Stage
from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from secfed.engines.flare.jobs import Job, connect, write_job
from secfed.engines.flare.progress import read_log
from secfed.errors import UserError
from secfed.files.whole import try_lock
from tests.flare import Processes, federation

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
ROUNDS = 6


def jobs(processes: Processes) -> list[Job]:
    """All of the study's at the server."""
    with connect(processes.operator) as operator:
        return [job for job in operator.jobs() if job.study == processes.study.digest.hex()]


def submit_as_soon_as_possible(processes: Processes, job: Path, seconds: float = 60.0) -> str:
    """As an operator does by hand, without the look at what is at the server already that `submit` takes."""
    end = time.monotonic() + seconds
    while True:
        try:
            return processes.submit(job)
        except UserError:
            assert time.monotonic() < end, "the server takes no job"
            time.sleep(0.2)


def starts(processes: Processes) -> list[str]:
    """The jobs that began, in order."""
    return [event["job"] for event in read_log(processes.run) if event["event"] == "start"]


def server_log(processes: Processes) -> str:
    return (processes.folder / "logs" / f"{SERVER}.log").read_text()


def job_processes(processes: Processes, site: str) -> int:
    return len([each for each in processes.loopback.family(site)[1:] if "worker_process" in " ".join(each.cmdline())])


def test_one_job_runs_though_the_server_and_its_operator_submit_it_again(tmp_path: Path) -> None:
    with federation(tmp_path, ROUNDS) as processes:
        processes.start()
        processes.wait_for_sites()

        # Another process runs the study, so that the server's job of it ends at once, and leaves no trace in its log.
        processes.run.parent.mkdir(parents=True, exist_ok=True)
        lock = try_lock(processes.run.with_name(f"{processes.run.name}.lock"))
        assert lock is not None
        refused = submit_when_connected(processes.operator, processes.study, processes.loopback)
        assert "COMPLETED" not in processes.status(refused)
        assert not starts(processes)
        assert "another process already runs study" in server_log(processes)
        os.close(lock)

        first = submit_when_connected(processes.operator, processes.study, processes.loopback)
        processes.at_stage(2, Stage.MASKED_INPUT.value)
        processes.loopback.kill(SERVER)
        processes.launch(SERVER)
        by_hand = [
            submit_as_soon_as_possible(processes, write_job(tmp_path / str(count), processes.study))
            for count in range(2)
        ]
        processes.closed(3)
        live = [job for job in jobs(processes) if not job.is_over]
        assert len(live) == 1, live
        assert [job_processes(processes, name) for name in processes.names] == [1, 1, 1, 1]

        # And once more, while it runs.
        late = processes.submit(write_job(tmp_path / "late", processes.study))
        assert processes.status(late).endswith("ABANDONED")
        assert f"job {late} not started" in server_log(processes)
        processes.finished()
        begun = starts(processes)
        assert begun[0] == first
        assert len(begun) == len(set(begun)) == 2, "the study was run by more than one job after the restart"
        assert late not in begun
        assert processes.status(live[0].id)
        assert all(job.is_over for job in jobs(processes))
        assert {first, refused, late, *by_hand} <= {job.id for job in jobs(processes)}
