"""Between real numbers and the ring: fixed point, lifting, and packing to exactly b bits per element.

A real update becomes integers of at most a certified magnitude, the integers become residues modulo 2^b in the low bits
of uint32 (b <= 32) or uint64 words, and on the wire the vector is one little-endian integer, the sum of x_i 2^(b i):
exactly b bits per element, padding bits zero. This module does not deal with masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crypto.prg import RingVector
from protocols.errors import LocalError, ParameterError
from protocols.parameters import RoundShape

_EXACT = 1 << 53
"""Up to here float64 holds every integer exactly."""
_GROUP = 8
"""Eight elements of b bits fill b whole bytes: packing works on such groups."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Fixed point with a bound: steps of 2^-fraction_bits, elements clamped to [-limit, limit] steps."""

    fraction_bits: int
    limit: int
    """The largest absolute value of an encoded element, in steps, before the weight."""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction_bits <= 52:
            raise ParameterError(f"a fixed point has 0 to 52 fraction bits, not {self.fraction_bits}")
        if not 1 <= self.limit <= _EXACT:
            raise ParameterError(f"an encoded element is at most 1 to 2^53 steps, not {self.limit}")

    def encode(self, values: NDArray[np.floating[Any]], weight: int = 1) -> NDArray[np.int64]:
        """round(values * 2^fraction_bits), clamped to the limit, times a public integer weight.

        Not-a-number becomes zero, because nothing that depends on data may stop a round. Rounding is to nearest, ties
        to even.

        Raises:
            LocalError: the weight is not positive, or so large that an element could leave int64.
        """
        if not 1 <= weight <= (1 << 62) // self.limit:
            raise LocalError(f"a weight is from 1 to {(1 << 62) // self.limit} at this limit, not {weight}")
        steps = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
        with np.errstate(over="ignore"):  # infinity becomes the limit, too
            steps *= float(1 << self.fraction_bits)
        np.clip(np.rint(steps, out=steps), -self.limit, self.limit, out=steps)
        return steps.astype(np.int64) * weight

    def decode(self, total: NDArray[np.int64], weight: int) -> NDArray[np.float64]:
        """The weighted mean behind a sum: total / (2^fraction_bits * weight), elementwise in float64."""
        if weight < 1:
            raise LocalError(f"a sum of weights is a positive integer, not {weight}")
        return total.astype(np.float64) / (float(1 << self.fraction_bits) * float(weight))


def to_ring(values: NDArray[np.int64], shape: RoundShape, magnitude: int) -> RingVector:
    """Integers as ring words, checked against the certified magnitude.

    Raises:
        LocalError: wrong length or type, or an element above the magnitude: it would void the overflow certificate.
    """
    if values.dtype != np.int64 or values.shape != (shape.dimension,):
        raise LocalError(f"the input is {values.dtype}{values.shape}, but the round needs int64({shape.dimension},)")
    if values.size and (int(values.max()) > magnitude or int(values.min()) < -magnitude):
        raise LocalError("an element of the input is larger than the overflow certificate allows")
    words = values.view(np.uint64)
    return words.astype(np.uint32) if shape.ring_bits <= 32 else words.copy()


def from_ring(vector: RingVector, shape: RoundShape) -> NDArray[np.int64]:
    """Lift residues to [-2^(b-1), 2^(b-1)). Words above the low b bits are ignored."""
    shift = np.int64(64 - shape.ring_bits)
    return (vector.astype(np.uint64).view(np.int64) << shift) >> shift


def empty_ring(shape: RoundShape) -> RingVector:
    """A zero vector of the ring's word type."""
    if shape.ring_bits <= 32:
        return np.zeros(shape.dimension, dtype=np.uint32)
    return np.zeros(shape.dimension, dtype=np.uint64)


def pack(vector: RingVector, shape: RoundShape) -> bytes:
    """The low b bits of every element, as ceil(D b / 8) bytes."""
    bits = shape.ring_bits
    groups = -(-shape.dimension // _GROUP)
    elements = np.zeros((groups, _GROUP), dtype=np.uint64)
    elements.reshape(-1)[: shape.dimension] = vector
    elements &= np.uint64((1 << bits) - 1)
    packed = np.zeros((groups, bits), dtype=np.uint8)
    for byte in range(bits):
        for element in range(8 * byte // bits, min(_GROUP, (8 * byte + 7) // bits + 1)):
            packed[:, byte] |= _shift(elements[:, element], element * bits - 8 * byte).astype(np.uint8)
    return packed.tobytes()[: shape.packed_bytes]


def unpack(data: bytes, shape: RoundShape) -> RingVector:
    """The elements in packed bytes.

    Raises:
        ValueError: a wrong number of bytes, or a padding bit that is not zero.
    """
    bits = shape.ring_bits
    if len(data) != shape.packed_bytes:
        raise ValueError(f"a packed vector has {shape.packed_bytes} bytes, not {len(data)}")
    spare = 8 * shape.packed_bytes - shape.dimension * bits
    if spare and data[-1] >> (8 - spare):
        raise ValueError("a padding bit is not zero")
    groups = -(-shape.dimension // _GROUP)
    packed = np.zeros((groups, bits), dtype=np.uint8)
    packed.reshape(-1)[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    elements = np.zeros((groups, _GROUP), dtype=np.uint64)
    for byte in range(bits):
        column = packed[:, byte].astype(np.uint64)
        for element in range(8 * byte // bits, min(_GROUP, (8 * byte + 7) // bits + 1)):
            elements[:, element] |= _shift(column, 8 * byte - element * bits)
    elements &= np.uint64((1 << bits) - 1)
    vector = elements.reshape(-1)[: shape.dimension]
    return vector.astype(np.uint32) if bits <= 32 else np.ascontiguousarray(vector)


def _shift(words: NDArray[np.uint64], left: int) -> NDArray[np.uint64]:
    """words << left, or >> -left."""
    return words << np.uint64(left) if left >= 0 else words >> np.uint64(-left)
