"""The estimate from which the search for noise begins lies beside what the accountant of record gives."""

from __future__ import annotations

import pytest

from dp.accounting import calibrate, epsilon
from dp.noise_estimate import estimated_noise

TARGETS = [
    (8.0, 1e-5, 0.06, 40),
    (3.0, 1e-5, 1.0, 10),
    (2.0, 1e-8, 0.02, 20_000),
    (0.5, 1e-6, 0.01, 100),
    (0.7, 4.6e-12, 1.0, 1927),
    (0.5, 3.7e-9, 0.005, 6775),
    (23.7, 7.5e-9, 1.0, 590),
    (1.0, 2e-6, 0.0004, 26),
]


@pytest.mark.parametrize("target", TARGETS)
def test_the_figure_of_record_meets_its_target_beside_the_estimate(target: tuple[float, float, float, int]) -> None:
    wanted, delta, rate, steps = target
    about = estimated_noise(*target)
    assert epsilon(rate, 1.005 * about, steps, delta) <= wanted < epsilon(rate, 0.99 * about, steps, delta)


def test_the_search_ends_at_the_smallest_noise_wherever_it_began() -> None:
    target = TARGETS[1]
    wanted, delta, rate, steps = target
    found = calibrate(*target)
    assert epsilon(rate, found, steps, delta) <= wanted < epsilon(rate, found - 1e-4, steps, delta)


def test_targets_beyond_all_noise_end_at_the_ends_of_the_range() -> None:
    assert estimated_noise(100.0, 0.5, 1e-9, 1) == pytest.approx(1 / 16, rel=1e-5)
    assert estimated_noise(1e-4, 1e-9, 1.0, 100_000) == pytest.approx(4096, rel=1e-5)
