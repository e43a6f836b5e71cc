"""A site restarts its own job process when it dies; FLARE would fail the whole job.

In FLARE, a job process that fails at one site fails the whole job, and a restarted site does not resume its jobs: one
site's crash would end the study for all, and a crashed node would stay a dropout to the end. But a site's node may be
killed at any moment and opened again. So this launcher restarts the process when it was killed. It reports no exit code
to the server except the one that says that the job's configuration is not allowed here. When the site's FLARE client
itself restarts, the launcher resumes what was running. FLARE's heartbeat ends what the server no longer runs.

A study has one process here, because only one process can open its node. The server runs one job per study, so the job
that it started last counts, and the process of an earlier job is ended at once. All sites do this; otherwise a study's
sites could be split between two jobs, with too few in each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import threading
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, FLMetaKey, JobConstants
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import JobMetaKey
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.apis.workspace import Workspace
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.utils.job_launcher_utils import get_credential_env
from nvflare.utils.process_utils import ProcessAdapter, spawn_process

from secfed.engines.flare.bounds import bound_memory
from secfed.engines.flare.kit_watch import watch
from secfed.engines.flare.logs import bound_audit
from secfed.engines.flare.room import JOBS_MAX, MARK, running
from secfed.engines.flare.served import serve_jobs_only
from secfed.engines.flare.settings import study_of_job
from secfed.node.home import default_home
from secfed.node.owners_log import OwnersLog

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 60.0
_REFUSALS = {
    int(ProcessExitCode.UNSAFE_COMPONENT): "refused a job from the server: it names a class that is not allowed here",
    int(ProcessExitCode.CONFIG_ERROR): "refused a job from the server: its configuration is unusable",
}
_FINAL = frozenset({0, *_REFUSALS})
"""Exit codes that a restart would only repeat."""


class KeptAlive(ProcessHandle):  # type: ignore[misc]
    """A job process that is restarted until it ends by itself or is told to end."""

    def __init__(
        self,
        start: Callable[[], ProcessAdapter],
        folder: Path,
        pause: Callable[[float], Any],
        tell_owner: Callable[[str], None],
    ) -> None:
        """
        Args:
            start: starts the process.
            folder: the job's folder at this site.
            pause: waits for the given seconds, or until the job is told to end.
            tell_owner: called with the reason if the job is not allowed here.
        """
        super().__init__(process_adapter=start())
        self.adapter: ProcessAdapter
        self._start = start
        self._folder = folder
        self._pause = pause
        self._tell_owner = tell_owner
        self._ending = False
        self._lock = threading.Lock()
        with contextlib.suppress(OSError):  # on a full disk the job still runs, but is not resumed after a restart
            (folder / MARK).touch()

    def terminate(self, heartbeat_cleanup: bool = False) -> None:
        """End the process, for good."""
        with self._lock:
            self._ending = True
            self.adapter.terminate()

    def wait(self) -> None:
        """Wait until the job is over here, across all restarts of its process."""
        seconds = _FIRST_PAUSE_SECONDS
        while True:
            self.adapter.wait()
            if self._ending or self.adapter.poll() in _FINAL:
                break
            self._pause(seconds)
            seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)
            with self._lock:
                if self._ending:
                    break
                with contextlib.suppress(OSError):  # no memory or disk space: there may be some next time
                    self.adapter = self._start()
        refusal = _REFUSALS.get(self.adapter.poll())
        if refusal is not None:
            self._tell_owner(f"{refusal}. Ask its operator; {self._folder / 'log.txt'} says more")
        # FLARE would report this file's contents. How our process ended does not concern the server.
        for name in (MARK, FLMetaKey.PROCESS_RC_FILE):
            with contextlib.suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def poll(self) -> int:
        """FLARE's code for how the process ended: job not allowed here, success, or nothing to report."""
        code = self.adapter.poll()
        if code in (0, int(ProcessExitCode.UNSAFE_COMPONENT)):
            return int(code)
        return int(JobReturnCode.UNKNOWN)


class NodeLauncher(ClientProcessJobLauncher):  # type: ignore[misc]
    """Starts the job processes at a site, and keeps them running."""

    def __init__(self) -> None:
        """FLARE creates it in the site's client, and in every job's process, before either listens to the server."""
        super().__init__()
        self._kept: dict[bytes, tuple[str, KeptAlive]] = {}
        """By study: the id of its last job, and that job's process."""
        serve_jobs_only()
        bound_memory()
        bound_audit()

    def launch_job(self, job_meta: dict[str, Any], fl_ctx: FLContext) -> KeptAlive:
        """Start a job's process. No job folder is on its path: it runs only what is installed here."""
        workspace: Workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        others = {each.name for each in running(Path(workspace.get_root_dir()))} - {job_meta.get(JobConstants.JOB_ID)}
        if len(others) >= JOBS_MAX:
            told = f"refused a job from the server: {len(others)} jobs already run here. Ask the server's operator"
            OwnersLog(default_home())(told)
            raise RuntimeError(told)
        environment = os.environ.copy()
        environment.update(get_credential_env(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS) or {}))
        command = shlex.split(self.get_command(job_meta, fl_ctx), True)
        job = str(job_meta.get(JobConstants.JOB_ID))
        folder = Path(workspace.get_run_dir(job))
        study = study_of_job(str(job_meta.get(JobMetaKey.JOB_NAME.value)))
        self._end_earlier(study, job)
        kept = KeptAlive(
            lambda: spawn_process(command, environment), folder, threading.Event().wait, OwnersLog(default_home())
        )
        if study is not None:
            self._kept[study] = job, kept
        return kept

    def _end_earlier(self, study: bytes | None, job: str) -> None:
        """End the process of an earlier job of the same study: it would keep this job from opening the node."""
        earlier, kept = self._kept.get(study, (job, None)) if study is not None else (job, None)
        if kept is not None and earlier != job:
            self.logger.info(f"job {earlier} is ended: job {job} of the same study replaces it")
            kept.terminate()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Act as FLARE's launchers do; once this site is connected, also resume what was running."""
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.SYSTEM_START:
            watch(Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir()), OwnersLog(default_home()))
            self._take_up(fl_ctx)

    def _take_up(self, fl_ctx: FLContext) -> None:
        engine = fl_ctx.get_engine()
        workspace: Workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
        found = []
        for folder in running(Path(workspace.get_root_dir())):
            try:
                job_meta = json.loads(Path(workspace.get_job_meta_path(folder.name)).read_text())
                found.append((float(job_meta.get(JobMetaKey.SUBMIT_TIME.value) or 0.0), folder.name, job_meta))
            except (OSError, ValueError, TypeError, AttributeError) as error:
                self._cannot_take_up(folder, error)
        for _, job, job_meta in sorted(found, key=itemgetter(0)):  # so that a study's last job counts here as well
            try:
                self.logger.info(f"resuming job {job}: {engine.start_app(job, job_meta)}")
            except (OSError, ValueError, RuntimeError) as error:
                self._cannot_take_up(Path(workspace.get_run_dir(job)), error)

    def _cannot_take_up(self, folder: Path, error: Exception) -> None:
        (folder / MARK).unlink(missing_ok=True)
        self.logger.warning(f"job {folder.name} was running here and cannot be resumed ({type(error).__name__})")
