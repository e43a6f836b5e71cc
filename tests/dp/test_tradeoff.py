"""The trade-off curve bounds every test for taking part, in both directions, and is not far above the best one."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from dp.accounting import epsilon
from dp.delta_terms import DistributedNoise
from dp.events import NoisedSums, NoiseShares
from dp.tradeoff import PrivacyCurve, gaussian_delta, membership_bound, privacy_curve

DELTA = 1e-5
PLAN = NoisedSums(0.02, 0.9639, 500)
RATES = (0.001, 0.01, 0.1)


def _normal(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


@pytest.fixture(scope="module")
def curve() -> PrivacyCurve:
    return privacy_curve(PLAN)


def test_the_curve_falls_and_passes_through_the_figure_of_record(curve: PrivacyCurve) -> None:
    assert list(curve.deltas) == sorted(curve.deltas, reverse=True)
    record = epsilon(0.02, 0.9639, 500, DELTA)
    beyond = next(index for index, value in enumerate(curve.epsilons) if value >= record)
    assert curve.deltas[beyond] <= DELTA < curve.deltas[beyond - 1]


def _threshold_test(rate: float, sigma: float, threshold: float) -> tuple[float, float]:
    """How often one step's sum is above a threshold, without and with the patient."""
    absent = _normal(-threshold / sigma)
    return absent, (1 - rate) * absent + rate * _normal((1 - threshold) / sigma)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_no_threshold_test_for_one_step_beats_the_bound_in_either_direction(rate: float, threshold: float) -> None:
    bound = privacy_curve(NoisedSums(rate, 0.8, 1)).true_positive_rate
    absent, present = _threshold_test(rate, 0.8, threshold)
    assert present <= bound(absent) + 1e-12
    assert 1 - absent <= bound(1 - present) + 1e-12


@pytest.mark.parametrize(("rate", "threshold"), [(1.0, -1.0), (1.0, 0.5), (1.0, 3.0), (0.3, 0.5), (0.3, 2.0)])
def test_a_threshold_test_with_few_false_positives_reaches_the_bound(rate: float, threshold: float) -> None:
    bound = privacy_curve(NoisedSums(rate, 0.8, 1)).true_positive_rate
    absent, present = _threshold_test(rate, 0.8, threshold)
    assert present > bound(absent) - 0.003


def test_the_whole_curve_bounds_far_better_than_one_point_of_it(curve: PrivacyCurve) -> None:
    for rate in RATES:
        assert rate < curve.true_positive_rate(rate) < 0.4 * membership_bound(rate, [3.0], [DELTA])


def test_the_advantage_is_the_curve_at_epsilon_zero(curve: PrivacyCurve) -> None:
    assert curve.advantage == curve.deltas[0]
    gaussian = privacy_curve(NoisedSums(1.0, 1.0, 1))
    assert gaussian.advantage == pytest.approx(2 * _normal(0.5) - 1, abs=1e-3)


def test_the_terms_of_distributed_noise_are_added_everywhere(curve: PrivacyCurve) -> None:
    noise = DistributedNoise(NoiseShares(4, 1), nodes=5, dimension=1000, grid=2**12, sampler_error=2.0**-60)
    noised = privacy_curve(PLAN, noise)
    assert noised.epsilons == curve.epsilons
    for index in (0, 1000, 3999):
        terms = noise.delta_terms(PLAN, 0.9639, curve.epsilons[index])
        assert noised.deltas[index] == curve.deltas[index] + terms.total
    assert noised.true_positive_rate(0.01) > curve.true_positive_rate(0.01)


def _best_test(noise: np.ndarray, shift: int, rate: float) -> tuple[float, float]:
    """TPR of the best test at this FPR (Neyman and Pearson), and the largest TPR - FPR of any, for exact noise masses
    that are moved so many places."""
    without = np.concatenate([noise, np.zeros(shift)])
    present = np.concatenate([np.zeros(shift), noise])
    order = np.argsort(-np.divide(present, without, out=np.full(len(present), np.inf), where=without > 0))
    false, true = np.cumsum(without[order]), np.cumsum(present[order])
    return float(np.interp(rate, [0.0, *false], [0.0, *true])), float((true - false).max())


