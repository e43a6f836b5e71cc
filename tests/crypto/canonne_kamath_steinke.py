"""The discrete Gaussian sampler of Canonne, Kamath and Steinke 2020 (algorithms 1 to 3): exact, and slow.

The oracle for `crypto.discrete_gaussian`, with which it shares neither code nor method. Only integers and fractions;
all randomness is `Random.randrange`, which is uniform below its bound.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt
from random import Random


def _bernoulli(probability: Fraction, random: Random) -> bool:
    return random.randrange(probability.denominator) < probability.numerator


def bernoulli_exp(gamma: Fraction, random: Random) -> bool:
    """Algorithm 1: true with probability exp(-gamma), for gamma >= 0."""
    while gamma > 1:
        if not bernoulli_exp(Fraction(1), random):
            return False
        gamma -= 1
    tries = 1
    while _bernoulli(gamma / tries, random):
        tries += 1
    return tries % 2 == 1


def discrete_laplace(scale: int, random: Random) -> int:
    """Algorithm 2 with t = scale and s = 1: x with probability proportional to exp(-|x| / scale)."""
    while True:
        remainder = random.randrange(scale)
        if not bernoulli_exp(Fraction(remainder, scale), random):
            continue
        quotient = 0
        while bernoulli_exp(Fraction(1), random):
            quotient += 1
        magnitude = remainder + scale * quotient
        negative = random.randrange(2) == 1
        if not (negative and magnitude == 0):
            return -magnitude if negative else magnitude


def discrete_gaussian(variance: Fraction, random: Random) -> int:
    """Algorithm 3: x with probability proportional to exp(-x^2 / (2 variance))."""
    scale = isqrt(variance.numerator // variance.denominator) + 1
    while True:
        proposal = discrete_laplace(scale, random)
        if bernoulli_exp((abs(proposal) - variance / scale) ** 2 / (2 * variance), random):
            return proposal
