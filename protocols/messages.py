"""Every message of a round: one frozen dataclass each, in the order in which they travel.

    stage            node -> aggregator     aggregator -> node
    0 Advertise      Advertise              Opening
    1 Share          Share                  Cohort (U1)
    2 Masked input   MaskedInput            Delivery (U2)
    3 Agree          Agree                  Survivors (U3)
    4 Unmask         Unmask                 Agreement
    5 Close          Close                  Published

A node signs each message over its body, the message type, and the session (in stage 0 the context, because there is no
session yet). Sizes depend only on the roster and the vector's shape, never on data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from crypto import sealing, shamir
from crypto.kdf import DIGEST_BYTES
from protocols.checksum import TAG_BYTES
from protocols.wire import (
    Index,
    IndexSet,
    Message,
    Number,
    Octets,
    Record,
    Sequence,
    SignedMessage,
    Struct,
    exactly,
    signature_field,
    wired,
)

SHARES_BYTES = 2 * shamir.SHARE_BYTES + 32
"""Plaintext of a shares envelope: share of m_u, share of b_u, z_u."""
SEALED_SHARES_BYTES = SHARES_BYTES + sealing.OVERHEAD_BYTES
SEALED_SEED_BYTES = 32 + sealing.OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Opening(Message):
    """Aggregator: a round begins. The node recomputes every value and refuses any difference."""

    TYPE: ClassVar[str] = "opening"
    version: int = wired(Number())
    """The protocol's version: parties of different versions would add masks that do not cancel."""
    study: bytes = exactly(DIGEST_BYTES)
    round_number: int = wired(Number())
    predecessor: bytes = exactly(DIGEST_BYTES)
    base_model: bytes = exactly(DIGEST_BYTES)
    state: bytes = exactly(DIGEST_BYTES)
    dimension: int = wired(Number())
    ring_bits: int = wired(Number())


@dataclass(frozen=True, slots=True)
class Advertise(SignedMessage):
    """Node u: this session's public keys and commitments."""

    TYPE: ClassVar[str] = "advertise"
    context: bytes = exactly(DIGEST_BYTES)
    """Digest of everything the round is bound to."""
    sender: int = wired(Index())
    channel_key: bytes = exactly(sealing.PUBLIC_KEY_BYTES)
    """Receives shares. Its private half is never shared."""
    mask_key: bytes = exactly(sealing.PUBLIC_KEY_BYTES)
    """Receives only pair seeds. The others rebuild its private half if u drops out."""
    self_mask_commitment: bytes = exactly(DIGEST_BYTES)
    checksum_commitment: bytes = exactly(DIGEST_BYTES)
    ledger_sequence: int = wired(Number())
    """The number of entries in u's ledger: peers refuse a smaller one than they have seen."""
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Cohort(Message):
    """Aggregator: U1, as the Advertise messages themselves."""

    TYPE: ClassVar[str] = "cohort"
    advertisements: tuple[Advertise, ...] = wired(Sequence(Struct(Advertise)))


