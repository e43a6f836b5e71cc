"""Answers any request of the coordinator, whichever engine carries it.

Both engines call `answer_of`. It raises when the node refuses: the engine then sends nothing, and only the node's owner
learns why.
"""

from __future__ import annotations

from dp.ledger_copy import write_copy
from protocols.errors import WrongSession
from protocols.wire import Limits, decode, encode, message_type, most_map_bytes
from secfed.node.books import hand_over
from secfed.node.consent import KeepsOut
from secfed.node.node import Node
from secfed.rounds.channel import most_request_bytes
from secfed.rounds.handover import Attendance, AttendanceRequest, Handover, HandoverRequest, limits_of

_NO_LIMITS = Limits(0, 0)
_SMALL_BYTES = max(most_map_bytes(kind, _NO_LIMITS) for kind in (AttendanceRequest, HandoverRequest))
"""Limits for the two requests that this module parses itself."""


def answer_of(node: Node, approval: bytes, request: bytes) -> bytes:
    """Answer any request of the coordinator.

    Args:
        node: the node.
        approval: its signature under the study.
        request: the bytes as received.

    Raises:
        ProtocolError, DPError, UserError: the node refuses; the text is for its owner only.
    """
    if len(request) <= _SMALL_BYTES:
        kind = message_type(request, _SMALL_BYTES, None)
        if kind == AttendanceRequest.TYPE:
            try:
                if node.end_named is None:  # the study is over: hand over the approval
                    node.check_ready()  # a node that cannot take part does not report as present
            except KeepsOut:
                return node.standing()
            return attendance(node, approval, request)
        if kind == HandoverRequest.TYPE:
            return handover(node, request)
    return node.handle(request)


def most_bytes(node: Node) -> int:
    """The largest valid request to this node, in bytes."""
    return max(_SMALL_BYTES, most_request_bytes(node.chain.limits))


def attendance(node: Node, approval: bytes, request: bytes) -> bytes:
    """Answer an `AttendanceRequest`.

    Raises:
        ProtocolError: the request is malformed or about another study.
    """
    asked = decode(AttendanceRequest, request, limits_of(node.study), None)
    _check_study(node, asked.study)
    return encode(Attendance(node.index, asked.study, approval))


def handover(node: Node, request: bytes) -> bytes:
    """Answer a `HandoverRequest`.

    Raises:
        ProtocolError: the request is malformed or about another study, or the study is not over at this node.
    """
    asked = decode(HandoverRequest, request, limits_of(node.study), None)
    _check_study(node, asked.study)
    copy = hand_over(node)
    if copy is None:
        raise WrongSession(
            "the aggregator asked for the ledger, but the study is not over here: it has not announced the end, or "
            "it named a last receipt that this node does not hold",
            sender=None,
            field="type",
        )
    return encode(Handover(node.index, asked.study, write_copy(copy)))


def _check_study(node: Node, study: bytes) -> None:
    if study != node.study.digest:
        raise WrongSession("the request is about a different study from this node's", sender=None, field="study")
