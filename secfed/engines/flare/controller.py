"""The server's side of a job: the study at the aggregator, with FLARE's messages as its channel.

The job says one thing, the study's digest. Study, base model and test set are what this server's operator put into the
aggregator's folder (`secfed.aggregator_home`); a digest that is not there is refused. FLARE's own tasks are not used.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from dp.errors import DPError
from protocols.errors import ProtocolError
from secfed.aggregator_home import AggregatorHome, default_home
from secfed.engines.flare.bounds import INCOMING
from secfed.engines.flare.channel import FlareChannel, SitesWait, StudyAborted
from secfed.engines.flare.envelope import TOPIC
from secfed.engines.flare.memory import leave_out_what_is_there
from secfed.engines.flare.progress import RunLog
from secfed.engines.flare.settings import ENGINE, study_digest
from secfed.errors import UserError
from secfed.libraries import settle_libraries
from secfed.progress import Note


class StudyController(Controller):  # type: ignore[misc]
    """Runs one study."""

    def __init__(self, study: str) -> None:
        """
        Args:
            study: its digest, as 64 hexadecimal digits.
        """
        super().__init__()
        self._digest = study_digest(study)

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to prepare: `control_flow` does all."""

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """The whole study. What goes wrong is for this server's operator: in the run's log, and in FLARE's."""
        settle_libraries()
        home = AggregatorHome(default_home())
        log = RunLog(home.run(self._digest))
        log.start(str(fl_ctx.get_job_id()))
        try:
            self._run(home, log, abort_signal, fl_ctx)
        except SitesWait:
            # Without an end in the log the job was cut short, and the server's `StudyKeeper` submits it again.
            log.show(Note("sites have come that take no part yet: the job is started anew with them"))
        except StudyAborted:
            log.end("aborted", "the job was ended; submit the study again to go on")
        except (UserError, DPError, ProtocolError, OSError) as error:
            log.end("stopped", str(error))
            self.system_panic(str(error), fl_ctx)
        except Exception as error:
            log.end("failed", f"{type(error).__name__}: {error}")
            raise

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to end."""

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """There are no tasks: whatever comes is dropped."""

    def _run(self, home: AggregatorHome, log: RunLog, abort_signal: Signal, fl_ctx: FLContext) -> None:
        from secfed.aggregation import Aggregation, load  # loads torch

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

        aggregation = Aggregation(work, channel, log.show, between_rounds=let_in)
        leave_out_what_is_there()
        summary = aggregation.run(ENGINE)
        log.end("completed", f"state {summary['state_digest']}")
