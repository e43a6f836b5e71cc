"""How the coordinator reaches the nodes: it sends requests and collects answers. A node that is silent is absent.

Node and coordinator know nothing of transport; an engine supplies the `Channel`. There are a few messages around those
of the protocol, and they are parsed as strictly. An opening of a round brings receipts that a node may have missed, and
claims about dishonest nodes. A node answers where it stands if it is behind, or offers the round to which it is locked
if that has no receipt. A closing ends the study. A node that leaves a round because of a peer answers with a
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
    """The packed sum; empty if the node has it already."""


@dataclass(frozen=True, slots=True)
class RoundOpening(Message):
    """Coordinator: adopt these links, then take part in this round."""

    TYPE: ClassVar[str] = "round-opening"
    links: tuple[Link, ...] = wired(Sequence(Struct(Link), most=LINKS_MAX))
    opening: Opening = wired(Struct(Opening))
    faults: Faults = wired(Struct(Faults), NO_FAULTS)
    """What is claimed about earlier rounds. It affects only what nodes tell their owners."""


@dataclass(frozen=True, slots=True)
class Offer(Message):
    """Node: the last statement that I signed and have no receipt for, with the sum and my signature.

    The node is locked: it joins no round on an older predecessor. With enough offers the coordinator finishes the round
    of the statement.
    """

    TYPE: ClassVar[str] = "offer"
    sender: int = wired(Index())
    statement: Statement = wired(Struct(Statement))
    vector: bytes = wired(Octets(lambda limits: limits.packed_bytes))
    signature: bytes = exactly(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class EchoRequest(Message):
    """Coordinator: more than c survivors signed this statement. Sign it, too, although you did not see the sum in its
    round."""

    TYPE: ClassVar[str] = "echo-request"
    statement: Statement = wired(Struct(Statement))
    vector: bytes = wired(Octets(lambda limits: limits.packed_bytes))
    signatures: tuple[Signature, ...] = wired(Sequence(Struct(Signature)))


@dataclass(frozen=True, slots=True)
class StudyClosing(Message):
    """Coordinator: adopt these links. Sent after the last round, and to a node that is left out of a round."""

    TYPE: ClassVar[str] = "study-closing"
    links: tuple[Link, ...] = wired(Sequence(Struct(Link), most=LINKS_MAX))
    faults: Faults = wired(Struct(Faults), NO_FAULTS)
    """As in `RoundOpening`."""


@dataclass(frozen=True, slots=True)
class Standing(Message):
    """Node: this is the last receipt that I adopted. The answer of a node that is behind, and of every node at the
    end."""

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

        A node that is unreachable, late or refuses is missing from the answers.
        """
        ...


ATTEMPTS_MAX: Final = 3
"""Rounds that a node joins on one state: repeated rounds with different survivors would single out one site."""
