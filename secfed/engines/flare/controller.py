"""The server's side of a job: the study at the aggregator, with FLARE's messages as its channel.

The job says one thing, the study's digest. Study, base model and test set are what this server's operator put into the
aggregator's folder (`secfed.aggregator.home`); a digest that is not there is refused. FLARE's own tasks are not used.

One process runs a study: it holds a lock for as long as it lives (`AggregatorHome.take_run`), or two jobs of one study,
each with a part of the sites, would write one journal.
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
"""One a second: the job's process of a server that was killed ends within a few seconds of it, by itself."""


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
        """Nothing to prepare: `control_flow` does all."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """The whole study, if no other process runs it. What goes wrong is in the run's log, and in FLARE's."""
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
            # The other one writes the log and the journal: not a word of this job is in them.
            self.system_panic(
                f"another process runs study {self._digest.hex()[:16]} in {home.path}: this job ends", fl_ctx
            )
            return
        try:
            room.write(partial(log.start, str(fl_ctx.get_job_id())))
            room.write(log.flush)
            self._run(home, log, room, abort_signal, fl_ctx)
        except SitesWait:
            # Without an end in the log the job was cut short, and the server's `StudyKeeper` submits it again.
            log.show(Note("sites have come that take no part yet: the job is started anew with them"))
        except StudyAborted:
            _end(log, room, "aborted", "the job was ended; submit the study again to go on")
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
        """The lock on the run; None where another process keeps it."""
        for _ in range(_LOCK_TRIES):
            lock = room.write(partial(home.take_run, self._digest))
            if lock is not None:
                return lock
            pause(1.0)
        return None

    def _full(self, log: RunLog, said: str) -> None:
        text = f"no room to write ({said}): the study waits, and goes on by itself once there is some"
        self.logger.warning(text)
        log.no_room(waits=True)
        log.show(Note(text))

    def _room_again(self, log: RunLog) -> None:
        text = "there is room again: the study goes on"
        self.logger.warning(text)
        log.no_room(waits=False)
        log.show(Note(text))

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to end."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """There are no tasks: whatever comes is dropped."""

    def _run(self, home: AggregatorHome, log: RunLog, room: Room, abort_signal: Signal, fl_ctx: FLContext) -> None:
        from secfed.aggregator.aggregation import Aggregation, load  # loads torch

        work = load(home, self._digest)
        engine = fl_ctx.get_engine()

        def send(site: str, container: Shareable, seconds: float) -> Any:
            # FLARE logs a site that is not in the job, and without "optional" one that is absent, as a server's error.
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
    """Wait, unless the job is ended.

    Raises:
        StudyAborted: it was.
    """
    end = time.monotonic() + seconds
    while not abort_signal.triggered:
        if time.monotonic() >= end:
            return
        time.sleep(min(0.5, seconds))
    raise StudyAborted("the job was ended")


def _end(log: RunLog, room: Room, how: str, text: str) -> None:
    """The log's last line, on disk before the job is over, or what is complete would be run again.

    An abort does not wait for room: FLARE's own record of the job has it.
    """
    log.end(how, text)
    with suppress(StudyAborted):
        room.write(log.flush)
