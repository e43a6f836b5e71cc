"""The plain figures of risk, against closed forms where there are some."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp.events import NoisedSums
from dp.tradeoff import membership_bound
from secfed.files.figures import rounded_up, scientific
from secfed.reports.risk import Training, assess


def _normal(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def _normal_inverse(share: float) -> float:
    low, high = -10.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _normal(middle) < share else (low, middle)
    return low


# Risk


@pytest.mark.sweep
@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0])
def test_the_membership_bound_of_a_single_gaussian_is_the_exact_one_or_barely_above(sigma: float) -> None:
    # Neyman and Pearson: the best test against N(0, sigma^2) and N(1, sigma^2) finds Phi(Phi^-1(FPR) + 1/sigma).
    for bound in assess(Training(NoisedSums(1.0, sigma, 1), 1e-5)).membership:
        exact = _normal(_normal_inverse(bound.false_positive_rate) + 1 / sigma)
        assert exact - 1e-9 <= bound.true_positive_rate <= 1.03 * exact


def test_the_membership_advantage_of_a_single_gaussian_is_the_exact_one() -> None:
    # Total variation of N(0, 1) and N(1, 1): 2 Phi(1/2) - 1.
    assert assess(Training(NoisedSums(1.0, 1.0, 1), 1e-5)).membership_advantage == pytest.approx(
        2 * _normal(0.5) - 1, abs=1e-3
    )


def test_replace_one_and_two_hospitals_cost_what_the_design_says() -> None:
    # The design's "plan 3": q = .02, sigma = .9639, T = 500 at delta 1e-5.
    risk = assess(Training(NoisedSums(0.02, 0.9639, 500), 1e-5))
    assert risk.epsilon == pytest.approx(3.0, abs=0.005)
    assert risk.epsilon_replace_one == pytest.approx(4.46, abs=0.01)
    assert [count for count, _ in risk.epsilon_at_hospitals] == [1, 2, 3]
    assert risk.epsilon_at_hospitals[0][1] == risk.epsilon
    assert risk.epsilon_at_hospitals[1][1] == pytest.approx(4.20, abs=0.01)


@given(st.floats(0.001, 0.5), st.floats(0, 10), st.floats(0, 0.01))
def test_the_bound_from_one_epsilon_is_the_published_formula(rate: float, epsilon: float, delta: float) -> None:
    published = min(1.0, math.exp(epsilon) * rate + delta, 1 - math.exp(-epsilon) * (1 - delta - rate))
    assert membership_bound(rate, [epsilon], [delta]) == pytest.approx(published)
    assert membership_bound(rate, [epsilon], [delta]) >= rate - 1e-9


@given(st.floats(0, 1000), st.integers(0, 4))
def test_a_rounded_epsilon_is_never_below_the_true_one(value: float, decimals: int) -> None:
    shown = float(rounded_up(value, decimals))
    assert value - 1e-8 <= shown <= value + 10**-decimals


def test_round_figures_stay_round() -> None:
    assert rounded_up(8.0, 2) == "8.00"
    assert rounded_up(0.1 + 0.2, 1) == "0.3"
    assert rounded_up(7.9972, 2) == "8.00"
    assert scientific(1e-5) == "1e-5"
    assert scientific(8.0) == "8"
