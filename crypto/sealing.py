"""Hybrid post-quantum sealing: HPKE (RFC 9180) with ML-KEM-768 and X25519 together.

A sealed message stays secret while either ML-KEM-768 (FIPS 203) or X25519 holds, so a later quantum computer cannot
open traffic recorded today. Suite: KEM MLKEM768_X25519, HKDF-SHA-256, AES-256-GCM, base mode, one message per
encapsulation, from the `cryptography` package. Its one-shot call takes no associated data, so everything to which a
message is bound goes into `info`. HPKE's base mode does not authenticate the sender: senders sign (see
`protocols.messages`).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from crypto.kdf import derive, encode_parts

SEED_BYTES = 32
_MLKEM_SEED_BYTES = 64
_MLKEM_PUBLIC_BYTES = 1184
_X25519_BYTES = 32
PUBLIC_KEY_BYTES = _MLKEM_PUBLIC_BYTES + _X25519_BYTES
ENCAPSULATED_BYTES = 1088 + _X25519_BYTES
TAG_BYTES = 16
OVERHEAD_BYTES = ENCAPSULATED_BYTES + TAG_BYTES
"""A sealed message is this much longer than its plaintext."""

_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class SealingError(Exception):
    """Sealing to a key fails, or a sealed message does not open. It does not say why."""


class SealingPublicKey:
    """A recipient's public key: 1184 bytes of ML-KEM-768, then 32 bytes of X25519."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        """Raises SealingError when the bytes are not such a key (FIPS 203, section 7.2: modulus check included)."""
        if len(raw) != PUBLIC_KEY_BYTES:
            raise SealingError(f"a sealing key has {PUBLIC_KEY_BYTES} bytes, not {len(raw)}")
        try:
            mlkem = MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_BYTES])
            x25519 = X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC_BYTES:])
        except ValueError as error:
            raise SealingError("not a valid ML-KEM-768 and X25519 public key") from error
        self.raw = bytes(raw)
        self._key = MLKEM768X25519PublicKey(mlkem, x25519)

    def seal(self, plaintext: bytes, label: str, *binding: bytes) -> bytes:
        """Seal `plaintext` to this key, bound to a label and byte strings. Adds `OVERHEAD_BYTES`.

        Raises:
            SealingError: sealing to this key is impossible, for example an X25519 point of small order. The party that
                published the key is at fault.
        """
        try:
            return _SUITE.encrypt(plaintext, self._key, info=encode_parts(label, *binding))
        except ValueError as error:
            raise SealingError("this public key cannot be sealed to") from error


class SealingKey:
    """A key pair derived from one 32-byte seed; the holder of the seed can open everything sealed to the pair."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes | bytearray) -> None:
        """Raises ValueError when the seed is not 32 bytes."""
        mlkem = MLKEM768PrivateKey.from_seed_bytes(derive(seed, "sealing ML-KEM-768", length=_MLKEM_SEED_BYTES))
        x25519 = X25519PrivateKey.from_private_bytes(derive(seed, "sealing X25519"))
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = SealingPublicKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())

    def open(self, sealed: bytes, label: str, *binding: bytes) -> bytes:
        """Open a message that was sealed to this key with exactly this label and binding.

        Raises:
            SealingError: anything is wrong. The error gives no reason, because a reason would help only an attacker.
        """
        try:
            return _SUITE.decrypt(sealed, self._key, info=encode_parts(label, *binding))
        except (InvalidTag, ValueError) as error:
            raise SealingError("the sealed message does not open") from error

    def __reduce__(self) -> str:
        raise TypeError("a sealing key is never pickled or copied")
