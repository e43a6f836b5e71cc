"""A study whose server died is submitted again by the server that is started after it; sites that come late, too.

FLARE leaves the job of a server that was killed as it was, and never runs it again; and a site that connects when a job
runs already takes no part in it. The aggregator's folder knows how far the study came (`secfed.aggregator.journal`), so
the same job, submitted anew, goes on from there. For a late site the running job is told, ends between two rounds, and
is submitted again with everybody. A job that ended by its own word, or by the operator's, stays ended.

An operator who submits the study by hand meanwhile does no harm. Nothing is submitted again while a job of the study
waits or runs, and of two that were submitted at once FLARE starts one.
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
"""For the sites to connect again."""
_LOOKS_SECONDS = 5.0
_OUTCOME_SECONDS = 30.0
"""For the word of each site when a job is over. FLARE waits a quarter of an hour for one that has died, and until then
calls the job RUNNING, so that no other of the study follows; but how a study ended is the aggregator's word."""
_AGAIN_SECONDS = 600.0
"""Before a study is interrupted once more for the same site."""
_FULL_SECONDS = 10.0
"""Between two attempts at what a full disk, or whatever it was, kept from being done."""
_STARTS_MAX = 10
"""In a row that came to no round: then something else is wrong, and a person has to look."""
_KEPT = (*CLONED_META_KEYS, "submitter_name", "submitter_org", "submitter_role")


