"""The quick way to the privacy loss of a mixture gives the library's own numbers, bit for bit."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

import dp.mixtures
from dp.mixtures import mixture_loss


def chances(draws: int, rate: float) -> list[float]:
    return [comb(draws, count) * rate**count * (1 - rate) ** (draws - count) for count in range(draws + 1)]


@pytest.mark.parametrize(
    ("draws", "rate", "noise", "grid"),
    [(2, 0.1, 1.0, 1e-3), (3, 0.02, 0.7, 2e-3), (2, 0.3, 2.5, 1e-3), (3, 0.05, 12.0, 1e-4), (2, 1.0, 3.0, 1e-3)],
)
def test_every_probability_is_the_librarys(
    draws: int, rate: float, noise: float, grid: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts = list(range(draws + 1))
    slow = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise, shifts, chances(draws, rate), value_discretization_interval=grid
    )
    for chunk in (7919, dp.mixtures._CHUNK):
        monkeypatch.setattr(dp.mixtures, "_CHUNK", chunk)
        quick = mixture_loss(noise, shifts, chances(draws, rate), grid)
        for theirs, ours in [(slow._pmf_remove, quick._pmf_remove), (slow._pmf_add, quick._pmf_add)]:
            a, b = theirs.to_dense_pmf(), ours.to_dense_pmf()
            assert np.array_equal(a._probs, b._probs)
            assert (a._lower_loss, a._infinity_mass) == (b._lower_loss, b._infinity_mass)
            assert (a._discretization, a._pessimistic_estimate) == (b._discretization, b._pessimistic_estimate)