@dataclass(frozen=True, slots=True)
class ShareCommitments(Record):
    """A dealer's commitments to the two shares of one receiver. They expose anybody who later shows another share."""

    self_mask: bytes = exactly(DIGEST_BYTES)
    mask_key: bytes = exactly(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class SharesEnvelope(Record):
    """From u to v's channel key: v's share of m_u and of b_u, and z_u. Signed by u on its own."""

    sender: int = wired(Index())
    receiver: int = wired(Index())
    sealed: bytes = exactly(SEALED_SHARES_BYTES)
    commitments: ShareCommitments = wired(Struct(ShareCommitments))
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class SeedEnvelope(Record):
    """From u to v's mask key, v after u in the roster: the pair seed r_uv. Signed by u on its own."""

    sender: int = wired(Index())
    receiver: int = wired(Index())
    sealed: bytes = exactly(SEALED_SEED_BYTES)
    commitment: bytes = exactly(DIGEST_BYTES)
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Share(SignedMessage):
    """Node u: everything it seals to the others, and the commitments to the shares it keeps itself."""

    TYPE: ClassVar[str] = "share"
    session: bytes = exactly(DIGEST_BYTES)
    sender: int = wired(Index())
    shares: tuple[SharesEnvelope, ...] = wired(Sequence(Struct(SharesEnvelope)))
    seeds: tuple[SeedEnvelope, ...] = wired(Sequence(Struct(SeedEnvelope)))
    own: ShareCommitments = wired(Struct(ShareCommitments))
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Delivery(Message):
    """Aggregator to v: the envelopes addressed to v. Their senders, with v, are U2."""

    TYPE: ClassVar[str] = "delivery"
    session: bytes = exactly(DIGEST_BYTES)
    shares: tuple[SharesEnvelope, ...] = wired(Sequence(Struct(SharesEnvelope)))
    seeds: tuple[SeedEnvelope, ...] = wired(Sequence(Struct(SeedEnvelope)))


@dataclass(frozen=True, slots=True)
class MaskedInput(SignedMessage):
    """Node u: x_u and its tag, under a self mask and pair masks; the vector is packed to exactly b bits per element."""

    TYPE: ClassVar[str] = "masked-input"
    session: bytes = exactly(DIGEST_BYTES)
    sender: int = wired(Index())
    vector: bytes = wired(Octets(lambda limits: limits.packed_bytes))
    tag: bytes = exactly(TAG_BYTES)
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Survivors(Message):
    """Aggregator: U3, the nodes whose masked input arrived."""

    TYPE: ClassVar[str] = "survivors"
    session: bytes = exactly(DIGEST_BYTES)
    survivors: tuple[int, ...] = wired(IndexSet())


@dataclass(frozen=True, slots=True)
class Agree(SignedMessage):
    """Node u: the sets that the aggregator showed to it. One per round number."""

    TYPE: ClassVar[str] = "agree"
    session: bytes = exactly(DIGEST_BYTES)
    sender: int = wired(Index())
    sharers: tuple[int, ...] = wired(IndexSet())
    survivors: tuple[int, ...] = wired(IndexSet())
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Signature(Record):
    """One node's signature, passed on by the aggregator."""

    signer: int = wired(Index())
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Agreement(Message):
    """Aggregator: at least t signatures over exactly the sets that the receiver signed itself."""

    TYPE: ClassVar[str] = "agreement"
    session: bytes = exactly(DIGEST_BYTES)
    signatures: tuple[Signature, ...] = wired(Sequence(Struct(Signature)))


@dataclass(frozen=True, slots=True)
class ReleasedShare(Record):
    """One share of `owner`'s secret."""

    owner: int = wired(Index())
    share: bytes = exactly(shamir.SHARE_BYTES)


@dataclass(frozen=True, slots=True)
class Unmask(SignedMessage):
    """Node u: a share of b_v for every survivor v, a share of m_v for every other sharer. Never both, never twice."""

    TYPE: ClassVar[str] = "unmask"
    session: bytes = exactly(DIGEST_BYTES)
    sender: int = wired(Index())
    self_mask_shares: tuple[ReleasedShare, ...] = wired(Sequence(Struct(ReleasedShare)))
    mask_key_shares: tuple[ReleasedShare, ...] = wired(Sequence(Struct(ReleasedShare)))
    signature: bytes = signature_field()


@dataclass(frozen=True, slots=True)
class Published(Message):
    """Aggregator: the sum over U3, packed like a masked input, and the sum of its tags."""

    TYPE: ClassVar[str] = "published"
    session: bytes = exactly(DIGEST_BYTES)
    vector: bytes = wired(Octets(lambda limits: limits.packed_bytes))
    tag: bytes = exactly(TAG_BYTES)


@dataclass(frozen=True, slots=True)
class Close(Message):
    """Node u: its signature over the round's statement (see `protocols.receipts`)."""

    TYPE: ClassVar[str] = "close"
    session: bytes = exactly(DIGEST_BYTES)
    sender: int = wired(Index())
    statement: bytes = exactly(DIGEST_BYTES)
    signature: bytes = signature_field()


FROM_NODE: tuple[type[Message], ...] = (Advertise, Share, MaskedInput, Agree, Unmask, Close)
FROM_AGGREGATOR: tuple[type[Message], ...] = (Opening, Cohort, Delivery, Survivors, Agreement, Published)
