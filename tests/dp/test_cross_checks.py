"""Three accountants agree on a hundred random trainings: Renyi above, random variables within their tolerance."""

from __future__ import annotations

import math
import random

import pytest

from dp.accounting import (
    PRV_AGREEMENT,
    SMALLEST_CROSS_CHECK,
    epsilon,
    privacy_loss,
    prv_epsilon,
    rdp_epsilon,
)
from dp.errors import OutOfRange
from dp.events import NoisedSums

BATCHES = 10


def _random_training(choice: random.Random) -> tuple[float, float, int, float]:
    """q, sigma, T and delta with an epsilon between about 0.3 and 15."""
    rate = choice.choice([1.0, *(10 ** choice.uniform(-3, -0.7) for _ in range(4))])
    steps = int(10 ** choice.uniform(0, 2.8))
    if rate == 1:
        noise = math.sqrt(steps) * 10 ** choice.uniform(-0.3, 0.9)
    else:
        noise = max(0.6, 4 * rate * math.sqrt(steps) * 10 ** choice.uniform(-0.7, 0.5))
    return rate, noise, steps, 10 ** choice.uniform(-7, -5)


@pytest.mark.sweep
@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_accountants_agree_on_random_trainings(batch: int) -> None:
    choice = random.Random(f"cross-check {batch}")
    for _ in range(100 // BATCHES):
        training = _random_training(choice)
        # A coarser grid than that of the figure of record: faster, and higher by far less than what is allowed here.
        loss = privacy_loss(NoisedSums(*training[:3]), discretization=1e-3)
        record = loss.get_epsilon_for_delta(training[3])
        assert 0 < record <= rdp_epsilon(*training), training
        assert abs(prv_epsilon(*training) - record) <= PRV_AGREEMENT, training


@pytest.mark.parametrize("training", [(0.01, 1.0, 1000), (0.05, 1.0, 400), (0.02, 0.9639, 500), (1.0, 20.0, 100)])
def test_random_variables_lie_their_own_tolerance_above_the_figure_of_record(
    training: tuple[float, float, int],
) -> None:
    assert 0.009 < prv_epsilon(*training, 1e-5) - epsilon(*training, 1e-5) < 0.012


@pytest.mark.parametrize("training", [(0.01, 1.0, 1000), (0.06, 0.6422, 40), (1.0, 20.0, 100), (0.001, 0.7, 5000)])
def test_the_cross_checks_hold_down_to_the_smallest_delta_they_are_asked_for(
    training: tuple[float, float, int],
) -> None:
    record = epsilon(*training, SMALLEST_CROSS_CHECK)
    assert abs(prv_epsilon(*training, SMALLEST_CROSS_CHECK) - record) <= PRV_AGREEMENT
    assert rdp_epsilon(*training, SMALLEST_CROSS_CHECK) > record


def test_further_down_random_variables_can_lie_below_the_record_and_are_not_asked() -> None:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(0.7, 0.001, 5000)]
    assert accountant.get_epsilon(1e-12) < epsilon(0.001, 0.7, 5000, 1e-12) - PRV_AGREEMENT
    with pytest.raises(OutOfRange, match="below 1e-11"):
        prv_epsilon(0.001, 0.7, 5000, 1e-12)
