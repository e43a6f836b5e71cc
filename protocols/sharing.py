"""Stage 1 and the first half of stage 2: the envelopes that one node seals to the others, and those that it opens.

Every envelope is sealed to one receiver, bound to session, sender, receiver and purpose, and signed separately by its
sender, because the aggregator passes envelopes on one by one. Only pair seeds are ever sealed to a mask key: the others
rebuild that key when its owner drops out, so it must open nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from crypto import shamir
from crypto.identity import Identity, PublicIdentity
from crypto.sealing import SealingError, SealingKey, SealingPublicKey
from protocols.derivations import (
    SEED_LABEL,
    SHARES_LABEL,
    SessionSecrets,
    commit_checksum,
    commit_pair_seed,
    commit_share,
    index_bytes,
    pair_seed,
)
from protocols.errors import BadSignature, FaultKind, MalformedMessage, NotCanonical, WrongCommitment, WrongSession
from protocols.messages import Advertise, Delivery, SeedEnvelope, ShareCommitments, SharesEnvelope
from protocols.wire import SignedMessage, canonical, fields_of, to_map

Envelope = SharesEnvelope | SeedEnvelope
Signable = TypeVar("Signable", bound=SignedMessage)


@dataclass(frozen=True, slots=True)
class ReceivedShares:
    """The shares of one dealer for one receiver."""

    mask_key: bytes = field(repr=False)
    """Share of m of the dealer."""
    self_mask: bytes = field(repr=False)
    """Share of b of the dealer."""
    checksum: bytes = field(repr=False)
    """z of the dealer."""

    def plaintext(self) -> bytes:
        return self.mask_key + self.self_mask + self.checksum


@dataclass(frozen=True, slots=True)
class Dealing:
    """Everything that a node creates in stage 1."""

    shares: tuple[SharesEnvelope, ...]
    seeds: tuple[SeedEnvelope, ...]
    own: ReceivedShares
    own_commitments: ShareCommitments
    pair_seeds: Mapping[int, bytes] = field(repr=False)
    """r_uv for every v after u in the cohort."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Everything that a node opens in stage 2."""

    shares: Mapping[int, ReceivedShares]
    pair_seeds: Mapping[int, bytes] = field(repr=False)
    """r_vu from every v before u."""


def sign(message: Signable, identity: Identity) -> Signable:
    """The message with this identity's signature over its body and type."""
    signature = identity.sign(message.TYPE, message.body())
    return type(message)(**{**fields_of(message), "signature": signature})


def deal(
    secrets: SessionSecrets,
    identity: Identity,
    index: int,
    session: bytes,
    quorum: int,
    cohort: Iterable[Advertise],
) -> Dealing:
    """Share m_u and b_u among the cohort, and seal a pair seed to everyone after u.

    Raises:
        MalformedMessage: sealing to a peer's public key fails; the error names the peer.
    """
    advertisements = {entry.sender: entry for entry in cohort}
    points = [1 + peer for peer in advertisements]
    mask_seed, checksum = secrets.mask_seed(), secrets.checksum_contribution()
    of_mask = shamir.share_secret(mask_seed, quorum, points, secrets.mask_sharing_key(session))
    of_self = shamir.share_secret(secrets.self_mask_seed(), quorum, points, secrets.self_mask_sharing_key(session))
    shares, seeds, pair_seeds = [], [], {}
    for peer, advertisement in advertisements.items():
        given = ReceivedShares(of_mask[1 + peer], of_self[1 + peer], checksum)
        commitments = _commitments(session, index, peer, given)
        if peer == index:
            own, own_commitments = given, commitments
            continue
        sealed = _seal(advertisement.channel_key, given.plaintext(), SHARES_LABEL, session, index, peer)
        shares.append(_signed(SharesEnvelope(index, peer, sealed, commitments, b""), identity, session))
        if peer > index:
            seed = pair_seed(mask_seed, session, index, peer)
            sealed = _seal(advertisement.mask_key, seed, SEED_LABEL, session, index, peer)
            commitment = commit_pair_seed(session, index, peer, seed)
            seeds.append(_signed(SeedEnvelope(index, peer, sealed, commitment, b""), identity, session))
            pair_seeds[peer] = seed
    return Dealing(tuple(shares), tuple(seeds), own, own_commitments, pair_seeds)


def check_keys(advertisement: Advertise) -> None:
    """Refuse bad public keys: try to seal something to each of them.

    Raises:
        MalformedMessage: the advertiser's fault.
    """
    for key in (advertisement.channel_key, advertisement.mask_key):
        _seal(key, b"", "trial", b"", advertisement.sender, advertisement.sender)


def check_addresses(message: Delivery, index: int, cohort: Mapping[int, Advertise]) -> tuple[int, ...]:
    """The senders of a delivery's envelopes: one shares envelope from each, and a seed envelope from each before
    `index`.

    Raises:
        NotCanonical, WrongSession: the aggregator delivered something else.
    """
    senders = tuple(envelope.sender for envelope in message.shares)
    if list(senders) != sorted(set(senders)):
        raise NotCanonical("envelopes not in roster order, one per sender", sender=None, field="shares")
    if index in senders or not set(senders) <= set(cohort):
        raise WrongSession("an envelope from outside the cohort", sender=None, field="shares")
    if [envelope.sender for envelope in message.seeds] != [sender for sender in senders if sender < index]:
        raise WrongSession("pair seeds whose senders are not the sharers before this node", sender=None, field="seeds")
    receivers = [envelope.receiver for envelope in message.shares] + [envelope.receiver for envelope in message.seeds]
    if any(receiver != index for receiver in receivers):
        raise WrongSession("an envelope for somebody else", sender=None, field="receiver")
    return senders


