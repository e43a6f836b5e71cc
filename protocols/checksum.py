"""The verified sum: a one-time affine MAC over Z_p, p = 2^61 - 1, under a key that the aggregator does not have.

All sharers derive the same key from their view and from every sharer's contribution z_v: K, uniform in Z_p^D, and k_0
in Z_p. A node's tag is `<K, x> + k_0` for its finished vector x, as centred integers. Tags add up with the vectors:
the sum S of the survivors' vectors is accepted when its published tag T is `<K, S> + k_0 |U3|`.

Why it holds. An aggregator that colludes with no node sees no z_v and, because tags have masks of their own, no tag
except T; and T reveals nothing about K, because k_0 is uniform. To pass with another sum S' it must send T + <K, S' -
S>. Some element of S' - S is not 0 modulo p (its absolute value is below 2^b <= 2^60 < p: this is why b <= 60), and no
K_i takes a value with a probability above 9 / 2^64, being a 64-bit word modulo p. It succeeds with probability at most
2^-60. The constant k_0 also keeps (lambda S, lambda T) from passing, zero included. Arithmetic is modulo p and not in
integers: carries would leak single inputs to colluders.

How it is fast. A 61-bit times 60-bit product does not fit into a machine word. The code cuts both factors into 16-bit
limbs, and sums each pair of limbs over a chunk by a matrix product in double precision: all partial sums are integers
below 2^53, so they are exact in any order and with any fused operation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from crypto.kdf import derive, digest
from crypto.prg import keystream
from protocols.derivations import index_bytes

PRIME = (1 << 61) - 1
TAG_BYTES = 8
_CHUNK = 1 << 15
_EXACT_CHUNKS = 32
"""2^16 * 2^16 * 2^15 * 2^5 = 2^52: this many chunks of limb products add up exactly in double precision."""
_WORD_BYTES = 8
_LIMB_BITS = 16
_LIMB_MASK = (1 << _LIMB_BITS) - 1
_WIDE_BYTES = 32


class ChecksumKey:
    """K and k_0 of one session. K is as long as the vector, so it is a stream, generated again for every use."""

    __slots__ = ("_constant", "_limbs", "_stream_key")

    def __init__(self, view: bytes, contributions: Mapping[int, bytes], ring_bits: int) -> None:
        """
        Args:
            view: the session and its U2 (`protocols.derivations.view_of`).
            contributions: z_v of every sharer, by roster index.
            ring_bits: b; every tagged element lies in [-2^(b-1), 2^(b-1)).
        """
        parts = [part for node in sorted(contributions) for part in (index_bytes(node), contributions[node])]
        seed = digest("checksum key", view, *parts)
        self._stream_key = derive(seed, "checksum vector")
        self._constant = _to_field(derive(seed, "checksum constant", length=_WIDE_BYTES))
        self._limbs = 2 if ring_bits <= 2 * _LIMB_BITS else 4

    def tag(self, vector: NDArray[np.int64], count: int = 1) -> int:
        """<K, vector> + k_0 * count modulo p.

        Args:
            vector: centred integers of the ring, of shape (D,): one input, or a sum.
            count: the number of inputs in it.
        """
        return (_inner_product(self._stream_key, vector, self._limbs) + self._constant * count) % PRIME

    def __repr__(self) -> str:
        return "ChecksumKey()"

    def __reduce__(self) -> str:
        raise TypeError("a checksum key is never pickled or copied")


def tag_mask(seed: bytes, label: str, *context: bytes) -> int:
    """A mask seed's contribution to a tag: a number of Z_p, within 2^-195 of uniform."""
    return _to_field(derive(seed, label, *context, length=_WIDE_BYTES))


def encode_tag(tag: int) -> bytes:
    """Eight bytes, big-endian."""
    return tag.to_bytes(TAG_BYTES, "big")


def decode_tag(data: bytes) -> int:
    """The number in a tag. Raises ValueError when it is not below p."""
    tag = int.from_bytes(data, "big")
    if tag >= PRIME:
        raise ValueError("a tag is below 2^61 - 1")
    return tag


def _to_field(wide: bytes) -> int:
    return int.from_bytes(wide, "big") % PRIME


def _inner_product(stream_key: bytes, vector: NDArray[np.int64], limbs: int) -> int:
    """<K, vector> modulo p for elements of this many 16-bit limbs; K_i is the stream's 64-bit word i modulo p."""
    stream = keystream(stream_key)
    zeros = bytes(_CHUNK * _WORD_BYTES)
    buffer = bytearray(_CHUNK * _WORD_BYTES + 15)  # update_into needs one spare block
    words = np.frombuffer(buffer, dtype="<u8", count=_CHUNK)
    key_limbs = np.empty((_CHUNK, 4))
    whole, limb = (np.empty(_CHUNK, dtype=np.int32 if limbs == 2 else np.int64) for _ in range(2))
    vector_limbs = np.empty((limbs, _CHUNK))
    total = 0
    sums = np.zeros((4, limbs))
    for number, start in enumerate(range(0, vector.size, _CHUNK), start=1):
        part = vector[start : start + _CHUNK]
        size = part.size
        stream.update_into(memoryview(zeros)[: size * _WORD_BYTES], buffer)
        key_limbs[:size] = words[:size].view("<u2").reshape(size, 4)
        whole[:size] = part
        for place in range(limbs):
            np.right_shift(whole[:size], _LIMB_BITS * place, out=limb[:size])
            if place < limbs - 1:  # the last limb has the sign
                np.bitwise_and(limb[:size], _LIMB_MASK, out=limb[:size])
            vector_limbs[place, :size] = limb[:size]
        sums += key_limbs[:size].T @ vector_limbs[:, :size].T
        if number % _EXACT_CHUNKS == 0:
            total += _carry(sums)
            sums[:] = 0
    stream.finalize()
    return (total + _carry(sums)) % PRIME


def _carry(sums: NDArray[np.float64]) -> int:
    """Sums of limb products, as one integer."""
    return sum(int(value) << (_LIMB_BITS * (high + low)) for (high, low), value in np.ndenumerate(sums))
