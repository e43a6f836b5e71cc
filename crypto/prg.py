"""Mask streams: AES-256-CTR (SP 800-38A) added into, or subtracted from, a ring vector in place.

A ring vector is a numpy array of uint32 (rings up to 2^32) or uint64 (rings up to 2^60). Arithmetic wraps at the
array's own width; the ring's 2^b divides it, so cutting each element to its low b bits at the end gives the sum modulo
2^b, and the low b bits of a uniform word are uniform in the ring.

One key is one stream: the counter starts at zero because no key is ever used twice. The stream is generated and added
in chunks that stay in the processor's cache; the result is the same, bit for bit, for any chunk size.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

KEY_BYTES = 32
CHUNK_BYTES = 1 << 16
_BLOCK_BYTES = 16
_LITTLE_ENDIAN: dict[Any, np.dtype[Any]] = {np.dtype(np.uint32): np.dtype("<u4"), np.dtype(np.uint64): np.dtype("<u8")}

RingVector: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]


def add_stream(vector: RingVector, key: bytes, *, chunk_bytes: int = CHUNK_BYTES) -> None:
    """vector += PRG(key), in place, modulo 2^32 or 2^64.

    Args:
        vector: contiguous one-dimensional uint32 or uint64.
        key: 32 bytes, used for this stream only.
        chunk_bytes: how much of the stream exists at a time; a multiple of 8. It does not change the result.

    Raises:
        ValueError: the vector, the key or the chunk is not as described.
    """
    _apply(np.add, vector, key, chunk_bytes)


def subtract_stream(vector: RingVector, key: bytes, *, chunk_bytes: int = CHUNK_BYTES) -> None:
    """vector -= PRG(key), in place. The inverse of `add_stream`; see there."""
    _apply(np.subtract, vector, key, chunk_bytes)


def keystream(key: bytes) -> CipherContext:
    """The raw AES-256-CTR stream of a key, from counter zero: `update(zeros)` gives its next bytes."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a stream key has {KEY_BYTES} bytes, not {len(key)}")
    return Cipher(AES256(key), CTR(bytes(_BLOCK_BYTES))).encryptor()


def _apply(operation: Any, vector: RingVector, key: bytes, chunk_bytes: int) -> None:
    little_endian = _LITTLE_ENDIAN.get(vector.dtype)
    if little_endian is None or vector.ndim != 1 or not vector.flags.c_contiguous:
        raise ValueError("a ring vector is a contiguous one-dimensional array of uint32 or uint64")
    if chunk_bytes < 8 or chunk_bytes % 8:
        raise ValueError(f"a chunk is a positive multiple of 8 bytes, not {chunk_bytes}")
    stream = keystream(key)
    # Two small buffers, reused for every chunk: touching new memory takes longer than the cipher.
    zeros = bytes(chunk_bytes)
    buffer = bytearray(chunk_bytes + _BLOCK_BYTES - 1)  # update_into needs one spare block
    words = np.frombuffer(buffer, dtype=little_endian, count=chunk_bytes // little_endian.itemsize)
    for start in range(0, vector.size, words.size):
        part = vector[start : start + words.size]
        stream.update_into(memoryview(zeros)[: part.nbytes], buffer)
        operation(part, words[: part.size], out=part)
    stream.finalize()
