"""The context to which a round is bound, and the session id that every key, seal and signature covers.

Every node recomputes `Context` from its own study, its own receipts and its own model. A node with another model,
roster, round or study derives other keys, cannot open the others' envelopes, and stops. The session id adds the cohort:
the signed Advertise bodies, in roster order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from crypto.identity import PublicIdentity
from crypto.kdf import digest
from protocols.errors import BadSignature, FaultKind, LocalError, NotCanonical, WrongSession
from protocols.messages import Advertise, Opening
from protocols.parameters import CohortRules, RoundShape
from protocols.wire import Limits, canonical, fields_of

VERSION = 2
"""The protocol's version. In version 1, masks were derived under the session alone, not under a node's view of it."""


@dataclass(frozen=True, slots=True)
class Context:
    """Everything on which both sides must agree before a round."""

    study: bytes
    """Digest of the signed study, and with it of the roster."""
    round_number: int
    predecessor: bytes
    """Digest of the receipt before; the study's digest before round 1."""
    base_model: bytes
    state: bytes
    """Digest of the adapter and of the optimiser's moments."""
    shape: RoundShape

    def digest(self) -> bytes:
        """32 bytes over the protocol's version and all fields, in this order."""
        return digest("context", canonical([VERSION, *self._values()]))

    def is_of_version_1(self, context: bytes) -> bool:
        """Whether this is the digest that version 1 made of the same context. Use it only to explain an error."""
        return context == digest("context", canonical(self._values()))

    def opening(self) -> Opening:
        """The header that announces this round."""
        return Opening(
            version=VERSION,
            study=self.study,
            round_number=self.round_number,
            predecessor=self.predecessor,
            base_model=self.base_model,
            state=self.state,
            dimension=self.shape.dimension,
            ring_bits=self.shape.ring_bits,
        )

    def check_opening(self, opening: Opening) -> None:
        """Refuse a header that differs from what this node computed itself.

        Raises:
            WrongSession: names the first field that differs.
        """
        for name, value in fields_of(self.opening()).items():
            if getattr(opening, name) != value:
                raise WrongSession("the round's header is not the one this node computed", sender=None, field=name)

    def _values(self) -> list[bytes | int]:
        return [
            self.study,
            self.round_number,
            self.predecessor,
            self.base_model,
            self.state,
            self.shape.dimension,
            self.shape.ring_bits,
        ]


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """A session's fixed numbers. Each party derives them for itself."""

    rules: CohortRules
    roster: tuple[PublicIdentity, ...]
    context: Context
    magnitude: int
    """The largest absolute value that a node may put into one element of its vector."""

    def __post_init__(self) -> None:
        if len(self.roster) != self.rules.roster_size:
            raise LocalError(f"a roster of {len(self.roster)}, but the rules say {self.rules.roster_size}")
        if len({identity.raw for identity in self.roster}) != len(self.roster):
            raise LocalError("two nodes of the roster have the same identity key")
        if not 1 <= self.magnitude * self.rules.roster_size < 1 << (self.context.shape.ring_bits - 1):
            raise LocalError("the ring does not hold the sum of the largest vectors: derive b from a certificate")

    @property
    def limits(self) -> Limits:
        return Limits(len(self.roster), self.context.shape.packed_bytes)


def session_id(context: bytes, advertisements: Iterable[Advertise]) -> bytes:
    """sid = H("session", context, the signed Advertise bodies in roster order).

    The id does not cover the signatures themselves: Ed25519 signatures of one body need not be unique, and two nodes
    that saw two valid signatures over the same body are in the same session.
    """
    return digest("session", context, *(advertisement.body() for advertisement in advertisements))


def check_cohort(
    config: SessionConfig, advertisements: tuple[Advertise, ...], last_ledger_sequences: Mapping[int, int]
) -> None:
    """Check everything except the size of a U1 that the aggregator shows: order, keys, signatures, context, ledger
    numbers.

    Raises:
        NotCanonical, WrongSession, BadSignature: the aggregator's fault.
        WrongSession: the error names the node whose ledger is shorter than before.
    """
    senders = [entry.sender for entry in advertisements]
    if senders != sorted(set(senders)):
        raise NotCanonical("advertisements not in roster order, each once", sender=None, field="advertisements")
    keys = [key for entry in advertisements for key in (entry.channel_key, entry.mask_key)]
    if len(set(keys)) != len(keys):
        raise WrongSession("two public keys of the cohort are the same", sender=None, field="advertisements")
    context = config.context.digest()
    for entry in advertisements:
        if entry.context != context:
            raise WrongSession("an advertisement for another round", sender=None, field="context")
        if not config.roster[entry.sender].verifies(entry.signature, Advertise.TYPE, entry.body()):
            raise BadSignature(f"an advertisement that node {entry.sender} did not sign", sender=None)
        if entry.ledger_sequence < last_ledger_sequences.get(entry.sender, 0):
            raise WrongSession(
                "its ledger is shorter than it was: restored from a backup?",
                sender=entry.sender,
                field="ledger_sequence",
                kind=FaultKind.LEDGER,
            )
