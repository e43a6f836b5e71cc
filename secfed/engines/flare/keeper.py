"""Resubmits a study after its server died, and when sites connect late.

FLARE never reruns the job of a server that was killed, and a site that connects while a job runs takes no part in it.
The aggregator's folder records how far the study got (`secfed.aggregator.journal`), so the same job, submitted again,
continues from there. For a late site, the running job is told, ends between two rounds, and is submitted again with all
sites. A job that recorded its own end, or that the operator ended, stays ended.

It is harmless if an operator submits the study by hand meanwhile. Nothing is resubmitted while a job of the study waits
or runs, and if two are submitted at once, only one of them runs.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, RunProcessKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job, JobMetaKey, RunStatus
from nvflare.apis.utils.job_utils import get_event_job_id
from nvflare.private.fed.server.job_cmds import CLONED_META_KEYS

from secfed.aggregator.home import AggregatorHome, default_home
from secfed.engines.flare.bounds import bound_memory
from secfed.engines.flare.connections import ConnectionsFile, open_connections
from secfed.engines.flare.kit_watch import watch
from secfed.engines.flare.logs import bound_audit
from secfed.engines.flare.progress import END, START, RunLog, read_log, starts_in_vain
from secfed.engines.flare.server_watch import watch_server
from secfed.engines.flare.sessions import follow_sessions, with_new_sessions
from secfed.engines.flare.settings import study_of_job
from secfed.files.full_disk import has_room

_SITES_SECONDS = 60.0
"""How long the sites have to reconnect."""
_LOOKS_SECONDS = 5.0
_OUTCOME_SECONDS = 30.0
"""How long to wait for each site's report when a job is over. FLARE waits 15 minutes for a dead site and meanwhile
reports the job as RUNNING, which blocks the study's next job; but how a study ended is decided by the aggregator alone.
"""
_AGAIN_SECONDS = 600.0
"""Before a study is interrupted again for the same site."""
_FULL_SECONDS = 10.0
"""Between two attempts at a step that failed, for example on a full disk."""
_STARTS_MAX = 10
"""Starts in a row without a completed round: then something else is wrong, and a person has to look."""
_KEPT = (*CLONED_META_KEYS, "submitter_name", "submitter_org", "submitter_role")


class StudyKeeper(FLComponent):  # type: ignore[misc]
    """Resubmits a study's job after its server, or the server's job process, was killed."""

    def __init__(self) -> None:
        """FLARE creates it in the server, and in every job's process, before either listens to sites."""
        super().__init__()
        bound_memory()
        bound_audit()
        follow_sessions()
        self._cloning = threading.Lock()
        self._never_begun: dict[bytes, int] = {}
        """How many jobs of a study in a row have ended before they began."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Called at the server's start, before a job starts, and when a job is over."""
        engine = fl_ctx.get_engine()
        if event_type == EventType.SYSTEM_START:
            watch(Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir()), self.logger.warning)
            _begin(self._keep_what_was_left, self._manager(fl_ctx).get_all_jobs(fl_ctx), engine)
            _begin(self._look_for_late_sites, engine)
            watch_server(engine, self.logger)
        elif event_type == EventType.BEFORE_CHECK_CLIENT_RESOURCES:
            self._let_one_run(fl_ctx)
        elif event_type in (EventType.JOB_COMPLETED, EventType.JOB_ABORTED):
            job = self._manager(fl_ctx).get_job(get_event_job_id(fl_ctx), fl_ctx)
            status = _status_of(job) if job is not None else RunStatus.FINISHED_ABORTED
            # A job that its operator aborted fires both; a job that could not be started fires only the second.
            if status == RunStatus.FAILED_TO_RUN or (
                event_type == EventType.JOB_COMPLETED and status != RunStatus.FINISHED_ABORTED
            ):
                self._keep(job, engine, was_left=False)

    @staticmethod
    def _manager(fl_ctx: FLContext) -> Any:
        return fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)

    def _let_one_run(self, fl_ctx: FLContext) -> None:
        """Two jobs of one study would split its sites, so the second one, which FLARE is about to start, is ended.

        FLARE starts jobs one by one in one thread, so none slips through.
        """
        job = self._manager(fl_ctx).get_job(fl_ctx.get_prop(FLContextKey.CURRENT_JOB_ID), fl_ctx)
        digest = _study_of(job) if job is not None else None
        running = [each.job_id for each in _running(fl_ctx.get_engine()) if _study_of(each) == digest]
        if digest is None or not running:
            return
        reason = f"study {digest.hex()[:16]} already runs as job {running[0]}; this job is not needed"
        fl_ctx.set_prop(FLContextKey.JOB_BLOCK_REASON, reason, private=True, sticky=False)
        self.logger.warning(f"job {job.job_id} not started: {reason}")
        self._manager(fl_ctx).set_status(job.job_id, RunStatus.ABANDONED, fl_ctx)

    def _keep_what_was_left(self, jobs: list[Job], engine: Any) -> None:
        """Take over the previous server's studies: those that ran when it stopped, or waited to be resubmitted.

        Args:
            jobs: all its jobs, as found when this server started.
            engine: FLARE's.
        """
        ran = [job for job in jobs if _status_of(job) in (RunStatus.RUNNING, RunStatus.DISPATCHED)]
        for job in ran:
            self._until_done(f"job {job.job_id} is called abandoned", partial(self._abandon, job, engine))
        last = {_study_of(job): job for job in sorted(jobs, key=_submitted)} | {_study_of(job): job for job in ran}
        for job in last.values():
            if _status_of(job) != RunStatus.FINISHED_ABORTED:
                self._keep(job, engine, was_left=job in ran)

    def _abandon(self, job: Job, engine: Any) -> None:
        with engine.new_context() as fl_ctx:
            self._manager(fl_ctx).set_status(job.job_id, RunStatus.ABANDONED, fl_ctx)

    def _keep(self, job: Job, engine: Any, *, was_left: bool) -> None:
        digest = _study_of(job)
        if digest is not None and _is_cut_short(digest, job.job_id, was_left=was_left):
            _begin(self._submit_again, job, digest, engine, was_left)

    def _submit_again(self, job: Job, digest: bytes, engine: Any, was_left: bool) -> None:
        """Resubmit a study once its sites are connected and the disk has room for it."""
        wanted = _sites_of(job)
        waiting_since = time.monotonic()
        while time.monotonic() - waiting_since < _SITES_SECONDS:
            if wanted <= {client.name for client in engine.get_clients()}:
                break
            time.sleep(1.0)
        while not (has_room(AggregatorHome(default_home()).path) and has_room(Path(engine.args.workspace))):
            self.logger.warning(f"study {digest.hex()[:16]} waits for free space on the server's disk")
            time.sleep(_FULL_SECONDS)
        self._until_done(f"resubmit job {job.job_id}", partial(self._clone_unless_live, job, digest, engine, was_left))

    def _clone_unless_live(self, job: Job, digest: bytes, engine: Any, was_left: bool) -> None:
        with self._cloning, engine.new_context() as fl_ctx:
            manager = self._manager(fl_ctx)
            waiting = manager.get_jobs_by_status([RunStatus.SUBMITTED], fl_ctx)
            live = [each.job_id for each in (*_running(engine), *waiting) if _study_of(each) == digest]
            if live:
                self.logger.info(f"job {job.job_id} was cut short; its study continues as job {live[0]}")
                return
            if not _is_cut_short(digest, job.job_id, was_left=was_left) or not self._is_worth_it(digest, job.job_id):
                return
            meta = {key: job.meta[key] for key in _KEPT if key in job.meta}
            meta[JobMetaKey.CLONED_FROM.value] = job.job_id
            created = manager.clone(from_jid=job.job_id, meta=meta, fl_ctx=fl_ctx)
            self.logger.info(f"job {job.job_id} was cut short; resubmitted as job {created[JobMetaKey.JOB_ID.value]}")

    def _is_worth_it(self, digest: bytes, job: str) -> bool:
        """Whether to start the study again: not after too many starts without a completed round, begun or not."""
        events = _events(digest)
        in_vain = self._never_begun.get(digest, 0) + 1 if not _has_begun(events, job) else 0
        self._never_begun[digest] = in_vain
        if max(in_vain, starts_in_vain(events)) < _STARTS_MAX:
            return True
        self.logger.error(f"study {digest.hex()[:16]} completed no round in {_STARTS_MAX} starts: not started again")
        return False

    def _until_done(self, what: str, act: Callable[[], None]) -> None:
        while True:
            try:
                return act()
            except Exception as error:  # most likely a full disk; no error may make the server forget a study
                self.logger.warning(f"failed, will be retried: {what} ({type(error).__name__}: {error})")
                time.sleep(_FULL_SECONDS)

    def _look_for_late_sites(self, engine: Any) -> None:
        late, connections = LateSites(), ConnectionsFile(default_home())
        engine.job_runner.client_outcome_wait_timeout = _OUTCOME_SECONDS
        while True:
            time.sleep(_LOOKS_SECONDS)
            try:
                connections.put(open_connections(engine))
                for identity, process in list(engine.run_processes.items()):
                    self._look(identity, process, engine, late)
            except Exception as error:  # the next check may succeed; nothing else depends on this one
                self.logger.warning(f"could not look for late sites ({type(error).__name__})")

    def _look(self, identity: str, process: dict[str, Any], engine: Any, late: LateSites) -> None:
        """Tell a running job which of its study's sites are connected but take no part in it."""
        with engine.new_context() as fl_ctx:
            job = self._manager(fl_ctx).get_job(identity, fl_ctx)
        digest = _study_of(job) if job is not None else None
        if digest is None:
            return
        followed = with_new_sessions(process[RunProcessKey.PARTICIPANTS], engine.get_clients())
        if followed is not None:
            process[RunProcessKey.PARTICIPANTS] = followed
        connected = open_connections(engine)
        taking_part = {client.name for client in process[RunProcessKey.PARTICIPANTS].values()}
        log = RunLog(AggregatorHome(default_home()).run(digest))
        if log.is_begun and late.come(digest, set(connected & _sites_of(job)) - taking_part, time.monotonic()):
            log.let_wait(identity)


