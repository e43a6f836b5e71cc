"""How nodes report one another's faults, and why a report has no effect except that people see it.

A node that finds a fault of a peer leaves the session, and names the peer and the fault in a signed `Complaint`. The
accused has signed everything that a complaint rests on, over this very session, so an honest node never accuses an
honest one. But a complaint proves nothing to anybody else: the complainer would have to show the share or the key that
it holds. And for what the aggregator finds there is only its word. So these are *claims*. Every owner sees them, but no
node leaves out a peer, or changes a threshold or a session, because of a claim: otherwise an untrusted aggregator, or
one colluder, could have honest nodes excluded one by one.

A complaint holds indices and a code from a closed list: nothing that depends on patient data, and no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from crypto.identity import Identity, PublicIdentity
from crypto.kdf import DIGEST_BYTES
from protocols import sharing
from protocols.errors import FaultKind, ProtocolError, RemoteError
from protocols.wire import Index, Number, Record, Sequence, SignedMessage, Struct, exactly, signature_field, wired

_KIND_MOST = max(FaultKind)
NODE_KINDS = frozenset(kind for kind in FaultKind if kind <= FaultKind.PAIR_SEED)
"""The faults of a peer that a node can find. It finds each of them before it has trained."""


@dataclass(frozen=True, slots=True)
class Complaint(SignedMessage):
    """Node u, in place of its answer: it leaves this round because of a fault of `accused`."""

    TYPE: ClassVar[str] = "complaint"
    study: bytes = exactly(DIGEST_BYTES)
    round_number: int = wired(Number())
    """With the study, this names one session: a node joins each round number once."""
    sender: int = wired(Index())
    accused: int = wired(Index())
    kind: int = wired(Number(_KIND_MOST))
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """The aggregator's claim about a node. Nobody signs it."""

    round_number: int = wired(Number())
    accused: int = wired(Index())
    kind: int = wired(Number(_KIND_MOST))


@dataclass(frozen=True, slots=True)
class Faults(Record):
    """Claims about earlier rounds, from the coordinator to every node: at most N of either sort, in any order."""

    complaints: tuple[Complaint, ...] = wired(Sequence(Struct(Complaint)))
    findings: tuple[Finding, ...] = wired(Sequence(Struct(Finding)))


NO_FAULTS = Faults((), ())


def complain(error: ProtocolError, study: bytes, round_number: int, index: int, identity: Identity) -> Complaint | None:
    """The complaint about the fault in an error; None unless it is a peer's fault that this node found.

    The node sends no complaint about faults of the aggregator, its own or the ledger's.
    """
    if not isinstance(error, RemoteError) or error.sender is None or error.sender == index:
        return None
    if error.kind not in NODE_KINDS:
        return None
    return sharing.sign(Complaint(study, round_number, index, error.sender, int(error.kind), b""), identity)


def is_valid(complaint: Complaint, study: bytes, roster: tuple[PublicIdentity, ...]) -> bool:
    """Whether its sender really signed this, about a peer and a round of this study, and could have found the fault."""
    return (
        complaint.study == study
        and complaint.accused != complaint.sender
        and complaint.kind in NODE_KINDS
        and roster[complaint.sender].verifies(complaint.signature, Complaint.TYPE, complaint.body())
    )
