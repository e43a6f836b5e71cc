"""When a study is submitted again, and when it is not: never while a job of it lives."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("nvflare")

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import RunStatus, job_from_meta

from secfed.aggregator.home import VARIABLE, AggregatorHome
from secfed.engines.flare import keeper as keeper_module
from secfed.engines.flare.keeper import StudyKeeper
from secfed.engines.flare.progress import RunLog
from secfed.engines.flare.settings import job_name

STUDY, OTHER = bytes(32), b"x" * 32


class Manager:
    """FLARE's store of jobs, in memory."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.refuses = 0
        """How many writes fail from now on."""

    def add(self, job: str, status: RunStatus, study: bytes = STUDY) -> Any:
        meta = {
            "job_id": job,
            "name": job_name(study),
            "status": status.value,
            "deploy_map": {"study": ["server", "one"]},
            "submit_time": float(len(self.jobs)),
        }
        self.jobs[job] = job_from_meta(meta)
        return self.jobs[job]

    def get_job(self, job: str, fl_ctx: object) -> Any:
        return self.jobs.get(job)

    def get_all_jobs(self, fl_ctx: object) -> list[Any]:
        return list(self.jobs.values())

    def get_jobs_by_status(self, statuses: list[RunStatus], fl_ctx: object) -> list[Any]:
        return [job for job in self.jobs.values() if job.meta["status"] in statuses]

    def set_status(self, job: str, status: RunStatus, fl_ctx: object) -> None:
        self._write()
        self.jobs[job].meta["status"] = status.value

    def clone(self, from_jid: str, meta: dict[str, Any], fl_ctx: object) -> dict[str, Any]:
        self._write()
        return dict(self.add(f"clone of {from_jid}", RunStatus.SUBMITTED).meta)

    def _write(self) -> None:
        if self.refuses:
            self.refuses -= 1
            raise RuntimeError("failed to write content: No space left on device")


class Server:
    """A keeper in a server with one site."""

    def __init__(self, home: Path) -> None:
        self.manager = Manager()
        self.running: dict[str, Any] = {}
        self.log = RunLog(AggregatorHome(home).run(STUDY))
        self.keeper = StudyKeeper()
        self.engine = SimpleNamespace(
            get_component=lambda name: self.manager,
            get_clients=lambda: [SimpleNamespace(name="one")],
            job_runner=SimpleNamespace(running_jobs=self.running, ask_to_stop=True),
            run_processes={},
            args=SimpleNamespace(workspace=str(home)),
            new_context=self._context,
        )

    def context(self, job: str) -> FLContext:
        context = FLContext()
        context.set_prop("__engine__", self.engine, private=True)
        context.get_engine = lambda: self.engine
        context.set_prop(FLContextKey.CURRENT_JOB_ID, job, private=True)
        context.set_prop("__event_job_id__", job, private=True)
        workspace = SimpleNamespace(get_root_dir=lambda: self.engine.args.workspace)
        context.set_prop(FLContextKey.WORKSPACE_OBJECT, workspace, private=True)
        return context

    def fire(self, event: str, job: str = "") -> FLContext:
        context = self.context(job)
        self.keeper.handle_event(event, context)
        return context

    def _context(self) -> Any:
        engine = self.engine

        class Context:
            def __enter__(self) -> Any:
                return SimpleNamespace(get_engine=lambda: engine)

            def __exit__(self, *args: object) -> None:
                return None

        return Context()

    def submitted(self) -> list[str]:
        return [job for job, found in self.manager.jobs.items() if found.meta["status"] == RunStatus.SUBMITTED]

    def settle(self) -> None:
        """Until the keeper's threads are done."""
        end = time.monotonic() + 30.0
        while any("_submit_again" in each.name or "_keep_what" in each.name for each in threading.enumerate()):
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(keeper_module, "get_event_job_id", lambda context: context.get_prop("__event_job_id__"))
    monkeypatch.setattr(keeper_module, "_FULL_SECONDS", 0.01)
    monkeypatch.setattr(StudyKeeper, "_look_for_late_sites", lambda self, engine: None)
    monkeypatch.setattr(keeper_module, "watch_server", lambda engine, logger: None)
    monkeypatch.setattr(keeper_module, "watch", lambda kit, tell: None)
    return Server(tmp_path)


def test_what_ran_when_the_server_stopped_is_submitted_again_once(server: Server) -> None:
    server.manager.add("first", RunStatus.RUNNING)
    server.log.start("first")
    server.fire(EventType.SYSTEM_START)
    server.settle()
    assert server.submitted() == ["clone of first"]
    assert server.manager.jobs["first"].meta["status"] == RunStatus.ABANDONED


