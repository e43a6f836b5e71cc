"""Long-term Ed25519 identity keys (RFC 8032) and signatures bound to a domain.

An identity signs only `encode_parts(label, ...)`, so nobody can pass off a signature of one kind of message as that of
another. Public keys are pinned in the study, out of band; nothing in a round can introduce one.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crypto.kdf import encode_parts
from crypto.randomness import Entropy, system_entropy

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


class PublicIdentity:
    """An organisation's Ed25519 public key: 32 bytes."""

    __slots__ = ("_key", "raw")

    def __init__(self, raw: bytes) -> None:
        """Raises ValueError when `raw` is not 32 bytes."""
        if len(raw) != PUBLIC_KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, not {len(raw)}")
        self.raw = bytes(raw)
        self._key = Ed25519PublicKey.from_public_bytes(self.raw)

    def verifies(self, signature: bytes, label: str, *parts: bytes) -> bool:
        """Whether `signature` is this identity's over exactly this label and these parts."""
        try:
            self._key.verify(signature, encode_parts(label, *parts))
        except InvalidSignature:
            return False
        return True

    def fingerprint(self) -> str:
        """The first 160 bits of the key's SHA-256, in groups of four hexadecimal digits, to read out over the phone."""
        digits = hashlib.sha256(self.raw).hexdigest()[:40]
        return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicIdentity) and other.raw == self.raw

    def __hash__(self) -> int:
        return hash(self.raw)

    def __repr__(self) -> str:
        return f"PublicIdentity({self.raw.hex()})"


class Identity:
    """An organisation's private signing key, derived from a 32-byte seed. It is never printed, pickled or sent."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Raises ValueError when the seed is not 32 bytes."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicIdentity(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, entropy: Entropy = system_entropy) -> Identity:
        return cls(entropy(SEED_BYTES))

    def sign(self, label: str, *parts: bytes) -> bytes:
        """A 64-byte signature over exactly this label and these parts."""
        return self._key.sign(encode_parts(label, *parts))

    def seed(self) -> bytes:
        """The 32-byte seed. Use it only to write the key file (mode 0600)."""
        return self._key.private_bytes_raw()

    def __reduce__(self) -> str:
        raise TypeError("an identity key is never pickled or copied")

    def __repr__(self) -> str:
        return f"Identity(public={self.public.raw.hex()})"
