"""The privacy curves that an audit tests: delta(epsilon) of one Gaussian sum over patients drawn by coins.

They are in closed form, so that an audit does not rely on the accountant that it audits. A patient adds C to one
coordinate with probability q, and the coordinate has noise of sigma C. Without the patient it is N(0, 1) in units of
the noise; with it the mixture (1 - q) N(0, 1) + q N(mu, 1), mu = 1/sigma. At every epsilon the worse of adding and
removing counts (Balle and Wang 2018, theorem 8, for q = 1; Zhu, Dong and Wang 2022, for the mixture).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

_POINTS = 800
_END_DELTA = 1e-18
_HALVINGS = 48


@dataclass(frozen=True, slots=True)
class SampledGaussian:
    """One sum: sampling rate q, noise multiplier sigma.

    Raises:
        ValueError: q is outside (0, 1], or sigma is not positive.
    """

    sampling_rate: float
    """q."""
    noise_multiplier: float
    """sigma, in units of the clipping norm C."""

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"a sampling rate is above 0 and at most 1, not {self.sampling_rate}")
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise ValueError(f"a noise multiplier is positive and finite, not {self.noise_multiplier}")

    def deltas(self, epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
        """delta at each of these epsilons, none of them negative; the same shape."""
        rate, mu = self.sampling_rate, 1 / self.noise_multiplier
        odds = np.exp(epsilons)
        # Where the likelihood ratio (1 - q) + q exp(mu x - mu^2/2) is e^epsilon, and where it is e^-epsilon.
        above = (np.log((odds - 1 + rate) / rate) + mu**2 / 2) / mu
        added = (1 - rate) * ndtr(-above) + rate * ndtr(mu - above) - odds * ndtr(-above)
        excess = 1 / odds - 1 + rate
        with np.errstate(divide="ignore"):
            below = (np.log(np.maximum(excess, 0) / rate) + mu**2 / 2) / mu
        removed = ndtr(below) - odds * ((1 - rate) * ndtr(below) + rate * ndtr(below - mu))
        worse: NDArray[np.float64] = np.maximum(np.maximum(added, removed), 0.0)
        return worse

    def epsilon(self, delta: float) -> float:
        """The smallest epsilon at this delta, to twelve digits and never below; 0 if delta(0) is not larger."""
        low, high = 0.0, 1.0
        if self.deltas(np.zeros(1))[0] <= delta:
            return 0.0
        while self.deltas(np.array([high]))[0] > delta:
            low, high = high, 2 * high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.deltas(np.array([middle]))[0] > delta else (low, middle)
        return high

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Epsilons from 0 to where delta is almost 0, and their deltas: a finite part of the claim.

        Refuting the part refutes the whole.
        """
        return _points(self)


@lru_cache(maxsize=64)
def _points(curve: SampledGaussian) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    epsilons = np.linspace(0.0, curve.epsilon(_END_DELTA), _POINTS)
    return epsilons, curve.deltas(epsilons)