class LateSites:
    """The late sites to tell a running job about: a site that FLARE never gets into the job must not stop it every
    time.
    """

    def __init__(self) -> None:
        self._told: dict[tuple[bytes, str], float] = {}

    def come(self, study: bytes, sites: set[str], now: float) -> bool:
        """Whether the study was not recently interrupted for one of these sites. If so, remembers all of them."""
        new = {site for site in sites if now - self._told.get((study, site), -math.inf) >= _AGAIN_SECONDS}
        if new:
            self._told |= {(study, site): now for site in sites}
        return bool(new)


def _sites_of(job: Job) -> set[str]:
    """The sites that a job is for."""
    return {site for sites in job.meta[JobMetaKey.DEPLOY_MAP.value].values() for site in sites} - {"server"}


def _study_of(job: Job) -> bytes | None:
    """The digest of a job's study; None if the job is not ours."""
    return study_of_job(str(job.meta.get(JobMetaKey.JOB_NAME.value, "")))


def _status_of(job: Job) -> Any:
    """A `RunStatus`, as a string."""
    return job.meta.get(JobMetaKey.STATUS.value)


def _submitted(job: Job) -> float:
    return float(job.meta.get(JobMetaKey.SUBMIT_TIME.value) or 0.0)


def _running(engine: Any) -> list[Job]:
    """The jobs that this server has started and that are not over yet."""
    return list(engine.job_runner.running_jobs.values())


def _events(digest: bytes) -> list[dict[str, Any]]:
    return list(read_log(AggregatorHome(default_home()).run(digest)))


def _has_begun(events: Sequence[Mapping[str, Any]], job: str) -> bool:
    return any(event["event"] == START and event["job"] == job for event in events)


def _is_cut_short(digest: bytes, job: str, *, was_left: bool) -> bool:
    """Whether to resubmit a job that is over: it did not record its own end.

    A job that the previous server started and that had not begun is resubmitted as well. A job that this server started
    and that did not begin cannot be run, and is not resubmitted.
    """
    events = _events(digest)
    if was_left and not _has_begun(events, job):
        return True
    return bool(events) and events[-1]["event"] != END


def _begin(act: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=act, args=args, daemon=True).start()
