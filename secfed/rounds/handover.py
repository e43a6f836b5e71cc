"""What a node hands over for a run's folder where it does not share a process with the aggregator: strict messages.

Before the first round it says that it is there, with its signature under the study. Once the study is over, and no
round of it can follow at this node (`secfed.node.books`), it gives what is to be kept of its ledger: the study's own
entries, how it ran, where it stands, and of other studies nothing but digests and one total (`dp.ledger_copy`). Parsed
as strictly as the protocol's own messages (`protocols.wire`), bounded in size, and checked by the aggregator and
the verifier: they prove only what is signed in them.
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
"""Of a ledger's copy: about twenty thousand rounds of all studies together."""


@dataclass(frozen=True, slots=True)
class AttendanceRequest(Message):
    """Coordinator: are you there for this study?"""

    TYPE: ClassVar[str] = "attendance-request"
    study: bytes = exactly(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Attendance(Message):
    """Node: yes, and this is my signature under it."""

    TYPE: ClassVar[str] = "attendance"
    sender: int = wired(Index())
    study: bytes = exactly(DIGEST_BYTES)
    approval: bytes = exactly(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class HandoverRequest(Message):
    """Coordinator: the study is over; what is to be kept of you?"""

    TYPE: ClassVar[str] = "handover-request"
    study: bytes = exactly(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Handover(Message):
    """Node: what is to be kept of my ledger. Its last entry says which state I hold."""

    TYPE: ClassVar[str] = "handover"
    sender: int = wired(Index())
    study: bytes = exactly(DIGEST_BYTES)
    ledger: bytes = wired(Octets(lambda _: LEDGER_BYTES_MAX, exact=False))


def limits_of(study: Study) -> Limits:
    """Bounds of these messages; none of them holds a vector."""
    return Limits(len(study.roster), 0)


def most_handover_bytes(study: Study) -> int:
    """The most bytes that any answer of a node to these requests has."""
    return max(most_map_bytes(kind, limits_of(study)) for kind in (Attendance, Handover))


def keeps_out(study: Study, node: int, answer: bytes) -> bool:
    """Whether a node answers that it is there and takes no part for now: by its own word, and without a reason."""
    try:
        return decode(Standing, answer, limits_of(study), node).sender == node
    except ProtocolError:
        return False