def test_nothing_is_submitted_again_where_the_operator_was_faster(server: Server) -> None:
    server.manager.add("first", RunStatus.RUNNING)
    server.manager.add("by hand", RunStatus.SUBMITTED)
    server.log.start("first")
    server.fire(EventType.SYSTEM_START)
    server.settle()
    assert server.submitted() == ["by hand"]


def test_nothing_is_submitted_again_while_another_job_of_the_study_runs(server: Server) -> None:
    server.log.start("first")
    server.manager.add("first", RunStatus.FINISHED_ABNORMAL)
    server.running["second"] = server.manager.add("second", RunStatus.RUNNING)
    server.fire(EventType.JOB_COMPLETED, "first")
    server.settle()
    assert not server.submitted()


@pytest.mark.parametrize("status", [RunStatus.ABANDONED, RunStatus.FINISHED_ABNORMAL, RunStatus.FAILED_TO_RUN])
def test_a_server_that_stopped_before_it_had_submitted_again_has_not_lost_the_study(
    server: Server, status: RunStatus
) -> None:
    server.manager.add("first", status)
    server.log.start("first")
    server.fire(EventType.SYSTEM_START)
    server.settle()
    assert server.submitted() == ["clone of first"]


def test_a_study_that_was_aborted_or_is_over_stays_so(server: Server) -> None:
    server.manager.add("first", RunStatus.FINISHED_ABORTED)
    server.log.start("first")
    server.fire(EventType.SYSTEM_START)
    server.settle()
    server.manager.add("second", RunStatus.FINISHED_COMPLETED)
    server.log.end("completed", "")
    server.fire(EventType.JOB_COMPLETED, "second")
    server.fire(EventType.SYSTEM_START)
    server.settle()
    assert not server.submitted()


def test_a_full_disk_is_no_reason_to_forget_a_study(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def has_room(folder: Path) -> bool:
        asked.append(folder)
        return len(asked) > 3

    monkeypatch.setattr(keeper_module, "has_room", has_room)
    server.manager.add("first", RunStatus.RUNNING)
    server.log.start("first")
    server.manager.refuses = 5
    server.fire(EventType.SYSTEM_START)
    server.settle()
    assert len(asked) > 3
    assert server.submitted() == ["clone of first"]


def test_a_job_that_could_not_be_started_is_submitted_again(server: Server) -> None:
    """As when the disk was full, or a site went away, just then."""
    server.log.start("first")
    server.manager.add("second", RunStatus.FAILED_TO_RUN)
    server.fire(EventType.JOB_ABORTED, "second")
    server.settle()
    assert server.submitted() == ["clone of second"]


def test_start_after_start_that_comes_to_nothing_ends(server: Server) -> None:
    """A job that never begins leaves nothing in the run's log: another process has the run, and keeps it."""
    server.log.start("first")
    job, count = "second", 0
    server.manager.add(job, RunStatus.FINISHED_EXECUTION_EXCEPTION)
    while True:
        server.fire(EventType.JOB_COMPLETED, job)
        server.settle()
        if not server.submitted():
            break
        job, count = server.submitted()[0], count + 1
        server.manager.jobs[job].meta["status"] = RunStatus.FINISHED_EXECUTION_EXCEPTION.value
        assert count < 50
    assert count == 9


def blocked(server: Server, job: str) -> Any:
    return server.fire(EventType.BEFORE_CHECK_CLIENT_RESOURCES, job).get_prop(FLContextKey.JOB_BLOCK_REASON)


def test_a_second_job_of_a_running_study_is_not_started_and_is_over(server: Server) -> None:
    server.running["first"] = server.manager.add("first", RunStatus.RUNNING)
    server.manager.add("second", RunStatus.SUBMITTED)
    server.manager.add("of another study", RunStatus.SUBMITTED, OTHER)
    assert "already runs as job first" in blocked(server, "second")
    assert server.manager.jobs["second"].meta["status"] == RunStatus.ABANDONED
    assert blocked(server, "of another study") is None
    server.running.clear()
    server.manager.add("third", RunStatus.SUBMITTED)
    assert blocked(server, "third") is None


def test_a_second_job_is_not_started_even_where_that_cannot_be_written_down(server: Server) -> None:
    server.running["first"] = server.manager.add("first", RunStatus.RUNNING)
    server.manager.add("second", RunStatus.SUBMITTED)
    server.manager.refuses = 1
    context = server.context("second")
    with pytest.raises(RuntimeError):  # FLARE catches it
        server.keeper.handle_event(EventType.BEFORE_CHECK_CLIENT_RESOURCES, context)
    assert "already runs" in context.get_prop(FLContextKey.JOB_BLOCK_REASON)
