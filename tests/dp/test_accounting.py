"""The figures of docs and design, pinned, and the promise that a calibrated noise keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest
from dp_accounting import pld

from dp.accounting import (
    FailingNodes,
    calibrate,
    epsilon,
    epsilon_by_failing_nodes,
    event_epsilon,
    prv_epsilon,
    rdp_epsilon,
)
from dp.delta_terms import DistributedNoise
from dp.errors import ImpossibleTarget, OutOfRange
from dp.events import NoisedSums, NoiseShares, Relation, Unit

DELTA = 1e-5
PLAN = NoisedSums(0.02, 0.9639, 500)
NOISE = DistributedNoise(NoiseShares(quorum=4, colluders=1), nodes=5, dimension=100_000)
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


def test_distributed_noise_is_calibrated_to_the_same_pinned_figures() -> None:
    found = calibrate(8.0, DELTA, 0.02, 500, NOISE)
    assert found == 0.6552
    assert epsilon(0.02, found, 500, DELTA, NOISE) <= 8.0 < epsilon(0.02, 0.6551, 500, DELTA, NOISE)


def test_a_changed_diagnosis_costs_more_than_a_patient_more_or_less() -> None:
    assert event_epsilon(PLAN, DELTA, relation=Relation.REPLACE) == pytest.approx(4.46, abs=0.005)


def test_a_node_is_charged_as_a_plain_gaussian() -> None:
    assert event_epsilon(NoisedSums(1.0, 20.0, 100, unit=Unit.NODE), DELTA) == pytest.approx(1.993, abs=0.001)


# A patient at several hospitals


@pytest.mark.parametrize(("hospitals", "expected"), [(1, 3.00), (2, 6.59), (3, 10.61)])
def test_a_patient_at_summed_hospitals_has_the_pinned_figure(hospitals: int, expected: float) -> None:
    assert event_epsilon(PLAN.at_summed_hospitals(hospitals), DELTA) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize(("hospitals", "expected"), [(1, 3.00), (2, 4.20), (3, 5.18)])
def test_a_patient_at_separate_hospitals_has_the_pinned_figure(hospitals: int, expected: float) -> None:
    assert event_epsilon(PLAN.at_separate_hospitals(hospitals), DELTA) == pytest.approx(expected, abs=0.005)


def test_at_summed_hospitals_a_multiple_of_epsilon_is_below_the_truth() -> None:
    assert event_epsilon(PLAN.at_summed_hospitals(2), DELTA) > 2 * event_epsilon(PLAN, DELTA)


def test_a_patient_at_summed_hospitals_can_not_be_charged_as_replaced() -> None:
    with pytest.raises(OutOfRange, match="several sites"):
        event_epsilon(PLAN.at_summed_hospitals(2), DELTA, relation=Relation.REPLACE)


# What the classic bugs cost


def test_records_sampled_and_clipped_one_by_one_cost_a_patient_of_four_the_pinned_figure() -> None:
    assert event_epsilon(NoisedSums(0.01, 1.0, 1000, draws=4), DELTA) == pytest.approx(8.90, abs=0.005)


def test_patients_sampled_but_records_clipped_one_by_one_have_four_times_the_sensitivity() -> None:
    assert epsilon(0.01, 1.0 / 4, 1000, DELTA) == pytest.approx(121.6, abs=0.05)


def test_an_uncounted_coordinate_more_than_doubles_epsilon() -> None:
    assert epsilon(0.02, 0.9639 / 2**0.5, 500, DELTA) == pytest.approx(7.2, abs=0.05)


# Nodes that fail


def test_one_more_node_without_noise_has_the_pinned_figure() -> None:
    rows = epsilon_by_failing_nodes(PLAN, DELTA, NOISE, survivors=4)
    assert [row.failing for row in rows] == [0, 1, 2, 3, 4]
    assert rows[2].epsilon == pytest.approx(4.87, abs=0.005)


def test_the_nominal_row_is_the_figure_of_record_and_no_noise_is_no_guarantee() -> None:
    rows = epsilon_by_failing_nodes(PLAN, DELTA, NOISE, survivors=4)
    assert rows[1] == FailingNodes(1, 0.9639, epsilon(0.02, 0.9639, 500, DELTA, NOISE))
    assert rows[4] == FailingNodes(4, 0.0, float("inf"))


@pytest.mark.sweep
def test_the_table_grows_with_every_failing_node_down_to_hardly_any_noise() -> None:
    noise = DistributedNoise(NoiseShares(quorum=10, colluders=1), nodes=11, dimension=1000)
    rows = epsilon_by_failing_nodes(NoisedSums(0.02, 0.35, 20), DELTA, noise, survivors=10)
    values = [row.epsilon for row in rows]
    assert values == sorted(values)
    assert rows[-2].noise_multiplier < 1 / 8 < rows[0].noise_multiplier
    assert rows[-2].epsilon < float("inf")


def test_more_survivors_than_the_quorum_make_a_better_figure_as_run() -> None:
    as_run = epsilon_by_failing_nodes(PLAN, DELTA, NOISE, survivors=5)[1]
    assert as_run.noise_multiplier == pytest.approx(0.9639 * (4 / 3) ** 0.5)
    assert as_run.epsilon < epsilon(0.02, 0.9639, 500, DELTA, NOISE)


def test_the_event_describes_what_is_charged() -> None:
    accountant = pld.PLDAccountant()
    accountant.compose(NoisedSums(0.06, 1.5, 40).dp_event())
    assert epsilon(0.06, 1.5, 40, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-6)


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
    for figure in (epsilon, rdp_epsilon, prv_epsilon):
        with pytest.raises(OutOfRange, match="not"):
            figure(*event, DELTA)
    with pytest.raises(OutOfRange, match="not"):
        NoisedSums(*event)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, float("nan")])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    for figure in (epsilon, rdp_epsilon, prv_epsilon):
        with pytest.raises(OutOfRange, match="delta"):
            figure(0.1, 1.0, 1, delta)
    with pytest.raises(OutOfRange, match="delta"):
        calibrate(1.0, delta, 0.1, 1)


@pytest.mark.parametrize("target", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_target_is_refused(target: float) -> None:
    with pytest.raises(OutOfRange, match="target epsilon"):
        calibrate(target, DELTA, 0.1, 1)


def test_accounting_and_ledger_start_without_torch() -> None:
    code = (
        "import sys, dp.accounting, dp.ledger; "
        "sys.exit(bool({'torch', 'opacus', 'dp_accounting'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
