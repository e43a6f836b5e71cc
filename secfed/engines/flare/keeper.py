"""A study whose server died is submitted again by the server that is started after it; sites that come late, too.

FLARE leaves the job of a server that was killed as it was, and never runs it again; and a site that connects when a job
runs already takes no part in it. The aggregator's folder knows how far the study came (`secfed.journal`), so the same
job, submitted anew, goes on from there. For a late site the running job is told, ends between two rounds, and is
submitted again with everybody. A job that ended by its own word, or by the operator's, stays ended.
"""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLContextKey, RunProcessKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job, JobMetaKey, RunStatus
from nvflare.apis.utils.job_utils import get_event_job_id
from nvflare.private.fed.server.job_cmds import CLONED_META_KEYS

from secfed.aggregator_home import AggregatorHome, default_home
from secfed.engines.flare.bounds import bound_memory
from secfed.engines.flare.connections import ConnectionsFile, open_connections
from secfed.engines.flare.kit_watch import watch
from secfed.engines.flare.logs import bound_audit
from secfed.engines.flare.progress import END, RunLog, read_log, starts_in_vain
from secfed.engines.flare.sessions import follow_sessions, with_new_sessions
from secfed.engines.flare.settings import study_of_job

_SITES_SECONDS = 60.0
"""For the sites to connect again."""
_LOOKS_SECONDS = 5.0
_OUTCOME_SECONDS = 30.0
"""For the word of each site when a job is over. FLARE waits a quarter of an hour for one that has died, and until then
calls the job RUNNING, so that no other of the study follows; but how a study ended is the aggregator's word."""
_AGAIN_SECONDS = 600.0
"""Before a study is interrupted once more for the same site."""
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

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """At the server's start, and when a job is over."""
        if event_type == EventType.SYSTEM_START:
            watch(Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir()), self.logger.warning)
            manager = self._manager(fl_ctx)
            for job in manager.get_jobs_by_status([RunStatus.RUNNING, RunStatus.DISPATCHED], fl_ctx):
                manager.set_status(job.job_id, RunStatus.ABANDONED, fl_ctx)
                self._keep(job, fl_ctx.get_engine())
            threading.Thread(target=self._look_for_late_sites, args=(fl_ctx.get_engine(),), daemon=True).start()
        elif event_type == EventType.JOB_COMPLETED:
            manager = self._manager(fl_ctx)
            job = manager.get_job(get_event_job_id(fl_ctx), fl_ctx)
            if job is not None and job.meta.get(JobMetaKey.STATUS.value) != RunStatus.FINISHED_ABORTED.value:
                self._keep(job, fl_ctx.get_engine())

    @staticmethod
    def _manager(fl_ctx: FLContext) -> Any:
        return fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)

    def _keep(self, job: Job, engine: Any) -> None:
        digest = _study_of(job)
        if digest is None:
            return
        events = list(read_log(AggregatorHome(default_home()).run(digest)))
        if not events or events[-1]["event"] == END:
            return
        if starts_in_vain(events) >= _STARTS_MAX:
            self.logger.error(f"study {digest.hex()[:16]} came to no round in {_STARTS_MAX} starts: not started again")
            return
        threading.Thread(target=self._submit_again, args=(job, engine), daemon=True).start()

    def _submit_again(self, job: Job, engine: Any) -> None:
        wanted = _sites_of(job)
        waiting_since = time.monotonic()
        while time.monotonic() - waiting_since < _SITES_SECONDS:
            if wanted <= {client.name for client in engine.get_clients()}:
                break
            time.sleep(1.0)
        with engine.new_context() as fl_ctx:
            meta = {key: job.meta[key] for key in _KEPT if key in job.meta}
            meta[JobMetaKey.CLONED_FROM.value] = job.job_id
            created = self._manager(fl_ctx).clone(from_jid=job.job_id, meta=meta, fl_ctx=fl_ctx)
            self.logger.info(f"job {job.job_id} was cut short; submitted again as {created[JobMetaKey.JOB_ID.value]}")

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