class StudyKeeper(FLComponent):  # type: ignore[misc]
    """Submits a study's job again after its server, or its server's job process, was killed."""

    def __init__(self) -> None:
        """FLARE makes it in the server, and in every job's process, before either listens to sites."""
        super().__init__()
        bound_memory()
        bound_audit()
        follow_sessions()
        self._cloning = threading.Lock()
        self._never_begun: dict[bytes, int] = {}
        """How many jobs of a study have ended in a row without coming to begin."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """At the server's start, before a job is started, and when one is over."""
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
            # Both are fired for a job that its operator aborted, the second alone for one that could not be started.
            if status == RunStatus.FAILED_TO_RUN or (
                event_type == EventType.JOB_COMPLETED and status != RunStatus.FINISHED_ABORTED
            ):
                self._keep(job, engine, was_left=False)

    @staticmethod
    def _manager(fl_ctx: FLContext) -> Any:
        return fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)

    def _let_one_run(self, fl_ctx: FLContext) -> None:
        """Two jobs of a study would each have some of its sites: the second, that FLARE is about to start, is ended.

        FLARE starts jobs one after the other, in one thread, so that none slips through.
        """
        job = self._manager(fl_ctx).get_job(fl_ctx.get_prop(FLContextKey.CURRENT_JOB_ID), fl_ctx)
        digest = _study_of(job) if job is not None else None
        running = [each.job_id for each in _running(fl_ctx.get_engine()) if _study_of(each) == digest]
        if digest is None or not running:
            return
        reason = f"study {digest.hex()[:16]} runs already, as job {running[0]}: there is nothing for this one to do"
        fl_ctx.set_prop(FLContextKey.JOB_BLOCK_REASON, reason, private=True, sticky=False)
        self.logger.warning(f"job {job.job_id} is not started: {reason}")
        self._manager(fl_ctx).set_status(job.job_id, RunStatus.ABANDONED, fl_ctx)

    def _keep_what_was_left(self, jobs: list[Job], engine: Any) -> None:
        """The studies of the server before this one: those that ran when it stopped, or waited to be submitted again.

        Args:
            jobs: all that it had, as they were at the start of this one.
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
        """Once its sites are connected, and there is room for it."""
        wanted = _sites_of(job)
        waiting_since = time.monotonic()
        while time.monotonic() - waiting_since < _SITES_SECONDS:
            if wanted <= {client.name for client in engine.get_clients()}:
                break
            time.sleep(1.0)
        while not (has_room(AggregatorHome(default_home()).path) and has_room(Path(engine.args.workspace))):
            self.logger.warning(f"study {digest.hex()[:16]} waits for room on the server's disk")
            time.sleep(_FULL_SECONDS)
        self._until_done(
            f"job {job.job_id} is submitted again", partial(self._clone_unless_live, job, digest, engine, was_left)
        )

    def _clone_unless_live(self, job: Job, digest: bytes, engine: Any, was_left: bool) -> None:
        with self._cloning, engine.new_context() as fl_ctx:
            manager = self._manager(fl_ctx)
            waiting = manager.get_jobs_by_status([RunStatus.SUBMITTED], fl_ctx)
            live = [each.job_id for each in (*_running(engine), *waiting) if _study_of(each) == digest]
            if live:
                self.logger.info(f"job {job.job_id} was cut short; its study goes on as {live[0]}")
                return
            if not _is_cut_short(digest, job.job_id, was_left=was_left) or not self._is_worth_it(digest, job.job_id):
                return
            meta = {key: job.meta[key] for key in _KEPT if key in job.meta}
            meta[JobMetaKey.CLONED_FROM.value] = job.job_id
            created = manager.clone(from_jid=job.job_id, meta=meta, fl_ctx=fl_ctx)
            self.logger.info(f"job {job.job_id} was cut short; submitted again as {created[JobMetaKey.JOB_ID.value]}")

    def _is_worth_it(self, digest: bytes, job: str) -> bool:
        """Unless start after start comes to nothing: of jobs that begin, and of those that do not come to that."""
        events = _events(digest)
        in_vain = self._never_begun.get(digest, 0) + 1 if not _has_begun(events, job) else 0
        self._never_begun[digest] = in_vain
        if max(in_vain, starts_in_vain(events)) < _STARTS_MAX:
            return True
        self.logger.error(f"study {digest.hex()[:16]} came to no round in {_STARTS_MAX} starts: not started again")
        return False

    def _until_done(self, what: str, act: Callable[[], None]) -> None:
        while True:
            try:
                return act()
            except Exception as error:  # a full disk, most likely; a study must not be forgotten for whatever it is
                self.logger.warning(f"not done, and tried again: {what} ({type(error).__name__}: {error})")
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
            except Exception as error:  # the next look may do better; nothing else depends on it
                self.logger.warning(f"no look for late sites ({type(error).__name__})")

    def _look(self, identity: str, process: dict[str, Any], engine: Any, late: LateSites) -> None:
        """Tell a running job of sites that are connected and take no part in it, though it is for them."""
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
    """Which late sites a running job is to be told of: one that FLARE never gets into it must not stop it each time."""

    def __init__(self) -> None:
        self._told: dict[tuple[bytes, str], float] = {}

    def come(self, study: bytes, sites: set[str], now: float) -> bool:
        """Whether any of these sites has not been let wait for this study of late. Remembers all of them if so."""
        new = {site for site in sites if now - self._told.get((study, site), -math.inf) >= _AGAIN_SECONDS}
        if new:
            self._told |= {(study, site): now for site in sites}
        return bool(new)


def _sites_of(job: Job) -> set[str]:
    """Whom a job is for."""
    return {site for sites in job.meta[JobMetaKey.DEPLOY_MAP.value].values() for site in sites} - {"server"}


def _study_of(job: Job) -> bytes | None:
    """The digest of a job's study; None where it is no job of ours."""
    return study_of_job(str(job.meta.get(JobMetaKey.JOB_NAME.value, "")))


def _status_of(job: Job) -> Any:
    """A `RunStatus`, as a string."""
    return job.meta.get(JobMetaKey.STATUS.value)


def _submitted(job: Job) -> float:
    return float(job.meta.get(JobMetaKey.SUBMIT_TIME.value) or 0.0)


def _running(engine: Any) -> list[Job]:
    """The jobs that this server has started and that are not over."""
    return list(engine.job_runner.running_jobs.values())


def _events(digest: bytes) -> list[dict[str, Any]]:
    return list(read_log(AggregatorHome(default_home()).run(digest)))


def _has_begun(events: Sequence[Mapping[str, Any]], job: str) -> bool:
    return any(event["event"] == START and event["job"] == job for event in events)


def _is_cut_short(digest: bytes, job: str, *, was_left: bool) -> bool:
    """Whether a job that is over is to be submitted again: it did not end by its own word.

    One that the server before this one had started, and that had not come to begin, is, too; of this server's that
    says that it cannot be run.
    """
    events = _events(digest)
    if was_left and not _has_begun(events, job):
        return True
    return bool(events) and events[-1]["event"] != END


def _begin(act: Callable[..., None], *args: Any) -> None:
    threading.Thread(target=act, args=args, daemon=True).start()
