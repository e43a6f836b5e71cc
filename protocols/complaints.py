"""What nodes say about one another's faults, and why nothing follows from it but that people are told.

A node that finds a fault of a peer leaves the session, and says which fault of whom in a signed `Complaint`. Everything
a complaint rests on was signed by the accused over this very session, so that an honest node never accuses an honest
one. But to anybody else it proves nothing: the complainer would have to show the share or the key that it holds. And
what the aggregator finds, it only says. So these are *claims*. They are shown to every owner, and no node leaves out a
peer, changes a threshold or a session because of one: an untrusted aggregator, or one colluder, could otherwise have
honest nodes excluded one by one.

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
"""What a node can find at another. Each of them shows before the node has trained."""


@dataclass(frozen=True, slots=True)
class Complaint(SignedMessage):
    """Node u, in place of its answer: it leaves this round because of what `accused` did."""

    TYPE: ClassVar[str] = "complaint"
    study: bytes = exactly(DIGEST_BYTES)
    round_number: int = wired(Number())
    """With the study, this names one session: a node joins a round number once."""
    sender: int = wired(Index())
    accused: int = wired(Index())
    kind: int = wired(Number(_KIND_MOST))
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """The aggregator's word for what a node did. Nobody signs it."""

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
    """The complaint that an error gives cause for; None unless it is a peer's fault that this node found.

    What is the aggregator's fault, our own or the ledger's is answered with silence.
    """
    if not isinstance(error, RemoteError) or error.sender is None or error.sender == index:
        return None
    if error.kind not in NODE_KINDS:
        return None
    return sharing.sign(Complaint(study, round_number, index, error.sender, int(error.kind), b""), identity)


def is_valid(complaint: Complaint, study: bytes, roster: tuple[PublicIdentity, ...]) -> bool:
    """Whether its sender really said this, of a peer, about a round of this study, and could have found it."""
    return (
        complaint.study == study
        and complaint.accused != complaint.sender
        and complaint.kind in NODE_KINDS
        and roster[complaint.sender].verifies(complaint.signature, Complaint.TYPE, complaint.body())
    )
