"""A site's side of a job: runs the site's node, if the site's own home has approved the study that the job names.

The job contains only the study's digest. The node runs the study from its own home (`secfed.node.home`), whatever the
server sent. The node works on its own thread. Only its answers leave this process, and an answer is either the node's
bytes or empty. Reasons go to the owner's log in the node's home.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal

from secfed.engines.flare.bounds import INCOMING
from secfed.engines.flare.clocks import Clocks
from secfed.engines.flare.envelope import TOPIC, answer_of, read_request, read_time
from secfed.engines.flare.settings import study_digest
from secfed.engines.flare.worker import NodeWorker
from secfed.models.libraries import settle_libraries
from secfed.node.home import Home, default_home
from secfed.node.node import Node
from secfed.node.owners_log import OwnersLog
from secfed.rounds.run_facts import FLARE

_STOP_SECONDS = 5.0
_ANOTHERS = (
    "a request about a different study was dropped, and further ones will be: the server may be running another or "
    "changed study in this study's job. Ask the server's operator"
)


class NodeExecutor(Executor):  # type: ignore[misc]
    """Runs this site's node in one study."""

    def __init__(self, study: str) -> None:
        """
        Args:
            study: its digest, as 64 hexadecimal digits.
        """
        super().__init__()
        self._digest = study_digest(study)
        self._worker: NodeWorker | None = None
        self._told_of_others = False
        self._clocks = Clocks(OwnersLog(default_home()))

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Open the node when the run starts, close it when it ends."""
        if event_type == EventType.START_RUN:
            settle_libraries()
            log = OwnersLog(default_home())
            self._worker = NodeWorker(self._open_node, self._approval, log, debug=log.debug)
            INCOMING.allow(self._needed, peers=1)
            self._worker.start()
            fl_ctx.get_engine().register_aux_message_handler(TOPIC, self._answer)
        elif event_type in (EventType.END_RUN, EventType.ABORT_TASK) and self._worker is not None:
            self._worker.stop(_STOP_SECONDS)

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """This engine uses no tasks: every task is unknown."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def _answer(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        worker = self._worker
        if worker is None:
            return answer_of(b"")
        most = worker.most_request_bytes
        data = read_request(request, self._digest, most)
        if data is not None:
            self._clocks.compare(read_time(request), datetime.now(UTC))
            return answer_of(worker.ask(data))
        if most and not self._told_of_others:  # only once: a sender must not be able to fill the owner's disk
            self._told_of_others = True
            OwnersLog(default_home())(_ANOTHERS)
        return answer_of(b"")

    def _needed(self) -> int:
        return self._worker.most_request_bytes if self._worker is not None else 0

    def _open_node(self) -> AbstractContextManager[Node]:
        tell = OwnersLog(default_home())
        home = Home.open(default_home())
        return home.open_node(self._digest, engine=FLARE, tell_owner=lambda _, text: tell(text))

    def _approval(self) -> bytes:
        return Home.open(default_home()).approval(self._digest)
