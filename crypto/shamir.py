"""t-of-n sharing of 32-byte secrets over the integers modulo the first prime above 2^256 (Shamir 1979).

A secret is the constant term of a polynomial of degree t - 1; the share of x is its value there. Any t shares give the
secret; fewer than t have exactly the distribution of random numbers, whatever the secret is (the coefficients are
uniform up to 2^-127, see `_coefficients`). Shares contain no redundancy: a wrong share gives a wrong secret, so the
protocol commits to secrets and to shares. Python's integers do not run in constant time; shares are handled where an
attacker sees no timing finer than a whole round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from crypto.kdf import derive

SECRET_BYTES = 32
PRIME = 2**256 + 297
SHARE_BYTES = 33
_WIDE_BYTES = 48


def share_secret(secret: bytes, threshold: int, points: Sequence[int], coefficient_key: bytes) -> dict[int, bytes]:
    """Share `secret` so that the shares of any `threshold` points recover it.

    Args:
        secret: 32 bytes.
        threshold: t, from 1 to the number of points.
        points: distinct positive x below the prime; the protocol uses 1 + the index in the study's roster.
        coefficient_key: a 32-byte key used only to derive the coefficients.

    Returns:
        The share of every point: 33 bytes, big-endian.

    Raises:
        ValueError: any of these is not as described.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"the threshold {threshold} is not between 1 and the {len(points)} points")
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise ValueError("the points of a sharing are distinct, positive and below the prime")
    coefficients = [int.from_bytes(secret, "big"), *_coefficients(coefficient_key, threshold - 1)]
    return {point: _evaluate(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def recover_secret(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret that exactly `threshold` shares determine. More shares are refused, never averaged in.

    Args:
        shares: point -> share.
        threshold: t of the sharing.

    Returns:
        32 bytes. If a share is wrong, this is a wrong secret, or a ValueError.

    Raises:
        ValueError: not exactly t shares, a malformed share, or shares that determine no 32-byte secret.
    """
    if len(shares) != threshold or threshold < 1:
        raise ValueError(f"{threshold} shares are needed, {len(shares)} were given")
    total = 0
    points = tuple(sorted(shares))
    for point, weight in zip(points, lagrange_weights(points), strict=True):
        total += weight * parse_share(shares[point])
    secret = total % PRIME
    if secret >> 256:
        raise ValueError("these shares do not determine a 32-byte secret")
    return secret.to_bytes(SECRET_BYTES, "big")


def parse_share(share: bytes) -> int:
    """The number in a share. Raises ValueError unless it is 33 bytes and below the prime."""
    if len(share) != SHARE_BYTES:
        raise ValueError(f"a share has {SHARE_BYTES} bytes, not {len(share)}")
    value = int.from_bytes(share, "big")
    if value >= PRIME:
        raise ValueError("a share is below the prime")
    return value


@lru_cache(maxsize=4)
def lagrange_weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """The weight of every point's share in the value at zero: prod over others of x_j / (x_j - x_i) mod p.

    Cached for the next call: a round recovers many nodes' secrets from the same points, and the weights, which are
    public, cost far more than the sum.
    """
    weights = []
    for point in points:
        numerator = denominator = 1
        for other in points:
            if other != point:
                numerator = numerator * other % PRIME
                denominator = denominator * (other - point) % PRIME
        weights.append(numerator * pow(denominator, -1, PRIME) % PRIME)
    return tuple(weights)


def _coefficients(key: bytes, count: int) -> list[int]:
    """`count` field elements from a key: 384 derived bits each, reduced; within 2^-127 of uniform."""
    coefficients = []
    for degree in range(1, count + 1):
        wide = derive(key, "Shamir coefficient", degree.to_bytes(8, "big"), length=_WIDE_BYTES)
        coefficients.append(int.from_bytes(wide, "big") % PRIME)
    return coefficients


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value
