"""What the discrete Gaussian's probabilities are, and how far counts may be from them.

Two ways to the probabilities: `mass_below` sums, and from a standard deviation of 2^12 on takes the integral over
[-1/2, x - 1/2], which is a proved approximation; `weight` is one term to 80 digits, for what is claimed to 2^-128.
"""

from __future__ import annotations

import decimal
import math
from fractions import Fraction

import numpy as np

LOG = math.log(2e9)
"""ln(2 / 1e-9): what a two-sided exponential tail bound needs, so that true randomness misses it once in 10^9."""

SUMMED_UP_TO = 2**24
"""The largest variance whose masses are summed term by term."""

_DIGITS = decimal.Context(prec=80)


def weight(squared: int, variance: Fraction) -> decimal.Decimal:
    """exp(-squared / (2 variance)), to 80 digits."""
    with decimal.localcontext(_DIGITS):
        z = Fraction(squared) / (2 * variance)
        return (-decimal.Decimal(z.numerator) / decimal.Decimal(z.denominator)).exp()


def integral_below(variance: Fraction, edges: np.ndarray) -> np.ndarray:
    """The continuous Gaussian's mass below edge - 1/2.

    The midpoint rule: in each unit cell, the density at the integer and its integral differ by at most a 24th of the
    second derivative's maximum, f(0) / v; so a bin of w cells is off by w f(0) / (24 v), and the normaliser, by
    Poisson summation, by less than 3 exp(-2 pi^2 v). For s = 2^12 and bins one s wide that is 10^-9.
    """
    deviation = math.sqrt(variance)
    return np.array([0.5 * math.erfc(-(int(edge) - 0.5) / (deviation * math.sqrt(2))) for edge in edges])


def summed_below(variance: Fraction, edges: np.ndarray) -> np.ndarray:
    """P(X < edge) for each edge, in double precision: the sum of its terms within 14 standard deviations and 40."""
    reach = 40 + math.ceil(14 * math.sqrt(variance))
    weights = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float64) ** 2) / (2 * float(variance)))
    below = np.concatenate([[0.0], np.cumsum(weights)]) / math.fsum(weights.tolist())
    return below[np.clip(edges + reach, 0, below.size - 1)]


def mass_below(variance: Fraction, edges: np.ndarray) -> np.ndarray:
    """P(X < edge) for each of the integers `edges`, to 10^-9 or better."""
    return (summed_below if variance <= SUMMED_UP_TO else integral_below)(variance, edges)


def bins(variance: Fraction, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges and probabilities of bins at most a 16th of a deviation wide: 10 or more of so many draws expected in each.

    The first and the last bin are open: the first probability is of what lies below edges[0].
    """
    width = max(1, round(math.sqrt(variance) / 16))
    reach = 1 + math.ceil(6 * math.sqrt(variance)) // width
    edges = np.arange(-reach, reach + 1, dtype=np.int64) * width
    below = mass_below(variance, edges)
    kept, last = [], 0.0
    for edge, mass in zip(edges.tolist(), below.tolist(), strict=True):
        if (mass - last) * draws >= 10 and (1 - mass) * draws >= 10:
            kept.append(edge)
            last = mass
    edges = np.array(kept, dtype=np.int64)
    return edges, np.diff(np.concatenate([[0.0], mass_below(variance, edges), [1.0]]))


def counts_in_bins(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many values lie below edges[0], between neighbouring edges, and from the last edge on."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=edges.size + 1)


def chi_square_limit(degrees: int) -> float:
    """Laurent and Massart 2000, lemma 1: chi^2_d exceeds d + 2 sqrt(d t) + 2 t with probability at most exp(-t)."""
    return degrees + 2 * math.sqrt(degrees * LOG) + 2 * LOG


def excess_over_fit(values: np.ndarray, variance: Fraction) -> float:
    """Pearson's chi-square of the values against the exact masses, over its limit: above 1, they do not fit."""
    edges, masses = bins(variance, values.size)
    expected = masses * values.size
    statistic = float((((counts_in_bins(values, edges) - expected) ** 2) / expected).sum())
    return statistic / chi_square_limit(edges.size)


def excess_over_sameness(one: np.ndarray, other: np.ndarray, variance: Fraction) -> float:
    """Chi-square of two samples of one size against having one distribution, over its limit."""
    edges, _ = bins(variance, one.size)
    first, second = counts_in_bins(one, edges), counts_in_bins(other, edges)
    both = np.maximum(first + second, 1)
    return float(((first - second) ** 2 / both).sum()) / chi_square_limit(edges.size)
