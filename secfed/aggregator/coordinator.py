"""The aggregator's loop over a study's rounds. Trusted for liveness only, and built like that.

It opens a round on the last receipt, moves the nodes from stage to stage with whoever answers, publishes the sum and
collects the signatures that make the next receipt. It computes the model's state, too, from the same sum: its copy has
to match the state that the nodes sign, or there is no receipt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from protocols.aggregator import Aggregator, Stage
from protocols.errors import FaultKind, ProtocolError, RemoteError, RoundVoid
from protocols.events import Rejected
from protocols.messages import Signature
from protocols.receipts import Receipt, Statement, valid_signers
from protocols.session import SessionConfig
from protocols.wire import AnyMessage, Message, decode, encode, message_type
from secfed.aggregator.records import RoundRecord, Traffic
from secfed.rounds.chain import Chain
from secfed.rounds.channel import (
    LINKS_MAX,
    Channel,
    EchoRequest,
    Link,
    Offer,
    RoundOpening,
    Standing,
    StudyClosing,
    most_answer_bytes,
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
            opens: writes a round's number to disk, before anything of the round leaves.
            closes: writes to disk how a round ended, and again if it is finished late.
            left_out: who is not to take part in the round that is opened.
        """
        self.study = study
        self.chain = Chain(study, layout, first)
        self.links: list[Link] = []
        self.standings: dict[int, Standing] = {}
        self._records: list[RoundRecord] = []
        self._channel = channel
        self._show = show
        self._keep = keep
        self._opens = opens
        self._closes = closes
        self._read_left_out = left_out
        self._left_out: frozenset[int] = frozenset()
        self._epsilon_by_round = epsilon_by_round
        self._limits = self.chain.limits
        self._faults = FaultLog(study, self._limits)

    def resume(self, links: Sequence[Link], records: Sequence[RoundRecord]) -> None:
        """Go on where a coordinator was that stopped.

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
        """Every round of the study that was not opened yet, then the closing header."""
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
        """One round, with whoever answers. Gives what `run` writes down of it."""
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
            self._adopt(receipt, aggregator.packed_sum)
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
        """Send the sum once more to those who have not signed, if there is no receipt without them.

        Who has signed is locked to this round. If they are at most c, nobody may sign on their word, and should the
        others be too few without them, a single lost message would end the study.
        """
        if not aggregator.can_close:
            again = {node: requests[node] for node in sorted(aggregator.missing)}
            self._take(aggregator, number, self._exchange(again, number, Stage.CLOSE, traffic))

    def _take(self, aggregator: Aggregator, number: int, answers: Mapping[int, bytes]) -> dict[int, str]:
        """Hand over a stage's answers. Returns why nodes are not counted: they complain, or their answer is wrong."""
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
        """Send the opening with the last receipt; bring nodes that are behind up to date and ask them again.

        Nodes that signed for a round without a receipt offer it instead of joining; that round is finished first. Those
        that are left out get a closing header, which asks for the same and opens nothing.
        """
        self._left_out = self._read_left_out()
        opening = aggregator.config.context.opening()
        last = tuple(Link(link.receipt, b"") for link in self.links[-1:])
        faults = self._faults.for_nodes()
        requests = dict.fromkeys(range(len(self.study.roster)), encode(RoundOpening(last, opening, faults)))
        requests |= dict.fromkeys(self._left_out, encode(StudyClosing(last, faults)))
        answers, offers = self._bring_up(
            requests,
            lambda asked: self._exchange(asked, number, Stage.ADVERTISE, traffic),
            lambda node, links: StudyClosing(links) if node in self._left_out else RoundOpening(links, opening),
        )
        self._finish_late(offers, number)
        return {node: answer for node, answer in answers.items() if node not in self._left_out}

    def _bring_up(
        self,
        requests: Mapping[int, bytes],
        exchange: Callable[[Mapping[int, bytes]], Mapping[int, bytes]],
        header: Callable[[int, tuple[Link, ...]], Message],
    ) -> tuple[dict[int, bytes], dict[int, Offer]]:
        """Send headers; send nodes that are behind what they lack, and ask them again until they hold all of it.

        Args:
            requests: the first header for each node.
            exchange: carries them.
            header: the next one for a node, with these links.

        Returns:
            What nodes answered that are neither behind nor locked, and the offers of those that are locked to a round
            without a receipt.
        """
        answers: dict[int, bytes] = {}
        offers: dict[int, Offer] = {}
        self.standings = {}
        while requests:
            behind: dict[int, bytes] = {}
            for node, answer in exchange(requests).items():
                offer = self._read(Offer, node, answer)
                missing = self._missing_links(node, answer)
                if offer is not None:
                    offers[node] = offer
                elif missing:
                    behind[node] = encode(header(node, missing))
                elif missing is None:
                    answers[node] = answer
            requests = behind
        return answers, offers

    def _finish_late(self, offers: Mapping[int, Offer], number: int) -> bool:
        """Finish a round whose closing was cut short, from the offers of those who signed, and echoes of the others.

        Returns:
            Whether a receipt was made.
        """
        groups: dict[bytes, dict[int, Offer]] = {}
        for node, offer in offers.items():
            is_survivor = node in offer.statement.survivors  # or its signature would spoil the receipt
            if is_survivor and valid_signers(offer.statement, {node: offer.signature}, self.study.identities):
                groups.setdefault(offer.statement.digest(), {})[node] = offer
        for group in groups.values():
            statement, packed = next((offer.statement, offer.vector) for offer in group.values())
            try:
                self.chain.check_next(statement, packed)
            except RemoteError:
                continue
            if len(group) > self.study.cohort.colluders:
                group.update(self._echoes(statement, packed, group, number))
            if len(group) >= statement.quorum:
                self._adopt(Receipt(statement, _signatures(group)), packed)
                self._mark_finished(statement)
                number = statement.round_number
                self._show(Note(f"round {number:>3}: finished late, from the signatures that the hospitals kept"))
                return True
        return False

    def _echoes(self, statement: Statement, packed: bytes, group: Mapping[int, Offer], number: int) -> dict[int, Offer]:
        """Ask the survivors that have not signed to sign, too."""
        request = encode(EchoRequest(statement, packed, _signatures(group)))
        asked = {node: request for node in statement.survivors if node not in group}
        echoes = {}
        for node, answer in self._channel.exchange(asked, round_number=number, stage="echo").items():
            offer = self._read(Offer, node, answer)
            if (
                offer is not None
                and offer.statement == statement
                and valid_signers(statement, {node: offer.signature}, self.study.identities)
            ):
                echoes[node] = offer
        return echoes

    def _mark_finished(self, statement: Statement) -> None:
        """Correct the record of a round that was called void when it ended."""
        for at, record in enumerate(self._records):
            if record.number == statement.round_number:
                self._records[at] = record.finished_late(statement, self.study)
                self._closes(self._records[at])

    def _adopt(self, receipt: Receipt, packed: bytes) -> None:
        self.chain.adopt(receipt, packed)
        self.links.append(Link(receipt, packed))
        self._keep(receipt, packed)

    def _read(self, kind: type[AnyMessage], node: int, answer: bytes) -> AnyMessage | None:
        """The answer, if it is a message of this kind and names its sender rightly."""
        try:
            if message_type(answer, most_answer_bytes(self._limits), node) != kind.TYPE:
                return None
            message = decode(kind, answer, self._limits, node)
        except ProtocolError:
            return None  # the aggregator's machine rejects it with the reason
        return message if getattr(message, "sender", None) == node else None

    def _missing_links(self, node: int, answer: bytes) -> tuple[Link, ...] | None:
        """The links after the node's last one if it says that it is behind; None if it advertised; () to give up."""
        standing = self._read(Standing, node, answer)
        if standing is None:
            return None
        earlier = self.standings.get(node)
        self.standings[node] = standing
        if earlier is not None and earlier.round_number >= standing.round_number:
            return ()  # it did not move with the links it got: asking again would not end
        links = [link for link in self.links if link.receipt.statement.round_number > standing.round_number]
        return tuple(links[:LINKS_MAX])

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
        """The closing header: every node that is there adopts the last receipt, and says where it stands.

        For those that were not there when `run` sent it: again, as often as one likes.
        """
        rounds, finished = self.study.algorithm.rounds, True
        while finished:
            last = tuple(Link(link.receipt, b"") for link in self.links[-1:])
            closing = encode(StudyClosing(last, self._faults.for_nodes()))
            _, offers = self._bring_up(
                dict.fromkeys(range(len(self.study.roster)), closing),
                lambda asked: self._channel.exchange(asked, round_number=rounds, stage="closing"),
                lambda _, links: StudyClosing(links),
            )
            finished = self._finish_late(offers, rounds)

    def _show_absent(self, aggregator: Aggregator, number: int, before: set[int], rejected: Mapping[int, str]) -> None:
        for node, stage in sorted(aggregator.absent.items()):
            if node not in before:
                reason = why_absent(node in self._left_out, self.standings.get(node), self.chain.round_number)
                self._show(NodeAbsent(number, self._name(node), stage.value, rejected.get(node, reason)))

    def _name(self, node: int) -> str:
        return self.study.roster[node].name

    def _names(self, nodes: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(self._name(node) for node in nodes)


def _signatures(group: Mapping[int, Offer]) -> tuple[Signature, ...]:
    return tuple(Signature(node, group[node].signature) for node in sorted(group))
