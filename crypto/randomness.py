"""Cryptographic randomness for differential privacy: uniform words, Gaussian noise, keyed choices.

Noise protects patients only while nobody can guess it, so it never comes from a statistical generator. One 32-byte
secret comes directly from the operating system, only for noise, coins and record choice. It is not derived from any
other secret, and no other secret is derived from it, because some of a session's secrets are reconstructed (PROTOCOL,
stage 4) and this one must not be. Streams are AES-256-CTR under a key derived per name; a keyed choice is HMAC-SHA-256
(RFC 2104) of its name, so that what happens to one patient does not depend on the others.

There are two kinds of noise. `NoiseStream.discrete_gaussian` gives integers, for integer-exact mechanisms; its distance
from the exact distribution is proved (`crypto.discrete_gaussian`). `NoiseStream.gaussian` is a real-number Gaussian in
double precision, which the report states as an assumption.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crypto import discrete_gaussian
from crypto.kdf import derive, encode_parts
from crypto.prg import add_stream

SECRET_BYTES = 32
_GAUSSIAN_TERMS = 4

Entropy: TypeAlias = Callable[[int], bytes]
"""Returns this many uniformly random bytes. A parameter with a secure default, so that vectors are reproducible."""

system_entropy: Entropy = os.urandom


class NoiseStream:
    """An endless stream of random numbers under one key. Each word is used once."""

    __slots__ = ("_key", "_segment")

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._segment = 0

    def uniform_words(self, count: int) -> NDArray[np.uint64]:
        """`count` uniform 64-bit words. Every call opens a segment of its own, so calls never overlap."""
        segment_key = derive(self._key, "noise segment", self._segment.to_bytes(8, "big"))
        self._segment += 1
        words = np.zeros(count, dtype=np.uint64)
        add_stream(words, segment_key)
        return words

    def gaussian(self, count: int, standard_deviation: float) -> NDArray[np.float64]:
        """`count` draws from N(0, standard_deviation^2), as float64.

        Each is the sum of four independent Box-Muller draws, halved: the sum's low bits do not reveal which floats a
        single transform can produce (Holohan and Braghin 2021, section 4; the counter-measure to Mironov 2012). The
        uniform inputs have 53 bits, so each draw reaches 8.5 standard deviations; 2^-54 of the mass lies beyond.

        Raises:
            ValueError: the standard deviation is not positive and finite, or the count is negative.
        """
        if not (standard_deviation > 0 and np.isfinite(standard_deviation)):
            raise ValueError(f"a standard deviation is positive and finite, not {standard_deviation}")
        if count < 0:
            raise ValueError(f"a count is not negative: {count}")
        pairs = (count + 1) // 2
        total = np.zeros(2 * pairs)
        for _ in range(_GAUSSIAN_TERMS):
            total += _box_muller(self.uniform_words(2 * pairs))
        total *= standard_deviation / np.sqrt(_GAUSSIAN_TERMS)
        return total[:count]

    def discrete_gaussian(self, count: int, variance: int | Fraction) -> NDArray[np.int64]:
        """`count` independent integers x, each with probability proportional to exp(-x^2 / (2 variance)), as int64.

        Every draw is within `crypto.discrete_gaussian.SAMPLER_ERROR` = 2^-128 of that distribution; the proof is there.
        The parameter is the variance, a rational number: a node's share sigma^2 C^2 / (t - c) is rational, but its root
        usually is not.

        Raises:
            TypeError: the variance is not an int or a Fraction. Floats are refused; `Fraction(sigma)` is exact.
            ValueError: the variance is outside 1/16 to 2^64, or the count is negative.
        """
        return discrete_gaussian.draw(self.uniform_words, count, variance)

    def __reduce__(self) -> str:
        raise TypeError("a noise stream is never pickled or copied")


class NoiseSecret:
    """The secret behind one training session's noise, coins and record choices. Never shared, stored or logged."""

    __slots__ = ("_secret",)

    def __init__(self, entropy: Entropy = system_entropy) -> None:
        self._secret: bytearray | None = bytearray(entropy(SECRET_BYTES))
        if len(self._secret) != SECRET_BYTES:
            raise ValueError(f"the entropy source gave {len(self._secret)} bytes, not {SECRET_BYTES}")

    def stream(self, *name: str | int) -> NoiseStream:
        """The stream of this name. The same name gives the same numbers, so give every use a name of its own."""
        return NoiseStream(derive(self._live(), "noise stream", _encode_name(name)))

    def coin(self, probability: float, *name: str | int) -> bool:
        """A coin that comes up heads with this probability (to within 2^-64); always the same for the same name.

        Raises:
            ValueError: the probability is outside 0 to 1.
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"a probability is between 0 and 1, not {probability}")
        return self._number("coin", name, 8) < int(probability * 2**64)

    def choice(self, bound: int, *name: str | int) -> int:
        """A number below `bound`; always the same for the same name.

        It is the part above 128 bits of a 128-bit word times the bound. Nothing is rejected, so every choice takes the
        same work. Each number has a chance within 2^-128 of 1 / bound, and the distribution is within bound / 2^129 of
        uniform in total variation.

        Raises:
            ValueError: the bound is not between 1 and 2^32.
        """
        if not 1 <= bound <= 2**32:
            raise ValueError(f"a choice is among 1 to 2^32, not {bound}")
        return self._number("choice", name, 16) * bound >> 128

    def wipe(self) -> None:
        """Overwrite the secret; every later use raises RuntimeError."""
        if self._secret is not None:
            self._secret[:] = bytes(SECRET_BYTES)
        self._secret = None

    def _number(self, purpose: str, name: tuple[str | int, ...], size: int) -> int:
        message = encode_parts(purpose, _encode_name(name))
        return int.from_bytes(hmac.digest(self._live(), message, "sha256")[:size], "big")

    def _live(self) -> bytearray:
        if self._secret is None:
            raise RuntimeError("this noise secret has been wiped")
        return self._secret

    def __reduce__(self) -> str:
        raise TypeError("a noise secret is never pickled or copied")


def expand_public_seed(seed: bytes, label: str, count: int) -> NDArray[np.uint64]:
    """`count` words that anyone can recompute from a public 32-byte seed: for model initialisation, never for noise."""
    words = np.zeros(count, dtype=np.uint64)
    add_stream(words, derive(seed, "public seed", label.encode()))
    return words


def _encode_name(name: tuple[str | int, ...]) -> bytes:
    """An injective encoding of a name: a number and its decimal digits as text stay apart."""
    return encode_parts("name", *(b"i%d" % part if isinstance(part, int) else b"s" + part.encode() for part in name))


def _box_muller(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Standard Gaussians from an even number of uniform words (Box and Muller 1958)."""
    unit = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    half = unit.size // 2
    radius = np.sqrt(-2.0 * np.log(unit[:half]))
    angle = 2.0 * np.pi * unit[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