def open_delivery(
    message: Delivery,
    *,
    channel_key: SealingKey,
    mask_key: SealingKey,
    cohort: Mapping[int, Advertise],
    roster: tuple[PublicIdentity, ...],
) -> Opened:
    """Open everything in a delivery and check it against its senders' commitments.

    Raises:
        BadSignature: the aggregator's fault: it delivered something that the sender did not sign.
        WrongCommitment, MalformedMessage: the sender's provable fault; the error names it.
    """
    session = message.session
    shares, pair_seeds = {}, {}
    for envelope in message.shares:
        _check_signature(envelope, session, roster)
        shares[envelope.sender] = _open_shares(envelope, session, channel_key, cohort[envelope.sender])
    for seed_envelope in message.seeds:
        _check_signature(seed_envelope, session, roster)
        pair_seeds[seed_envelope.sender] = open_seed(seed_envelope, session, mask_key)
    return Opened(shares, pair_seeds)


def open_seed(envelope: SeedEnvelope, session: bytes, mask_key: SealingKey) -> bytes:
    """The pair seed in an envelope. The receiver's mask key opens it, or the aggregator's rebuilt copy of that key.

    Raises:
        MalformedMessage: it does not open.
        WrongCommitment: its content differs from its sender's commitment.
    """
    sender, receiver = envelope.sender, envelope.receiver
    try:
        seed = mask_key.open(envelope.sealed, SEED_LABEL, *_binding(session, sender, receiver))
    except SealingError as error:
        raise MalformedMessage("a pair seed that does not open", sender=sender, kind=FaultKind.ENVELOPE) from error
    if commit_pair_seed(session, sender, receiver, seed) != envelope.commitment:
        raise WrongCommitment("a pair seed other than the committed one", sender=sender, kind=FaultKind.PAIR_SEED)
    return seed


def verify_envelope(envelope: Envelope, session: bytes, roster: tuple[PublicIdentity, ...]) -> bool:
    """Whether the envelope's sender signed exactly this envelope in this session."""
    label, body = _signing_content(envelope)
    return roster[envelope.sender].verifies(envelope.signature, label, session, body)


def _open_shares(
    envelope: SharesEnvelope, session: bytes, channel_key: SealingKey, advertisement: Advertise
) -> ReceivedShares:
    sender, receiver = envelope.sender, envelope.receiver
    try:
        plaintext = channel_key.open(envelope.sealed, SHARES_LABEL, *_binding(session, sender, receiver))
    except SealingError as error:
        raise MalformedMessage("an envelope that does not open", sender=sender, kind=FaultKind.ENVELOPE) from error
    size = shamir.SHARE_BYTES
    given = ReceivedShares(plaintext[:size], plaintext[size : 2 * size], plaintext[2 * size :])
    try:
        shamir.parse_share(given.mask_key)
        shamir.parse_share(given.self_mask)
    except ValueError as error:
        raise MalformedMessage(
            "a share that is not an element of the field", sender=sender, kind=FaultKind.SHARE_RANGE
        ) from error
    if _commitments(session, sender, receiver, given) != envelope.commitments:
        raise WrongCommitment("a share other than the committed one", sender=sender, kind=FaultKind.SHARE)
    if commit_checksum(sender, given.checksum) != advertisement.checksum_commitment:
        raise WrongCommitment(
            "a checksum contribution other than the committed one", sender=sender, kind=FaultKind.CHECKSUM
        )
    return given


def _commitments(session: bytes, dealer: int, receiver: int, given: ReceivedShares) -> ShareCommitments:
    return ShareCommitments(
        self_mask=commit_share("self-mask", session, dealer, receiver, given.self_mask),
        mask_key=commit_share("mask-key", session, dealer, receiver, given.mask_key),
    )


def _seal(public_key: bytes, plaintext: bytes, label: str, session: bytes, sender: int, receiver: int) -> bytes:
    try:
        return SealingPublicKey(public_key).seal(plaintext, label, *_binding(session, sender, receiver))
    except SealingError as error:
        raise MalformedMessage("a public key that cannot be sealed to", sender=receiver, kind=FaultKind.KEY) from error


def _binding(session: bytes, sender: int, receiver: int) -> tuple[bytes, bytes, bytes]:
    return session, index_bytes(sender), index_bytes(receiver)


AnyEnvelope = TypeVar("AnyEnvelope", SharesEnvelope, SeedEnvelope)


def _signed(envelope: AnyEnvelope, identity: Identity, session: bytes) -> AnyEnvelope:
    label, body = _signing_content(envelope)
    signature = identity.sign(label, session, body)
    return type(envelope)(**{**fields_of(envelope), "signature": signature})


def _signing_content(envelope: Envelope) -> tuple[str, bytes]:
    fields = to_map(envelope)
    del fields["signature"]
    return (SHARES_LABEL if isinstance(envelope, SharesEnvelope) else SEED_LABEL), canonical(fields)


def _check_signature(envelope: Envelope, session: bytes, roster: tuple[PublicIdentity, ...]) -> None:
    if not verify_envelope(envelope, session, roster):
        raise BadSignature(f"an envelope that node {envelope.sender} did not sign", sender=None)
