"""A node's answer to any request of the coordinator, whatever carries it.

Both engines call `answer_of`. A node that refuses raises; the engine then sends nothing, and tells the owner why.
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
"""Of the two requests that are not the node's own."""


def answer_of(node: Node, approval: bytes, request: bytes) -> bytes:
    """A node's answer to any request of the coordinator.

    Args:
        node: the node.
        approval: its signature under the study.
        request: what came.

    Raises:
        ProtocolError, DPError, UserError: the node takes no part; for its owner only.
    """
    if len(request) <= _SMALL_BYTES:
        kind = message_type(request, _SMALL_BYTES, None)
        if kind == AttendanceRequest.TYPE:
            try:
                if node.end_named is None:  # the study is over else: nothing is joined, and the approval is handed over
                    node.check_ready()  # who cannot take part is not there
            except KeepsOut:
                return node.standing()
            return attendance(node, approval, request)
        if kind == HandoverRequest.TYPE:
            return handover(node, request)
    return node.handle(request)


def most_bytes(node: Node) -> int:
    """The most bytes that a request to this node has; a longer one is none."""
    return max(_SMALL_BYTES, most_request_bytes(node.chain.limits))


def attendance(node: Node, approval: bytes, request: bytes) -> bytes:
    """A node's answer to an `AttendanceRequest`.

    Raises:
        ProtocolError: the request is none, or about another study.
    """
    asked = decode(AttendanceRequest, request, limits_of(node.study), None)
    _check_study(node, asked.study)
    return encode(Attendance(node.index, asked.study, approval))


def handover(node: Node, request: bytes) -> bytes:
    """A node's answer to a `HandoverRequest`.

    Raises:
        ProtocolError: the request is none, or about another study, or the study is not over at this node.
    """
    asked = decode(HandoverRequest, request, limits_of(node.study), None)
    _check_study(node, asked.study)
    copy = hand_over(node)
    if copy is None:
        raise WrongSession(
            "the ledger was asked for, and the study is not over here: the aggregator has not said that it is over, "
            "or named a last receipt that this node does not hold",
            sender=None,
            field="type",
        )
    return encode(Handover(node.index, asked.study, write_copy(copy)))


def _check_study(node: Node, study: bytes) -> None:
    if study != node.study.digest:
        raise WrongSession("a request about another study than this node's", sender=None, field="study")
