"""The aggregator's loop over a study's rounds. The nodes trust it for liveness only.

It opens a round on the last receipt, moves the nodes that answer from stage to stage, publishes the sum and collects
the signatures that make the next receipt. It also computes the model's state from the same sum. If that differs from
the state that the nodes sign, there is no receipt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from protocols.aggregator import Aggregator, Stage
from protocols.errors import FaultKind, RoundVoid
from protocols.events import Rejected
from protocols.receipts import Receipt
from protocols.session import SessionConfig
from protocols.wire import encode
from secfed.aggregator.catch_up import CatchUp
from secfed.aggregator.late_round import late_link
from secfed.aggregator.records import RoundRecord, Traffic
from secfed.rounds.chain import Chain
from secfed.rounds.channel import (
    Channel,
    Link,
    Offer,
    RoundOpening,
    StudyClosing,
)
from secfed.rounds.events import (
    Event,
    NodeAbsent,
    Note,
    RoundClosed,
    RoundFailed,
    RoundOpened,
    StageReached,
    why_absent,
)
from secfed.rounds.faults import FaultLog, what_it_did
from secfed.rounds.strategies import Layout, ModelState
from secfed.study.manifest import Study


class Coordinator:
    """Runs a study over a channel."""

    def __init__(
        self,
        study: Study,
        layout: Layout,
        first: ModelState,
        channel: Channel,
        *,
        show: Callable[[Event], None],
        keep: Callable[[Receipt, bytes], None],
        epsilon_by_round: tuple[float, ...],
        opens: Callable[[int], None] = lambda number: None,
        closes: Callable[[RoundRecord], None] = lambda record: None,
        left_out: Callable[[], frozenset[int]] = frozenset,
    ) -> None:
        """
        Args:
            study: the signed study.
            layout: names and shapes of the trained parameters.
            first: the first state, derived from the study.
            channel: reaches the nodes.
            show: told what happens.
            keep: writes a receipt and its packed sum to disk.
            epsilon_by_round: nominal epsilon after each round, for the display.
            opens: writes a round's number to disk, before anything of the round is sent.
            closes: writes to disk how a round ended, and again if it is finished late.
            left_out: gives the nodes that take no part in the round that is opened.
        """
        self.study = study
        self.chain = Chain(study, layout, first)
        self.links: list[Link] = []
        self._records: list[RoundRecord] = []
        self._channel = channel
        self._show = show
        self._keep = keep
        self._opens = opens
        self._closes = closes
        self._read_left_out = left_out
        self._left_out: frozenset[int] = frozenset()
        self._epsilon_by_round = epsilon_by_round
        self._catch_up = CatchUp(self.chain.limits)
        self._faults = FaultLog(study, self.chain.limits)

    def resume(self, links: Sequence[Link], records: Sequence[RoundRecord]) -> None:
        """Go on where an earlier coordinator stopped.

        Args:
            links: every receipt and its sum, in order.
            records: of every round that was ever opened; the next number is one more.

        Raises:
            RemoteError: a link does not follow from the study and the links before it.
        """
        for link in links:
            self.chain.adopt(link.receipt, link.vector)
            self.links.append(link)
        self._records = list(records)

    def run(self) -> list[RoundRecord]:
        """Run every round of the study that was not opened yet, then send the closing header."""
        rounds = self.study.algorithm.rounds
        for number in range(len(self._records) + 1, rounds + 1):
            self._show(RoundOpened(number, rounds))
            self._opens(number)
            record = self.run_round(number)
            self._records.append(record)
            self._closes(record)
            if record.void:
                self._show(RoundFailed(number, record.reason))
            else:
                epsilon = self._epsilon_by_round[number - 1]
                self._show(RoundClosed(number, len(record.survivors), len(self.study.roster), record.seconds, epsilon))
        self.close_study()
        return self._records

    def run_round(self, number: int) -> RoundRecord:
        """Run one round with the nodes that answer. Returns the record that `run` keeps."""
        started = time.monotonic()
        aggregator = Aggregator(
            SessionConfig(
                self.study.cohort_rules(),
                self.study.identities,
                self.chain.context(number),
                self.study.magnitude,
            )
        )
        traffic = Traffic()
        reason, receipt = "", None
        try:
            receipt = self._drive(aggregator, number, traffic)
        except RoundVoid as error:
            reason = str(error)
            self._faults.void(number, error)
        if receipt is not None:
            self._adopt(Link(receipt, aggregator.packed_sum))
        return RoundRecord(
            number=number,
            void=receipt is None,
            reason=reason,
            cohort=self._names(aggregator.cohort),
            survivors=self._names(aggregator.survivors if receipt is not None else ()),
            dropped=tuple((self._name(node), stage.value) for node, stage in sorted(aggregator.absent.items())),
            quorum=aggregator.quorum,
            seconds=time.monotonic() - started,
            bytes_up={self._name(node): size for node, size in sorted(traffic.up.items())},
            bytes_down={self._name(node): size for node, size in sorted(traffic.down.items())},
            sum_digest=receipt.statement.sum_digest.hex() if receipt else "",
            receipt_digest=receipt.digest().hex() if receipt else "",
            faults=self._faults.of_round(number),
        )

    def _drive(self, aggregator: Aggregator, number: int, traffic: Traffic) -> Receipt:
        """Move one round from stage to stage."""
        answers: Mapping[int, bytes] = self._open_round(aggregator, number, traffic)
        if aggregator.config.context.predecessor != self.chain.head:
            raise RoundVoid(Stage.ADVERTISE.value, "an earlier round was finished first, and this number is used up")
        requests: Mapping[int, bytes] = {}
        while True:
            stage = aggregator.stage
            rejected = self._take(aggregator, number, answers)
            before = set(aggregator.absent)
            if stage is Stage.CLOSE:
                self._repeat_sum(aggregator, number, requests, traffic)
                receipt = aggregator.receipt()
                self._show_absent(aggregator, number, before, rejected)
                return receipt
            try:
                requests = aggregator.advance()
            finally:
                self._show_absent(aggregator, number, before, rejected)
            if aggregator.stage is Stage.CLOSE:
                following = self.chain.next_state(aggregator.packed_sum, aggregator.survivors)
                aggregator.expect_state(following.digest(self.chain.layout))
            answers = self._exchange(requests, number, aggregator.stage, traffic)

    def _repeat_sum(self, aggregator: Aggregator, number: int, requests: Mapping[int, bytes], traffic: Traffic) -> None:
        """Send the sum once more to the nodes that have not signed, if there is no receipt without them.

        A node that signed is locked to this round. If at most c nodes signed, no other may sign on their word. If the
        others are also too few for a round without them, a single lost message would end the study.
        """
        if not aggregator.can_close:
            again = {node: requests[node] for node in sorted(aggregator.missing)}
            self._take(aggregator, number, self._exchange(again, number, Stage.CLOSE, traffic))

    def _take(self, aggregator: Aggregator, number: int, answers: Mapping[int, bytes]) -> dict[int, str]:
        """Hand a stage's answers to the aggregator's state machine. Returns why a node does not count: it complained,
        or its answer is wrong."""
        reasons = {}
        for node, answer in answers.items():
            complaint = self._faults.complaint(node, number, aggregator.stage, answer)
            if complaint is not None:
                reasons[node] = f"{self._name(complaint.accused)} {what_it_did(FaultKind(complaint.kind))}, it says"
                continue
            event = aggregator.receive(node, answer)
            if isinstance(event, Rejected):
                reasons[node] = str(event.fault)
                self._faults.rejected(number, event.fault)
        return reasons

    def _open_round(self, aggregator: Aggregator, number: int, traffic: Traffic) -> dict[int, bytes]:
        """Send the opening with the last receipt. Bring nodes that are behind up to date and ask them again.

        A node that signed a round without a receipt offers that round instead of joining; it is finished first. Nodes
        that are left out get a closing header, which asks for the same but opens nothing.
        """
        self._left_out = self._read_left_out()
        opening = aggregator.config.context.opening()
        last = tuple(Link(link.receipt, b"") for link in self.links[-1:])
        faults = self._faults.for_nodes()
        requests = dict.fromkeys(range(len(self.study.roster)), encode(RoundOpening(last, opening, faults)))
        requests |= dict.fromkeys(self._left_out, encode(StudyClosing(last, faults)))
        answers, offers = self._catch_up.bring_up(
            requests,
            self.links,
            lambda asked: self._exchange(asked, number, Stage.ADVERTISE, traffic),
            lambda node, links: StudyClosing(links) if node in self._left_out else RoundOpening(links, opening),
        )
        self._finish_late(offers, number)
        return {node: answer for node, answer in answers.items() if node not in self._left_out}

    def _finish_late(self, offers: Mapping[int, Offer], number: int) -> bool:
        """Finish a round whose closing was cut short. Returns whether there is a receipt now."""
        link = late_link(
            offers, self.chain, lambda asked: self._channel.exchange(asked, round_number=number, stage="echo")
        )
        if link is None:
            return False
        self._adopt(link)
        statement = link.receipt.statement
        for at, record in enumerate(self._records):
            if record.number == statement.round_number:  # it was recorded as void when it ended
                self._records[at] = record.finished_late(statement, self.study)
                self._closes(self._records[at])
        late = f"round {statement.round_number:>3}: finished late, from the signatures that the sites kept"
        self._show(Note(late))
        return True

    def _adopt(self, link: Link) -> None:
        self.chain.adopt(link.receipt, link.vector)
        self.links.append(link)
        self._keep(link.receipt, link.vector)

    def _exchange(
        self, requests: Mapping[int, bytes], number: int, stage: Stage, traffic: Traffic
    ) -> Mapping[int, bytes]:
        self._show(StageReached(number, stage.value, len(requests)))
        answers = self._channel.exchange(requests, round_number=number, stage=stage.value)
        for node, request in requests.items():
            traffic.down[node] = traffic.down.get(node, 0) + len(request)
        for node, answer in answers.items():
            traffic.up[node] = traffic.up.get(node, 0) + len(answer)
        return answers

    def close_study(self) -> None:
        """Send the closing header: every node that is there adopts the last receipt, and says where it stands.

        Call it again for nodes that were not there when `run` sent it, as often as needed.
        """
        rounds, finished = self.study.algorithm.rounds, True
        while finished:
            last = tuple(Link(link.receipt, b"") for link in self.links[-1:])
            closing = encode(StudyClosing(last, self._faults.for_nodes()))
            _, offers = self._catch_up.bring_up(
                dict.fromkeys(range(len(self.study.roster)), closing),
                self.links,
                lambda asked: self._channel.exchange(asked, round_number=rounds, stage="closing"),
                lambda _, links: StudyClosing(links),
            )
            finished = self._finish_late(offers, rounds)

    def _show_absent(self, aggregator: Aggregator, number: int, before: set[int], rejected: Mapping[int, str]) -> None:
        for node, stage in sorted(aggregator.absent.items()):
            if node not in before:
                reason = why_absent(node in self._left_out, self._catch_up.standings.get(node), self.chain.round_number)
                self._show(NodeAbsent(number, self._name(node), stage.value, rejected.get(node, reason)))

    def _name(self, node: int) -> str:
        return self.study.roster[node].name

    def _names(self, nodes: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self._name(node) for node in nodes)
