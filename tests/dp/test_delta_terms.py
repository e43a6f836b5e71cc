"""Every difference between the machine and the analysis is charged: the terms hold, and too large ones are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dp.accounting import NOISE_UNITS, calibrate, epsilon, event_epsilon
from dp.delta_terms import OVERFLOW_PROBABILITY, DistributedNoise, LocalNoise, convolution_distance
from dp.errors import BatchesTooSmall, DPError, GridTooCoarse, OutOfRange, SamplerTooCoarse
from dp.events import NoisedSums, NoiseShares, Relation

DELTA = 1e-5
SHARES = NoiseShares(4, 1)
EXACT = DistributedNoise(SHARES, nodes=5, dimension=100_000)
PLAN = NoisedSums(0.02, 0.9639, 500)


def _normal(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


# Each term


def test_a_samplers_error_counts_once_for_every_number_drawn_and_twice_for_every_claim() -> None:
    noise = replace(EXACT, sampler_error=2.0**-80)
    terms = noise.delta_terms(PLAN, PLAN.noise_multiplier, 3.0)
    assert terms.sampler == pytest.approx((1 + math.exp(3)) * 500 * 5 * 100_000 * 2.0**-80)


def test_a_sum_of_discrete_gaussians_is_charged_for_every_coordinate_of_every_step() -> None:
    """Shares of one grid step: a household study of few numbers, with a delta for few nodes."""
    many = DistributedNoise(NoiseShares(31, 1), nodes=40, dimension=50, grid=8)
    sigma = math.sqrt(30) / 8
    tau = 10 * math.fsum(math.exp(-2 * math.pi**2 * k / (k + 1)) for k in range(1, 40))
    once, often = (many.delta_terms(NoisedSums(1.0, sigma, steps), sigma, 1.0) for steps in (1, 3))
    assert once.convolution == pytest.approx(50 * tau)
    assert often.convolution == pytest.approx(3 * 50 * tau)
    assert once.total == pytest.approx(once.convolution + once.discretisation + once.sampler + once.overflow)


def test_a_grid_that_is_too_coarse_only_for_the_sum_of_shares_is_refused() -> None:
    """All else together is well within delta."""
    delta = 0.02
    many = DistributedNoise(NoiseShares(31, 1), nodes=40, dimension=5, grid=8)
    sigma = math.sqrt(30) / 8
    terms = many.delta_terms(NoisedSums(1.0, sigma, 1), sigma, 1.0)
    assert terms.convolution > 0.01 * delta
    assert terms.total < delta / 2
    with pytest.raises(GridTooCoarse, match="finer grid"):
        epsilon(1.0, sigma, 1, delta, many)
    assert epsilon(1.0, sigma, 1, delta, replace(many, grid=32)) > 0


def test_overflow_counts_once_a_step() -> None:
    assert EXACT.delta_terms(PLAN, PLAN.noise_multiplier, 3.0).overflow == 500 * 2.0**-40
    assert EXACT.delta_terms(PLAN.at_summed_hospitals(2), PLAN.noise_multiplier, 3.0).overflow == 1000 * 2.0**-40


def test_local_mode_pays_for_overflow_in_all_steps_of_all_rounds_and_for_nothing_else() -> None:
    terms = LocalNoise().delta_terms(PLAN, PLAN.noise_multiplier, 3.0)
    assert terms.total == terms.overflow == 500 * 2.0**-40 == 500 * OVERFLOW_PROBABILITY
    assert (
        LocalNoise().delta_terms(PLAN.at_separate_hospitals(3), PLAN.noise_multiplier, 3.0).overflow == 1500 * 2.0**-40
    )


@pytest.mark.parametrize("claim", [0.0, 1.0, 5.0])
def test_an_overflow_costs_at_most_its_chance_with_no_factor_of_epsilon(claim: float) -> None:
    """Exactly, for one step whose overflow would show: the sum is then 100 instead of 0 or 1."""
    rate, others, capacity = 0.3, 20, 9
    draws = [math.comb(others, count) * rate**count * (1 - rate) ** (others - count) for count in range(others + 1)]
    fits, fits_one_more = sum(draws[: capacity + 1]), sum(draws[:capacity])
    x = np.linspace(-12.0, 112.0, 400_001)

    def density(mean: float) -> NDArray[np.float64]:
        return np.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)

    without = fits * density(0) + (1 - fits) * density(100)
    drawn = fits_one_more * density(1) + (1 - fits_one_more) * density(100)
    present = (1 - rate) * without + rate * drawn
    analysed_with, analysed_without = (1 - rate) * density(0) + rate * density(1), density(0)
    width = x[1] - x[0]
    for real, ideal in [
        ((present, without), (analysed_with, analysed_without)),
        ((without, present), (analysed_without, analysed_with)),
    ]:
        cost = np.maximum(real[0] - math.exp(claim) * real[1], 0).sum() * width
        analysed = np.maximum(ideal[0] - math.exp(claim) * ideal[1], 0).sum() * width
        assert cost <= analysed + (1 - fits_one_more) + 1e-9
    # And it does cost: adding the patient makes overflows more likely.
    assert rate * (fits - fits_one_more) > 0.01


@pytest.mark.parametrize(("share", "nodes"), [(0.5, 2), (0.5, 5), (0.6, 3), (0.8, 4)])
def test_a_sum_of_discrete_gaussians_is_as_close_to_one_as_the_bound_says(share: float, nodes: int) -> None:
    def discrete_gaussian(width: float) -> NDArray[np.float64]:
        steps = np.arange(-60, 61)
        weights = np.exp(-(steps**2) / (2 * width**2))
        return np.asarray(weights / weights.sum())

    one = discrete_gaussian(share)
    total = one
    for _ in range(nodes - 1):
        total = np.convolve(total, one)
    total = total[60 * (nodes - 1) : 60 * (nodes - 1) + 121]
    near = np.abs(np.arange(-60, 61)) <= 6 * share * math.sqrt(nodes)
    ratio = np.log(total[near]) - np.log(discrete_gaussian(share * math.sqrt(nodes))[near])
    tau = convolution_distance(share, nodes)
    assert tau / 50 < np.abs(ratio).max() <= tau / 2


def test_shares_below_half_a_grid_step_have_no_bound() -> None:
    assert convolution_distance(0.49, 3) == math.inf
    assert convolution_distance(1000.0, 20) == 0


@pytest.mark.parametrize("sigma", [0.2, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("grid", [4, 7, 16])
@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_a_discrete_gaussian_costs_no_more_over_a_continuous_one_than_is_charged(
    sigma: float, grid: int, rate: float
) -> None:
    """One step, exactly, in both directions: a sum over the integers against an integral."""
    noise = DistributedNoise(SHARES, nodes=5, dimension=1, grid=grid)
    charged = noise.delta_terms(NoisedSums(rate, sigma, 1), sigma, 0.0).discretisation
    width = sigma * grid

    def curves(x: NDArray[np.float64], cell: float, claim: float) -> list[float]:
        absent = np.exp(-(x**2) / (2 * width**2))
        present = (1 - rate) * absent + rate * np.exp(-((x - grid) ** 2) / (2 * width**2))
        absent, present = absent / (absent.sum() * cell), present / (present.sum() * cell)
        pairs = [(present, absent), (absent, present)]
        return [float(np.maximum(one - math.exp(claim) * other, 0).sum() * cell) for one, other in pairs]

    reach = math.ceil(12 * width) + grid
    lattice = np.arange(-reach, reach + 1, dtype=np.float64)
    fine = np.arange(-reach, reach, 1 / 1024)
    for claim in np.linspace(0, 3, 13):
        for discrete, continuous in zip(curves(lattice, 1.0, claim), curves(fine, 1 / 1024, claim), strict=True):
            assert discrete - continuous <= charged


def test_a_discrete_gaussian_in_two_dimensions_costs_no_more_either() -> None:
    sigma, shift = 1.0, np.array([3.0, 2.0])
    grid = float(np.linalg.norm(shift))
    charged = 0.1 / (sigma * grid) ** 2
    steps = np.arange(-40.0, 41.0)
    x, y = np.meshgrid(steps, steps)
    absent = np.exp(-(x**2 + y**2) / (2 * (sigma * grid) ** 2))
    present = np.exp(-((x - shift[0]) ** 2 + (y - shift[1]) ** 2) / (2 * (sigma * grid) ** 2))
    absent, present = absent / absent.sum(), present / present.sum()
    for claim in np.linspace(0, 3, 13):
        discrete = np.maximum(present - math.exp(claim) * absent, 0).sum()
        continuous = _normal(0.5 / sigma - claim * sigma) - math.exp(claim) * _normal(-0.5 / sigma - claim * sigma)
        assert discrete - continuous <= charged


# Together


def test_the_default_grid_costs_next_to_nothing() -> None:
    terms = EXACT.delta_terms(PLAN, PLAN.noise_multiplier, 3.0)
    assert terms.convolution == 0
    assert terms.total < 1e-4 * DELTA
    assert epsilon(0.02, 0.9639, 500, DELTA) < epsilon(0.02, 0.9639, 500, DELTA, EXACT) < 3.0


def test_the_figure_holds_with_its_own_terms_taken_off() -> None:
    noise = replace(EXACT, grid=2**14, sampler_error=2.0**-75)
    found = epsilon(0.02, 0.9639, 500, DELTA, noise)
    left = DELTA - noise.delta_terms(PLAN, 0.9639, found).total
    assert epsilon(0.02, 0.9639, 500, left) <= found
    assert epsilon(0.02, 0.9639, 500, DELTA) < found


@pytest.mark.sweep
@pytest.mark.parametrize("target", [1.0, 3.0])
def test_calibration_meets_its_target_with_the_terms_in(target: float) -> None:
    noise = replace(EXACT, grid=2**13)
    found = calibrate(target, DELTA, 0.02, 500, noise)
    assert epsilon(0.02, found, 500, DELTA, noise) <= target
    assert epsilon(0.02, found - 1 / NOISE_UNITS, 500, DELTA, noise) > target
    assert found > calibrate(target, DELTA, 0.02, 500)


def test_where_all_is_exact_the_calibrated_noise_is_that_of_the_analysis() -> None:
    assert calibrate(3.0, DELTA, 0.02, 500, EXACT) == calibrate(3.0, DELTA, 0.02, 500) == 0.9639


def test_a_replaced_patient_and_one_at_two_hospitals_are_charged_their_longer_reach() -> None:
    little = NoisedSums(0.02, 0.5, 500)
    once, twice = (EXACT.delta_terms(little, 0.5, 3.0, reach).discretisation for reach in (1, 2))
    assert once < twice
    assert (little.reach(), little.reach(Relation.REPLACE), little.at_summed_hospitals(3).reach()) == (1, 2, 3)
    assert event_epsilon(PLAN, DELTA, EXACT, Relation.REPLACE) >= event_epsilon(PLAN, DELTA, None, Relation.REPLACE)


REFUSED = [
    ({"sampler_error": 2.0**-50}, SamplerTooCoarse, "error of at most"),
    ({"overflow_probability": 2.0**-30}, BatchesTooSmall, "take fewer steps"),
    ({"grid": 2}, GridTooCoarse, "finer grid"),
    ({"grid": 3}, GridTooCoarse, "finer grid"),
    ({"grid": 1000}, GridTooCoarse, "finer grid"),
]


def test_local_mode_refuses_batches_that_overflow_too_often() -> None:
    noise = LocalNoise(overflow_probability=2.0**-28)
    with pytest.raises(BatchesTooSmall, match=r"3\.7e-09 a step add 1.9e-06 to delta, more than 1 % of 1e-05"):
        epsilon(0.02, 0.9639, 500, DELTA, noise)
    with pytest.raises(BatchesTooSmall, match="take fewer steps"):
        calibrate(3.0, DELTA, 0.02, 500, noise)
    assert epsilon(0.02, 0.9639, 500, DELTA) < epsilon(0.02, 0.9639, 500, DELTA, LocalNoise(1e-10)) < 3.002
    with pytest.raises(OutOfRange, match=r"in \[0, 1\)"):
        LocalNoise(1.0)


@pytest.mark.parametrize(("changes", "kind", "text"), REFUSED)
def test_a_term_that_takes_too_much_of_delta_is_refused(
    changes: dict[str, Any], kind: type[DPError], text: str
) -> None:
    noise = replace(EXACT, **changes)
    with pytest.raises(kind, match=text):
        epsilon(0.02, 0.9639, 500, DELTA, noise)
    with pytest.raises(kind, match=text):
        calibrate(3.0, DELTA, 0.02, 500, noise)


def test_a_sampler_just_good_enough_passes_and_one_a_little_worse_does_not() -> None:
    edge = 0.01 * DELTA / ((1 + math.exp(3)) * 500 * 5 * 100_000)
    assert epsilon(0.02, 0.9639, 500, DELTA, replace(EXACT, sampler_error=0.99 * edge)) > 3.0 - 1e-4
    with pytest.raises(SamplerTooCoarse, match="more than 1 %"):
        epsilon(0.02, 0.9639, 500, DELTA, replace(EXACT, sampler_error=1.01 * edge))


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes": 3},
        {"dimension": 0},
        {"grid": 0},
        {"sampler_error": -1e-9},
        {"sampler_error": 1.0},
        {"overflow_probability": math.nan},
    ],
)
def test_noise_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OutOfRange, match="not"):
        replace(EXACT, **changes)
