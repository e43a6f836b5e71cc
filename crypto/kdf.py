"""The only place that derives keys from keys, and gives digests their domain.

`derive` is HKDF-SHA-256 (RFC 5869); `digest` is SHA-256 (FIPS 180-4). Both hash a label and the length of every part
with the parts, so that two uses, or two ways to split the same bytes into parts, never hash the same input.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
DIGEST_BYTES = 32
_DOMAIN = b"secfed/v1"


def encode_parts(label: str, *parts: bytes) -> bytes:
    """An injective encoding of a label and any number of byte strings.

    Layout: domain, then for the label and every part its length as eight bytes, big-endian, and its bytes.
    """
    encoded = bytearray(_DOMAIN)
    for part in (label.encode(), *parts):
        encoded += len(part).to_bytes(8, "big")
        encoded += part
    return bytes(encoded)


def digest(label: str, *parts: bytes) -> bytes:
    """H(label, parts): SHA-256 over `encode_parts`, 32 bytes."""
    return hashlib.sha256(encode_parts(label, *parts)).digest()


def derive(key: bytes | bytearray, label: str, *context: bytes, length: int = KEY_BYTES) -> bytes:
    """Derive `length` bytes from a uniformly random 32-byte `key` for exactly one purpose.

    The purpose is the label together with the context; it goes into HKDF's `info`. There is no salt, because the input
    keys are already uniform (RFC 5869, section 3.1).

    Raises:
        ValueError: the key is not 32 bytes, or the length is outside 1 to 8160 (the limit of HKDF-SHA-256).
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
    if not 1 <= length <= 255 * 32:
        raise ValueError(f"HKDF-SHA-256 gives 1 to 8160 bytes, not {length}")
    info = encode_parts(label, *context)
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(key)
