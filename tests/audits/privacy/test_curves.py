"""The curves that an audit tests, against the accountant and against plain integration."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import norm

from audits.privacy.curves import SampledGaussian
from dp.accounting import epsilon

SHAPES = [(1.0, 1.0), (1.0, 0.5), (0.5, 1.0), (0.05, 0.7)]


@pytest.mark.parametrize(("rate", "sigma"), SHAPES)
def test_a_curve_in_closed_form_is_the_accountants(rate: float, sigma: float) -> None:
    alone = SampledGaussian(rate, sigma).epsilon(1e-5)
    assert alone == pytest.approx(epsilon(rate, sigma, 1, 1e-5), abs=1e-4)


@pytest.mark.parametrize(("rate", "sigma"), SHAPES)
@pytest.mark.parametrize("at", [0.0, 0.3, 1.0, 2.5])
def test_a_curve_is_the_integral_of_what_one_density_has_more(rate: float, sigma: float, at: float) -> None:
    x, width = np.linspace(-20, 30, 2_000_001, retstep=True)
    without = norm.pdf(x)
    with_patient = (1 - rate) * without + rate * norm.pdf(x - 1 / sigma)
    added = np.maximum(with_patient - math.exp(at) * without, 0).sum() * width
    removed = np.maximum(without - math.exp(at) * with_patient, 0).sum() * width
    assert SampledGaussian(rate, sigma).deltas(np.array([at]))[0] == pytest.approx(max(added, removed), abs=1e-9)


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_more_noise_leaves_less_at_every_epsilon(rate: float) -> None:
    epsilons = np.linspace(0, 8, 50)
    curves = [SampledGaussian(rate, sigma).deltas(epsilons) for sigma in (0.5, 0.7, 1.0, 2.0)]
    for little, much in pairwise(curves):
        assert (little >= much).all()
        assert little[0] > much[0]


def test_epsilon_is_where_the_curve_reaches_delta() -> None:
    curve = SampledGaussian(0.4, 0.8)
    at = curve.epsilon(1e-6)
    assert curve.deltas(np.array([at]))[0] <= 1e-6 < curve.deltas(np.array([at - 1e-9]))[0]
    assert SampledGaussian(1.0, 1e9).epsilon(1e-5) == 0


@pytest.mark.parametrize(("rate", "sigma"), [(0.0, 1.0), (1.1, 1.0), (1.0, 0.0), (1.0, math.inf)])
def test_an_impossible_sum_is_refused(rate: float, sigma: float) -> None:
    with pytest.raises(ValueError, match="not"):
        SampledGaussian(rate, sigma)
