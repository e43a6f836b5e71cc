"""How the coordinator reaches the nodes: requests out, answers back, silence is absence.

Node and coordinator know nothing of transport; an engine supplies the `Channel`. Around the protocol's own messages
a few more travel: the opening of a round with the receipts that a node may have missed and with what is claimed about
dishonest nodes, a node's word that it is behind, or that it is locked to a round without a receipt, and the closing of
the study. They are parsed as strictly as the rest. A node that leaves a round because of a peer answers with a
`protocols.complaints.Complaint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from crypto.identity import SIGNATURE_BYTES
from crypto.kdf import DIGEST_BYTES
from protocols.complaints import NO_FAULTS, Complaint, Faults
from protocols.messages import FROM_AGGREGATOR, FROM_NODE, Advertise, Opening, Signature
from protocols.receipts import Receipt, Statement
from protocols.wire import (
    Index,
    Limits,
    Message,
    Number,
    Octets,
    Record,
    Sequence,
    Struct,
    exactly,
    most_map_bytes,
    wired,
)

LINKS_MAX = 16
"""Receipts in one message. A node that is further behind asks again."""


@dataclass(frozen=True, slots=True)
class Link(Record):
    """One link of the chain: a receipt, and the sum that it covers."""

    receipt: Receipt = wired(Struct(Receipt))
    vector: bytes = wired(Octets(lambda limits: limits.packed_bytes, exact=False))
    """The packed sum; empty where the node has it already."""


@dataclass(frozen=True, slots=True)
class RoundOpening(Message):
    """Coordinator: adopt these links, then take part in this round."""

    TYPE: ClassVar[str] = "round-opening"
    links: tuple[Link, ...] = wired(Sequence(Struct(Link), most=LINKS_MAX))
    opening: Opening = wired(Struct(Opening))
    faults: Faults = wired(Struct(Faults), NO_FAULTS)
    """What is claimed about earlier rounds. Nothing but what owners are told depends on it."""


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """Node: the last statement that it signed and has no receipt for, with the sum and its signature.

    It is locked: it joins no round on an older predecessor. With enough offers the coordinator finishes that round.
    """

    TYPE: ClassVar[str] = "offer"
    sender: int = wired(Index())
    statement: Statement = wired(Struct(Statement))
    vector: bytes = wired(Octets(lambda limits: limits.packed_bytes))
    signature: bytes = exactly(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class EchoRequest(Message):
    """Coordinator: more than c survivors signed this statement; sign it, too, though you have not seen the sum."""

    TYPE: ClassVar[str] = "echo-request"
    statement: Statement = wired(Struct(Statement))
    vector: bytes = wired(Octets(lambda limits: limits.packed_bytes))
    signatures: tuple[Signature, ...] = wired(Sequence(Struct(Signature)))


@dataclass(frozen=True, slots=True)
class StudyClosing(Message):
    """Coordinator: adopt these links. After the last round, and to a node that is left out of a round."""

    TYPE: ClassVar[str] = "study-closing"
    links: tuple[Link, ...] = wired(Sequence(Struct(Link), most=LINKS_MAX))
    faults: Faults = wired(Struct(Faults), NO_FAULTS)
    """As in `RoundOpening`."""


@dataclass(frozen=True, slots=True)
class Standing(Message):
    """Node: the last receipt that it has adopted, when it cannot follow, or at the end."""

    TYPE: ClassVar[str] = "standing"
    sender: int = wired(Index())
    round_number: int = wired(Number())
    state: bytes = exactly(DIGEST_BYTES)


def most_request_bytes(limits: Limits) -> int:
    """The most bytes that any request to a node may have."""
    kinds: tuple[type[Message], ...] = (*FROM_AGGREGATOR, RoundOpening, EchoRequest, StudyClosing)
    return max(most_map_bytes(kind, limits) for kind in kinds)


def most_answer_bytes(limits: Limits) -> int:
    """The most bytes that a node's first answer in a round may have."""
    kinds: tuple[type[Message], ...] = (Advertise, Standing, Offer)
    return max(most_map_bytes(kind, limits) for kind in kinds)


def most_reply_bytes(roster_size: int, packed_bytes: int) -> int:
    """The most bytes that any answer of a node has.

    Args:
        roster_size: N.
        packed_bytes: the size of a packed vector.
    """
    limits = Limits(roster_size, packed_bytes)
    kinds: tuple[type[Message], ...] = (*FROM_NODE, Standing, Offer, Complaint)
    return max(most_map_bytes(kind, limits) for kind in kinds)


class Channel(Protocol):
    """Supplied by an engine."""

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        """Send each node its request and collect the answers until the stage's deadline.

        A node that is unreachable, late or refuses is simply not in the answers.
        """
        ...


ATTEMPTS_MAX: Final = 3
"""Rounds that a node joins on one state: repeated rounds with other survivors would single out one site."""
