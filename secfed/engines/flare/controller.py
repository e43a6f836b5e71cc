"""The server's side of a job: runs the study at the aggregator, over FLARE's messages.

The job contains only the study's digest. The server's operator has put study, base model and test set into the
aggregator's folder (`secfed.aggregator.home`); an unknown digest is refused. FLARE's own tasks are not used.

One process runs a study and holds a lock while it lives (`AggregatorHome.take_run`). Otherwise two jobs of one study,
each with some of the sites, could write the same journal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from dp.errors import DPError
from protocols.errors import ProtocolError
from secfed.aggregator.home import AggregatorHome, default_home
from secfed.engines.flare.bounds import INCOMING
from secfed.engines.flare.channel import FlareChannel, SitesWait, StudyAborted
from secfed.engines.flare.envelope import TOPIC
from secfed.engines.flare.memory import leave_out_what_is_there
from secfed.engines.flare.progress import RunLog
from secfed.engines.flare.settings import ENGINE, study_digest
from secfed.errors import UserError
from secfed.files.full_disk import Room, is_full
from secfed.models.libraries import settle_libraries
from secfed.rounds.events import Note

_LOCK_TRIES = 15
"""One per second: when a server is killed, its job's process ends on its own within a few seconds."""


class StudyController(Controller):  # type: ignore[misc]
    """Runs one study."""

    def __init__(self, study: str) -> None:
        """
        Args:
            study: its digest, as 64 hexadecimal digits.
        """
        super().__init__()
        self._digest = study_digest(study)
        self._lock: int | None = None

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to prepare: `control_flow` does everything."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run the whole study, unless another process runs it. Errors go to the run's log and to FLARE's."""
        settle_libraries()
        home = AggregatorHome(default_home())
        log = RunLog(home.run(self._digest))
        pause = partial(_pause, abort_signal)
        room = Room(partial(self._full, log), partial(self._room_again, log), pause)
        try:
            self._lock = self._take(home, room, pause)
        except StudyAborted:
            return
        if self._lock is None:
            # The other process writes log and journal; this job must not touch them.
            self.system_panic(
                f"another process already runs study {self._digest.hex()[:16]} in {home.path}: this job ends", fl_ctx
            )
            return
        try:
            room.write(partial(log.start, str(fl_ctx.get_job_id())))
            room.write(log.flush)
            self._run(home, log, room, abort_signal, fl_ctx)
        except SitesWait:
            # A log without an end means that the job was interrupted; the server's `StudyKeeper` then submits it again.
            log.show(Note("new sites have connected: the job restarts to include them"))
        except StudyAborted:
            _end(log, room, "aborted", "the job was aborted; to continue, submit the study again")
        except (UserError, DPError, ProtocolError, OSError) as error:
            if is_full(error):  # where nobody waited for room: as if the process had been killed, it is submitted again
                raise
            _end(log, room, "stopped", str(error))
            self.system_panic(str(error), fl_ctx)
        except Exception as error:
            if not is_full(error):
                _end(log, room, "failed", f"{type(error).__name__}: {error}")
            raise

    def _take(self, home: AggregatorHome, room: Room, pause: Callable[[float], None]) -> int | None:
        """The lock on the run; None if another process holds it."""
        for _ in range(_LOCK_TRIES):
            lock = room.write(partial(home.take_run, self._digest))
            if lock is not None:
                return lock
            pause(1.0)
        return None

    def _full(self, log: RunLog, said: str) -> None:
        text = f"no room to write ({said}): the study waits, and continues on its own once there is room"
        self.logger.warning(text)
        log.no_room(waits=True)
        log.show(Note(text))

    def _room_again(self, log: RunLog) -> None:
        text = "there is room again: the study continues"
        self.logger.warning(text)
        log.no_room(waits=False)
        log.show(Note(text))

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to end."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """Drop every task result: this engine uses no tasks."""

    def _run(self, home: AggregatorHome, log: RunLog, room: Room, abort_signal: Signal, fl_ctx: FLContext) -> None:
        from secfed.aggregator.aggregation import Aggregation, load  # loads torch

        work = load(home, self._digest)
        engine = fl_ctx.get_engine()

        def send(site: str, container: Shareable, seconds: float) -> Any:
            # FLARE logs a site outside the job as a server error, and without "optional" an absent site, too.
            if engine.get_client_from_name(site) is None:
                return None
            came = engine.send_aux_request([site], TOPIC, container, seconds, fl_ctx, optional=True)
            return came.get(site) if isinstance(came, dict) else None

        channel = FlareChannel(
            work.study, work.packed_bytes, work.deadlines, send, lambda: bool(abort_signal.triggered), log
        )
        INCOMING.allow(lambda: channel.most_bytes, peers=len(work.study.roster))
        job = str(fl_ctx.get_job_id())

        def let_in() -> None:
            if log.sites_wait(job):
                raise SitesWait

        aggregation = Aggregation(work, channel, log.show, between_rounds=let_in, room=room)
        leave_out_what_is_there()
        summary = aggregation.run(ENGINE)
        _end(log, room, "completed", f"state {summary['state_digest']}")


def _pause(abort_signal: Signal, seconds: float) -> None:
    """Wait, unless the job is aborted.

    Raises:
        StudyAborted: the job was aborted.
    """
    end = time.monotonic() + seconds
    while not abort_signal.triggered:
        if time.monotonic() >= end:
            return
        time.sleep(min(0.5, seconds))
    raise StudyAborted("the job was aborted")


def _end(log: RunLog, room: Room, how: str, text: str) -> None:
    """Write the log's last line to disk before the job ends; otherwise a completed study would be run again.

    An abort does not wait for disk space: FLARE's own record of the job shows it.
    """
    log.end(how, text)
    with suppress(StudyAborted):
        room.write(log.flush)
