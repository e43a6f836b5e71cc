"""All errors of the protocol. The class says who is at fault; the text says what happened and what to do.

On any of these a node leaves the session (it becomes a dropout) and tells its owner. It reports a peer's fault to
everybody, but only by its `FaultKind` (`protocols.complaints`). Texts contain indices, field names and sizes, never a
value that came from patient data or from a secret.
"""

from __future__ import annotations

import enum


class FaultKind(enum.IntEnum):
    """Faults that no honest node commits. Messages carry the numbers, so a number is never reused for another fault.

    The node that opens another's envelopes finds the first ones; only the aggregator finds the others.
    """

    KEY = 0
    """Advertised a public key to which nobody can seal."""
    LEDGER = 1
    """Showed a ledger shorter than it was before."""
    ENVELOPE = 2
    """Sealed an envelope that does not open."""
    SHARE = 3
    """Dealt a share that differs from the committed one."""
    SHARE_RANGE = 4
    """Dealt something that is not an element of the field."""
    CHECKSUM = 5
    """Sealed a checksum contribution that differs from the committed one."""
    PAIR_SEED = 6
    """Sealed a pair seed that differs from the committed one."""
    RELEASED_SHARE = 7
    """Released a share that differs from the one it was dealt."""
    SECRET = 8
    """Dealt shares that do not give the secret it committed to."""
    DERIVATION = 9
    """Sealed a pair seed that does not follow from its mask seed."""
    SIGNATURE = 10
    """Sent an answer with a wrong signature."""
    MALFORMED = 11
    """Sent an answer that is not well-formed."""
    MISPLACED = 12
    """Sent an answer that belongs to another session, stage or set."""


class ProtocolError(Exception):
    """Base of everything that can go wrong in a session."""


class LocalError(ProtocolError):
    """Our own code made a wrong call, or our own input does not fit. Nothing was sent."""


class ParameterError(LocalError):
    """The numbers of a study or round do not fit together; the text says which ones would."""


class RemoteError(ProtocolError):
    """Another party sent something that no honest party sends.

    Attributes:
        sender: roster index of the node at fault, or None for the aggregator.
        field: the message field that is wrong, or None when it is the message as a whole.
        kind: the fault of a node, if it is more specific than the class.
        untraceable: the aggregator sent it, but one of the survivors may have caused it. Inputs are hidden, so nobody
            can tell.
    """

    def __init__(
        self,
        reason: str,
        *,
        sender: int | None,
        field: str | None = None,
        kind: FaultKind | None = None,
        untraceable: bool = False,
    ) -> None:
        self.sender = sender
        self.field = field
        self.kind = kind
        self.untraceable = untraceable
        who = "the aggregator" if sender is None else f"node {sender}"
        who += " or one of the survivors" if untraceable else ""
        where = "" if field is None else f" (field {field})"
        super().__init__(f"{who}: {reason}{where}")


class MalformedMessage(RemoteError):
    """The bytes are not a well-formed message of the expected kind."""


class OversizedMessage(MalformedMessage):
    """More bytes than any well-formed message of this session has. They were not parsed."""


class NotCanonical(MalformedMessage):
    """Not the canonical encoding: a trailing byte, a duplicate or unsorted key, a longer form than needed."""


class UnknownField(MalformedMessage):
    """A field that the message does not have."""


class MissingField(MalformedMessage):
    """A required field is missing."""


class WrongType(MalformedMessage):
    """A field of the wrong type."""


class WrongLength(MalformedMessage):
    """A field longer or shorter, or a number larger, than the session allows."""


class BadSignature(RemoteError):
    """A signature that is not the sender's over these bytes in this session."""


class WrongSession(RemoteError):
    """Right in form, but made for another study, model, round or cohort."""


class CohortTooSmall(RemoteError):
    """Fewer nodes than the quorum, the study's minimum or this site's minimum. The round ends."""


class Equivocation(RemoteError):
    """A second, different message where only one may exist. Fatal for the session."""


class Excluded(RemoteError):
    """This node is not among the announced survivors, although it sent its input."""


class WrongCommitment(RemoteError):
    """An opened value is not the one to which its owner committed."""


class WrongSum(RemoteError):
    """The published sum does not fit its tag: the aggregator changed it, or a survivor's upload did not fit its own
    tag."""


class OutOfOrder(RemoteError):
    """A message that does not belong to this state of the session."""


class RoundVoid(ProtocolError):
    """The round yields no sum. The model does not move; the privacy spend stays counted.

    Attributes:
        stage: the stage at which it ended.
        blamed: roster indices of the nodes that are provably at fault; empty when nodes were only absent.
        kind: which fault that is; None when nobody is blamed.
    """

    def __init__(
        self, stage: str, reason: str, blamed: frozenset[int] = frozenset(), kind: FaultKind | None = None
    ) -> None:
        self.stage = stage
        self.blamed = blamed
        self.kind = kind
        super().__init__(f"round void at {stage}: {reason}")
