"""Oversized and malformed messages to whole nodes: the coordinator's own, around and beside those of the protocol."""

from __future__ import annotations

from audits.adversaries.bad_bytes import MEBIBYTE
from audits.adversaries.round_numbers import FederationAttack
from audits.simulator.federation import FILE, Federation
from audits.simulator.world import VICTIM, Outcome
from protocols.errors import OversizedMessage
from protocols.receipts import Receipt
from protocols.wire import Message, encode
from secfed.aggregator.handover import read_attendance
from secfed.rounds.channel import EchoRequest, Link, RoundOpening, StudyClosing
from secfed.rounds.handover import AttendanceRequest, HandoverRequest

REQUESTS: tuple[type[Message], ...] = (RoundOpening, EchoRequest, StudyClosing, AttendanceRequest, HandoverRequest)


class _BadRequest(FederationAttack):
    """A request that the victim would follow if its bytes were right."""

    def __init__(self, kind: type[Message]) -> None:
        self.kind = kind

    def request(self, federation: Federation) -> bytes:
        """The honest request. If it is about round 1, all nodes except the victim have closed that round."""
        if self.kind is RoundOpening:
            return encode(RoundOpening((), federation.chain.context(1).opening()))
        if self.kind is AttendanceRequest:
            return encode(AttendanceRequest(federation.study.digest))
        if self.kind is HandoverRequest:
            federation.send(VICTIM, encode(StudyClosing(())))
            return encode(HandoverRequest(federation.study.digest))
        receipt, packed = _closed_without_victim(federation)
        if self.kind is EchoRequest:
            return encode(EchoRequest(receipt.statement, packed, receipt.signatures))
        return encode(StudyClosing((Link(receipt, packed),)))

    def followed(self, federation: Federation, answer: bytes) -> bool:
        """Whether the victim followed the request: joined the round, signed for it, adopted its receipt, or closed."""
        node, study = federation.nodes[VICTIM], federation.study.digest
        if self.kind is RoundOpening:
            return node.parts.store.floor(study) == 1
        if self.kind is EchoRequest:
            return node.parts.store.locked(study) is not None
        if self.kind is AttendanceRequest:
            return read_attendance(federation.study, FILE, VICTIM, answer) is not None
        if self.kind is HandoverRequest:
            return node.parts.ledger.is_closed(study)
        return node.chain.round_number == 1


class MalformedRequest(_BadRequest):
    """One byte more than the message: two encodings of one message would be two fingerprints of it."""

    goal = "have a node act on bytes that are not the one canonical encoding of a message"

    def __init__(self, kind: type[Message]) -> None:
        super().__init__(kind)
        self.name = f"malformed message: {kind.TYPE}"

    def attack(self, federation: Federation) -> Outcome:
        answer = federation.send(VICTIM, self.request(federation) + b"\0")
        return federation.log.outcome(self.followed(federation, answer))


class OversizedRequest(_BadRequest):
    """A mebibyte in place of a few kilobytes."""

    goal = "have a node parse more bytes than any message of the study has"

    def __init__(self, kind: type[Message]) -> None:
        super().__init__(kind)
        self.name = f"oversized message: {kind.TYPE}"

    def attack(self, federation: Federation) -> Outcome:
        federation.send(VICTIM, self.request(federation) + bytes(MEBIBYTE))
        # Parsed or not, such bytes are refused: the question is whether their number was the reason.
        (refusal,) = federation.log.refusals
        return federation.log.outcome(not isinstance(refusal.error, OversizedMessage))


BAD_REQUESTS: tuple[FederationAttack, ...] = tuple(
    attack for kind in REQUESTS for attack in (MalformedRequest(kind), OversizedRequest(kind))
)


def _closed_without_victim(federation: Federation) -> tuple[Receipt, bytes]:
    closed = federation.round(1, federation.everyone, without_sum=(VICTIM,))
    if closed is None:
        raise RuntimeError("the honest round before the attack failed")
    return closed
