"""The messages in which a node hands over its part of a run's folder, if it runs apart from the aggregator.

Before the first round the node says that it is there, with its signature under the study. Once the study is over, and
no round of it can follow at this node (`secfed.node.books`), it hands over a copy of its ledger: the study's entries,
how the node ran it, where it stands, and of other studies only digests and one total (`dp.ledger_copy`). These messages
are parsed as strictly as those of the protocol (`protocols.wire`) and bounded in size, and aggregator and verifier
check them. They prove only what is signed in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from crypto.identity import SIGNATURE_BYTES
from crypto.kdf import DIGEST_BYTES
from protocols.errors import ProtocolError
from protocols.wire import Index, Limits, Message, Octets, decode, exactly, most_map_bytes, wired
from secfed.rounds.channel import Standing
from secfed.study.manifest import Study

LEDGER_BYTES_MAX = 16 << 20
"""The largest copy of a ledger: about twenty thousand rounds of all studies together."""


@dataclass(frozen=True, slots=True)
class AttendanceRequest(Message):
    """Coordinator: are you there for this study?"""

    TYPE: ClassVar[str] = "attendance-request"
    study: bytes = exactly(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Attendance(Message):
    """Node: I am here, and this is my signature under the study."""

    TYPE: ClassVar[str] = "attendance"
    sender: int = wired(Index())
    study: bytes = exactly(DIGEST_BYTES)
    approval: bytes = exactly(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class HandoverRequest(Message):
    """Coordinator: the study is over; hand over the copy of your ledger."""

    TYPE: ClassVar[str] = "handover-request"
    study: bytes = exactly(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Handover(Message):
    """Node: the copy of my ledger. Its last entry says which state I hold."""

    TYPE: ClassVar[str] = "handover"
    sender: int = wired(Index())
    study: bytes = exactly(DIGEST_BYTES)
    ledger: bytes = wired(Octets(lambda _: LEDGER_BYTES_MAX, exact=False))


def limits_of(study: Study) -> Limits:
    """The bounds of these messages; none of them holds a vector."""
    return Limits(len(study.roster), 0)


def most_handover_bytes(study: Study) -> int:
    """The most bytes that any answer of a node to these requests may have."""
    return max(most_map_bytes(kind, limits_of(study)) for kind in (Attendance, Handover))


def keeps_out(study: Study, node: int, answer: bytes) -> bool:
    """Whether a node answers that it is there but takes no part for now. It gives no reason."""
    try:
        return decode(Standing, answer, limits_of(study), node).sender == node
    except ProtocolError:
        return False