@pytest.mark.parametrize("grid", [1, 3, 5])
def test_what_runs_is_told_apart_better_than_the_analysed_mechanism_and_no_better_than_the_bound(grid: int) -> None:
    # Three honest nodes' discrete noise on a coarse grid, exactly: their convolution, moved by one clipping norm.
    shares = NoiseShares(4, 1)
    places = np.arange(-60 * grid, 60 * grid + 1)
    share = np.exp(-(places**2) / (2 * (shares.share(1.0) * grid) ** 2))
    share /= share.sum()
    exact = partial(_best_test, np.convolve(np.convolve(share, share), share), grid)
    plan = NoisedSums(1.0, 1.0, 1)
    analysed = privacy_curve(plan)
    bound = privacy_curve(plan, DistributedNoise(shares, nodes=4, dimension=1, grid=grid, overflow_probability=0.0))
    assert analysed.advantage < exact(0.5)[1] <= bound.advantage
    for rate in (0.01, 0.1, 0.3):
        assert exact(rate)[0] <= bound.true_positive_rate(rate)
    assert any(exact(rate)[0] > analysed.true_positive_rate(rate) + 1e-6 for rate in np.linspace(0.01, 0.99, 99))


def test_the_best_test_about_one_of_two_equally_likely_is_right_as_often_as_the_advantage_says() -> None:
    gaussian = privacy_curve(NoisedSums(1.0, 1.0, 1))
    assert gaussian.accuracy == (1 + gaussian.advantage) / 2
    # Neyman and Pearson: the threshold half way is right with Phi(1/2), 69 %.
    assert gaussian.accuracy == pytest.approx(_normal(0.5), abs=1e-3)


def test_a_samplers_growing_term_never_makes_the_curve_rise() -> None:
    noise = DistributedNoise(NoiseShares(4, 1), nodes=5, dimension=1000, sampler_error=2.0**-48)
    curve = privacy_curve(PLAN, noise)
    assert list(curve.deltas) == sorted(curve.deltas, reverse=True)
    assert curve.deltas[-1] == curve.deltas[-2] > noise.delta_terms(PLAN, 0.9639, 0.0).total


# mu


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (20.0, 100)])
def test_the_mu_of_a_gaussian_is_its_own_or_barely_above(sigma: float, steps: int) -> None:
    exact = math.sqrt(steps) / sigma
    assert exact <= privacy_curve(NoisedSums(1.0, sigma, steps)).gaussian_mu(DELTA) <= 1.003 * exact


def test_no_smaller_mu_lies_below_the_curve(curve: PrivacyCurve) -> None:
    mu = curve.gaussian_mu(DELTA)
    pairs = [pair for pair in zip(curve.epsilons, curve.deltas, strict=True) if pair[1] > DELTA]
    assert all(gaussian_delta(mu, value) >= delta for value, delta in pairs)
    assert any(gaussian_delta(0.995 * mu, value) < delta for value, delta in pairs)


def test_the_mu_of_the_central_limit_theorem_promises_more_than_holds(curve: PrivacyCurve) -> None:
    central_limit = 0.02 * math.sqrt(500 * (math.exp(1 / 0.9639**2) - 1))
    assert central_limit < 0.9 * curve.gaussian_mu(DELTA)
    assert gaussian_delta(central_limit, 3.0) < DELTA / 5


def test_a_test_gains_no_more_than_with_mu_and_delta(curve: PrivacyCurve) -> None:
    mu = curve.gaussian_mu(DELTA)
    for threshold in (3.0, 2.0, 1.0, 0.0):
        rate, reached = _normal(-threshold), _normal(mu - threshold)
        assert curve.true_positive_rate(rate) <= reached + DELTA + 1e-4


def test_a_curve_that_ends_too_early_has_no_mu() -> None:
    assert PrivacyCurve((0.0, 1.0), (0.5, 0.1)).gaussian_mu(DELTA) == math.inf
