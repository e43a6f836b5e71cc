"""The channel over FLARE's auxiliary messages: one request to each site's job process, one answer each, one deadline.

A site that is disconnected or late, or whose answer is not our bytes, counts as absent. FLARE drops answers after the
deadline, and no request is repeated here. FLARE knows sites by their roster names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nvflare.apis.shareable import Shareable

from protocols.aggregator import Stage
from secfed.aggregator.aggregation import GATHERING
from secfed.engines.flare.envelope import read_answer, request_of
from secfed.engines.flare.memory import give_back
from secfed.engines.flare.progress import RunLog
from secfed.rounds.channel import most_reply_bytes
from secfed.rounds.deadlines import Deadlines
from secfed.rounds.handover import most_handover_bytes
from secfed.study.manifest import Study

_GATHERING_SECONDS = 5.0
"""Seconds to wait for a site's attendance answer. It is asked again soon."""
Send = Callable[[str, Shareable, float], Any]
"""Sends one site a request; returns what came back within the given seconds."""


class StudyAborted(Exception):
    """The operator ended the job."""


class SitesWait(Exception):
    """Sites have connected that this job does not reach: the study continues in a new job. No round is open."""


class FlareChannel:
    """Reaches the sites of one study."""

    def __init__(
        self,
        study: Study,
        packed_bytes: int,
        deadlines: Deadlines,
        send: Send,
        aborted: Callable[[], bool],
        log: RunLog,
    ) -> None:
        """
        Args:
            study: names the sites.
            packed_bytes: the size of a packed vector, which bounds the answers.
            deadlines: how long to wait for each stage.
            send: FLARE's call.
            aborted: returns whether the job was aborted meanwhile.
            log: records which sites are asked and which have answered.
        """
        self._study = study
        self.most_bytes = max(most_reply_bytes(len(study.roster), packed_bytes), most_handover_bytes(study))
        """Of an answer."""
        self._deadlines = deadlines
        self._send = send
        self._aborted = aborted
        self._log = log

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        """See `secfed.rounds.channel.Channel`.

        Raises:
            StudyAborted: the job was aborted.
        """
        if not requests:
            return {}
        roster = self._study.roster
        seconds = self._deadline(stage)

        def ask(node: int) -> bytes | None:
            container = request_of(self._study.digest, requests[node])
            answer = read_answer(self._send(roster[node].name, container, seconds), self.most_bytes)
            if answer is not None:
                self._log.answered(roster[node].name)
            return answer

        self._log.asks([roster[node].name for node in requests], round_number, stage, seconds)
        # In FLARE 2.9.0, the call with one request per site fails, and the call with one request for all waits for all
        # sites.
        with ThreadPoolExecutor(len(requests), "secfed exchange") as pool:
            answers = dict(zip(requests, pool.map(ask, requests), strict=True))
        give_back()
        self._log.waited()
        if self._aborted():
            raise StudyAborted("the job was aborted")
        return {node: answer for node, answer in answers.items() if answer is not None}

    def _deadline(self, stage: str) -> float:
        if stage == Stage.MASKED_INPUT.value:
            return self._deadlines.training_seconds
        most = self._deadlines.stage_seconds
        return min(most, _GATHERING_SECONDS) if stage == GATHERING else most
