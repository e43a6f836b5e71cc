"""Symbolic cryptography: without the key, an attacker sees only a name in place of a seal, a signature or a mask.

The nodes' own code runs unchanged on top of it. A seal is a name that opens only with the right key and binding; a
signature is a name that only its signer's key makes; a mask is not added but recorded, so a masked input is `x`, its
tag, and a list of masks. Digests, derivations and shares do not change: they are injective and one-way for every
question here. This is the model of Dolev and Yao (1983): the attacker computes whatever the names it has allow, and
breaks no primitive.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias
from unittest.mock import patch

from crypto import sealing
from crypto.identity import Identity, PublicIdentity
from crypto.kdf import digest, encode_parts
from crypto.prg import RingVector
from crypto.sealing import SealingError, SealingKey, SealingPublicKey
from protocols.masking import MaskedSum

_Sealed = tuple[bytes, bytes, bytes]
"""Public key, binding, plaintext."""


Mask: TypeAlias = bytes | int
"""The name of a mask: for a stream, its key; for a tag's mask, the mask itself, a 61-bit number that only its key
gives."""
Masks: TypeAlias = tuple[tuple[Mask, int], ...]
"""The added masks, and how often: 1, or -1 where a mask was subtracted."""


class Streams:
    """The masks that the nodes have used, in the order of use, each with its sign."""

    def __init__(self) -> None:
        self._used: list[tuple[Mask, int]] = []

    def take(self) -> Masks:
        """The masks used since the last call."""
        used, self._used = tuple(self._used), []
        return used

    def note(self, mask: int, positive: bool) -> None:
        """Note a mask of a tag."""
        self._used.append((mask, 1 if positive else -1))

    def add(self, vector: RingVector, key: bytes) -> None:
        """Stands for `crypto.prg.add_stream`."""
        self._used.append((key, 1))

    def subtract(self, vector: RingVector, key: bytes) -> None:
        """Stands for `crypto.prg.subtract_stream`."""
        self._used.append((key, -1))


@contextmanager
def symbolic() -> Iterator[Streams]:
    """Inside the `with` block the nodes seal, sign and mask with symbols. Yields the masks that were used."""
    sealed: dict[bytes, _Sealed] = {}

    def new_public(key: SealingPublicKey, raw: bytes) -> None:
        if len(raw) != sealing.PUBLIC_KEY_BYTES:
            raise SealingError("not a public key")
        key.raw = raw

    def new_key(key: SealingKey, seed: bytes) -> None:
        key.public = SealingPublicKey(_stretched(digest("symbolic key", seed), sealing.PUBLIC_KEY_BYTES))

    def seal(key: SealingPublicKey, plaintext: bytes, label: str, *binding: bytes) -> bytes:
        content = (key.raw, encode_parts(label, *binding), plaintext)
        name = _stretched(digest("symbolic seal", *content), len(plaintext) + sealing.OVERHEAD_BYTES)
        sealed[name] = content
        return name

    def unseal(key: SealingKey, name: bytes, label: str, *binding: bytes) -> bytes:
        public, bound, plaintext = sealed.get(name, (b"", b"", b""))
        if public != key.public.raw or bound != encode_parts(label, *binding):
            raise SealingError("the sealed message does not open")
        return plaintext

    def sign(key: Identity, label: str, *parts: bytes) -> bytes:
        return _signature(key.public, label, *parts)

    def verifies(key: PublicIdentity, signature: bytes, label: str, *parts: bytes) -> bool:
        return hmac.compare_digest(signature, _signature(key, label, *parts))

    streams = Streams()
    really_shift = MaskedSum._shift_tag

    def shift(running: MaskedSum, mask: int, positive: bool) -> None:
        streams.note(mask, positive)
        really_shift(running, mask, positive)  # so that inputs under different masks have different bytes

    with ExitStack() as stack:
        for owner, name, stand_in in (
            (SealingPublicKey, "__init__", new_public),
            (SealingPublicKey, "seal", seal),
            (SealingKey, "__init__", new_key),
            (SealingKey, "open", unseal),
            (Identity, "sign", sign),
            (PublicIdentity, "verifies", verifies),
            (MaskedSum, "_shift_tag", shift),
        ):
            stack.enter_context(patch.object(owner, name, stand_in))
        stack.enter_context(patch("protocols.masking.add_stream", streams.add))
        stack.enter_context(patch("protocols.masking.subtract_stream", streams.subtract))
        yield streams


def _signature(key: PublicIdentity, label: str, *parts: bytes) -> bytes:
    return _stretched(digest("symbolic signature", key.raw, encode_parts(label, *parts)), 64)


def _stretched(name: bytes, length: int) -> bytes:
    return (name * (length // len(name) + 1))[:length]
