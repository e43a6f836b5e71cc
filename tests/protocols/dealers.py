"""Dishonest dealers: one node deals wrongly, and everybody around it is honest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from crypto import shamir
from crypto.kdf import digest
from protocols import derivations, sharing
from protocols.messages import ShareCommitments


@contextmanager
def dealing(node: int, target: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """While node `node` deals, `target.name` is replaced: a dishonest dealer, with honest ones around it."""
    honest = sharing.deal

    def deal(secrets: Any, identity: Any, index: int, *rest: Any) -> Any:
        if index != node:
            return honest(secrets, identity, index, *rest)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(target, name, replacement)
            return honest(secrets, identity, index, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharing, "deal", deal)
        yield


def other_share(share: bytes) -> bytes:
    return ((int.from_bytes(share, "big") + 1) % shamir.PRIME).to_bytes(33, "big")


def bent_sharing(*receivers: int) -> Callable[..., dict[int, bytes]]:
    """A sharing whose shares for these receivers lie on no polynomial with the others."""
    honest = shamir.share_secret

    def share_secret(*arguments: Any) -> dict[int, bytes]:
        shares = honest(*arguments)
        return {point: other_share(share) if point - 1 in receivers else share for point, share in shares.items()}

    return share_secret


def sharing_of_another_secret() -> Callable[..., dict[int, bytes]]:
    honest = shamir.share_secret
    return lambda secret, *rest: honest(digest("another secret", secret), *rest)


def miscommit(receiver: int) -> Callable[..., ShareCommitments]:
    honest = sharing._commitments

    def commitments(session: bytes, dealer: int, peer: int, given: Any) -> ShareCommitments:
        made = honest(session, dealer, peer, given)
        return ShareCommitments(bytes(32), made.mask_key) if peer == receiver else made

    return commitments


def other_seed(receiver: int) -> Callable[..., bytes]:
    honest = derivations.pair_seed

    def pair_seed(mask_seed: bytes, session: bytes, sender: int, peer: int) -> bytes:
        made = honest(mask_seed, session, sender, peer)
        return digest("another seed", made) if peer == receiver else made

    return pair_seed


def other_sealed_seed(receiver: int) -> Callable[..., bytes]:
    honest = sharing._seal

    def seal(key: bytes, plaintext: bytes, label: str, session: bytes, sender: int, peer: int) -> bytes:
        if (peer, label) == (receiver, derivations.SEED_LABEL):
            plaintext = digest("another seed", plaintext)
        return honest(key, plaintext, label, session, sender, peer)

    return seal


def other_sealed_share(receiver: int) -> Callable[..., bytes]:
    """Commits to the right shares, and seals another share of its mask seed to this receiver."""
    honest = sharing._seal

    def seal(key: bytes, plaintext: bytes, label: str, session: bytes, sender: int, peer: int) -> bytes:
        if (peer, label) == (receiver, derivations.SHARES_LABEL):
            plaintext = other_share(plaintext[: shamir.SHARE_BYTES]) + plaintext[shamir.SHARE_BYTES :]
        return honest(key, plaintext, label, session, sender, peer)

    return seal
