"""A fast privacy loss of a Gaussian whose shift is drawn from several, as for a patient at several sites.

`dp_accounting` inverts that privacy loss by bisection, one point at a time, and names this as its bottleneck: seven
million evaluations for one distribution. Here the same bisections run side by side. Every number equals the library's,
bit for bit: `tests/dp/test_mixtures.py` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, MixtureGaussianPrivacyLoss
from numpy.typing import NDArray

_CHUNK = 1 << 16
"""Points inverted side by side: few enough that their intermediate results stay in the processor's cache."""


class _Mixture(MixtureGaussianPrivacyLoss):  # type: ignore[misc]  # the library has no types
    """The library's class, with its one slow method replaced."""

    def _inverse_privacy_losses_with_range(
        self, privacy_losses: NDArray[np.float64], bounds: tuple[float, float], precision: float = 1e-6
    ) -> NDArray[np.float64]:
        """For each loss the smallest multiple of `precision` at which the privacy loss is at most that, rounded down as
        in the library. Same shape as `privacy_losses`."""
        found = np.empty_like(privacy_losses)
        for start in range(0, len(privacy_losses), _CHUNK):
            part = privacy_losses[start : start + _CHUNK]
            found[start : start + _CHUNK] = self._bisect(part, bounds, precision)
        return found

    def _bisect(
        self, losses: NDArray[np.float64], bounds: tuple[float, float], precision: float
    ) -> NDArray[np.float64]:
        low, high = np.full_like(losses, bounds[0]), np.full_like(losses, bounds[1])
        while (wide := high - low > precision).any():
            middle = (low + high) / 2
            right = losses < self._losses_at(middle)
            low = np.where(wide & right, middle, low)
            high = np.where(wide & ~right, middle, high)
        return np.asarray(np.floor(high / precision) * precision)

    def _losses_at(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """`privacy_loss` of each point, by the same operations in the same order."""
        shifts = np.multiply.outer(self.sensitivities, points) / self._variance
        constants = self._precompute_privacy_loss_constants[:, np.newaxis]
        if self.adjacency_type == AdjacencyType.ADD:
            return np.asarray(-np.logaddexp.reduce(constants + shifts, axis=0))
        return np.asarray(np.logaddexp.reduce(constants - shifts, axis=0))


def mixture_loss(
    noise_multiplier: float, shifts: Sequence[float], chances: Sequence[float], discretization: float
) -> PrivacyLossDistribution:
    """`privacy_loss_distribution.from_mixture_gaussian_mechanism`, rounded pessimistically, for adding and removing.

    Args:
        noise_multiplier: the Gaussian's standard deviation.
        shifts: how far a patient can move the sum, in units of C.
        chances: of each shift; they add up to 1.
        discretization: grid of the privacy loss.
    """

    def one_way(adjacency: AdjacencyType) -> object:
        return privacy_loss_distribution._create_pld_pmf_from_monotone_privacy_loss(
            _Mixture(noise_multiplier, list(shifts), list(chances), adjacency_type=adjacency),
            pessimistic_estimate=True,
            value_discretization_interval=discretization,
            use_connect_dots=True,
        )

    return PrivacyLossDistribution(one_way(AdjacencyType.REMOVE), one_way(AdjacencyType.ADD))
