"""Three accountants agree on a hundred random trainings: Renyi above, random variables within their tolerance."""

from __future__ import annotations

import math
import random

import pytest

from dp.accounting import epsilon, privacy_loss, prv_epsilon, rdp_epsilon
from dp.events import NoisedSums

BATCHES = 10
PRV_TOLERANCE = 0.02


def _random_training(choice: random.Random) -> tuple[float, float, int, float]:
    """q, sigma, T and delta with an epsilon between about 0.3 and 15."""
    rate = choice.choice([1.0, *(10 ** choice.uniform(-3, -0.7) for _ in range(4))])
    steps = int(10 ** choice.uniform(0, 2.8))
    if rate == 1:
        noise = math.sqrt(steps) * 10 ** choice.uniform(-0.3, 0.9)
    else:
        noise = max(0.6, 4 * rate * math.sqrt(steps) * 10 ** choice.uniform(-0.7, 0.5))
    return rate, noise, steps, 10 ** choice.uniform(-7, -5)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_the_accountants_agree_on_random_trainings(batch: int) -> None:
    choice = random.Random(f"cross-check {batch}")
    for _ in range(100 // BATCHES):
        training = _random_training(choice)
        # A coarser grid than that of the figure of record: faster, and higher by far less than what is allowed here.
        loss = privacy_loss(NoisedSums(*training[:3]), discretization=1e-3)
        record = loss.get_epsilon_for_delta(training[3])
        assert 0 < record <= rdp_epsilon(*training), training
        assert abs(prv_epsilon(*training) - record) <= PRV_TOLERANCE, training


@pytest.mark.parametrize("training", [(0.01, 1.0, 1000), (0.05, 1.0, 400), (0.02, 0.9639, 500), (1.0, 20.0, 100)])
def test_random_variables_lie_their_own_tolerance_above_the_figure_of_record(
    training: tuple[float, float, int],
) -> None:
    assert 0.009 < prv_epsilon(*training, 1e-5) - epsilon(*training, 1e-5) < 0.012
