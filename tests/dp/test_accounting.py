"""The figures of docs and design, pinned, and the promise that a calibrated noise keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest
from dp_accounting import pld

from dp.accounting import calibrate, epsilon, epsilon_curve, local_event, rdp_epsilon
from dp.errors import ImpossibleTarget

DELTA = 1e-5
PINNED = [
    ((0.01, 1.0, 1000), 1.828, 0.001),
    ((0.01, 0.6, 1000), 7.43, 0.005),
    ((0.05, 1.0, 400), 6.70, 0.005),
    ((1.0, 20.0, 100), 1.99, 0.005),
    ((0.02, 0.6551, 500), 8.0007, 0.0001),
]


@pytest.mark.parametrize(("event", "expected", "tolerance"), PINNED)
def test_epsilon_has_the_pinned_figure(event: tuple[float, float, int], expected: float, tolerance: float) -> None:
    assert epsilon(*event, DELTA) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("event", "_expected", "_tolerance"), PINNED)
def test_the_second_accountant_lies_above_the_first(
    event: tuple[float, float, int], _expected: float, _tolerance: float
) -> None:
    assert epsilon(*event, DELTA) < rdp_epsilon(*event, DELTA) < 1.5 * epsilon(*event, DELTA)


@pytest.mark.parametrize(("target", "noise_multiplier"), [(1.0, 1.8786), (3.0, 0.9639), (8.0, 0.6552)])
def test_calibration_rounds_up_to_the_pinned_noise_and_keeps_the_target(target: float, noise_multiplier: float) -> None:
    found = calibrate(target, DELTA, 0.02, 500)
    assert found == noise_multiplier
    assert epsilon(0.02, found, 500, DELTA) <= target
    assert epsilon(0.02, found - 0.0001, 500, DELTA) > target


def test_the_event_describes_what_is_charged() -> None:
    accountant = pld.PLDAccountant()
    accountant.compose(local_event(0.06, 1.5, 40))
    assert epsilon(0.06, 1.5, 40, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-6)


def test_epsilon_grows_round_by_round_to_the_whole_figure() -> None:
    curve = epsilon_curve(0.06, 1.5, 4, 5, DELTA)
    assert list(curve) == sorted(curve)
    assert curve[0] > 0
    assert curve[-1] == epsilon(0.06, 1.5, 20, DELTA)


def test_more_noise_fewer_steps_and_rarer_draws_each_cost_less() -> None:
    whole = epsilon(0.06, 1.5, 40, DELTA)
    assert epsilon(0.06, 1.6, 40, DELTA) < whole
    assert epsilon(0.06, 1.5, 39, DELTA) < whole
    assert epsilon(0.05, 1.5, 40, DELTA) < whole


@pytest.mark.parametrize("target", [1e-4, 1e6])
def test_a_target_that_no_reasonable_noise_meets_is_refused(target: float) -> None:
    with pytest.raises(ImpossibleTarget, match="needs a noise multiplier"):
        calibrate(target, DELTA, 1.0, 1000)


@pytest.mark.parametrize("event", [(0.0, 1.0, 1), (1.1, 1.0, 1), (0.1, 0.0, 1), (0.1, float("nan"), 1), (0.1, 1.0, 0)])
def test_an_impossible_event_is_refused(event: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="not"):
        local_event(*event)
    with pytest.raises(ValueError, match="not"):
        epsilon(*event, DELTA)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon(0.1, 1.0, 1, delta)


def test_accounting_and_ledger_start_without_torch() -> None:
    code = (
        "import sys, dp.accounting, dp.ledger; "
        "sys.exit(bool({'torch', 'opacus', 'dp_accounting'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
