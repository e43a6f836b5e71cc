"""Events say what happened: to patients, records and nodes, with noise of one's own or in shares."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from typing import Any

import pytest
from dp_accounting import dp_event, pld
from dp_accounting.privacy_accountant import NeighboringRelation

from dp.accounting import event_epsilon
from dp.errors import DPError, OutOfRange
from dp.events import NoisedSums, NoiseShares, Relation, Unit

DELTA = 1e-5


def test_a_patients_event_is_a_composition_of_sampled_gaussians() -> None:
    sampled = dp_event.PoissonSampledDpEvent(0.02, dp_event.GaussianDpEvent(0.9639))
    assert NoisedSums(0.02, 0.9639, 500).dp_event() == dp_event.SelfComposedDpEvent(sampled, 500)
    assert NoisedSums(0.02, 0.9639, 500).dp_event() == NoisedSums(0.02, 0.9639, 500, unit=Unit.RECORD).dp_event()


def test_a_nodes_event_is_not_sampled_and_hides_what_it_sends_but_not_that_it_takes_part() -> None:
    event = NoisedSums(1.0, 2.0, 10, unit=Unit.NODE)
    assert event.dp_event() == dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(2.0), 10)
    assert event.relation is Relation.ZERO_OUT
    accountant = pld.PLDAccountant(NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(event.dp_event())
    assert event_epsilon(event, DELTA) == pytest.approx(accountant.get_epsilon(DELTA), rel=1e-4)


def test_the_choice_of_a_cohort_never_amplifies() -> None:
    with pytest.raises(OutOfRange, match="its presence in a cohort is no secret"):
        NoisedSums(0.1, 1.0, 10, unit=Unit.NODE)


def test_a_patient_at_summed_hospitals_is_a_binomial_mixture() -> None:
    event = NoisedSums(0.02, 1.0, 5).at_summed_hospitals(3)
    chances = [0.98**3, 3 * 0.02 * 0.98**2, 3 * 0.02**2 * 0.98, 0.02**3]
    assert event.draw_chances() == pytest.approx(chances)
    mixture = event.dp_event().event
    assert (mixture.sensitivities, mixture.sampling_probs) == ((0.0, 1.0, 2.0, 3.0), event.draw_chances())


def test_a_patient_at_separate_hospitals_is_a_longer_composition() -> None:
    assert NoisedSums(0.02, 1.0, 5).at_separate_hospitals(3) == NoisedSums(0.02, 1.0, 15)


def test_events_are_plain_values() -> None:
    event = NoisedSums(0.02, 1.0, 5)
    assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301
    assert len({event, NoisedSums(0.02, 1.0, 5)}) == 1


@pytest.mark.parametrize(
    "fields",
    [
        (0.0, 1.0, 1),
        (1.1, 1.0, 1),
        (math.nan, 1.0, 1),
        (0.1, 0.0, 1),
        (0.1, math.inf, 1),
        (0.1, 1.0, 0),
        (0.1, 1, 1, 0),
    ],
)
def test_an_impossible_event_is_refused(fields: tuple[Any, ...]) -> None:
    with pytest.raises(OutOfRange, match="not") as caught:
        NoisedSums(*fields)
    assert isinstance(caught.value, DPError)
    assert isinstance(caught.value, ValueError)


# Shares


def test_a_quorum_without_its_colluders_leaves_exactly_the_nominal_noise() -> None:
    for quorum, colluders in [(4, 1), (7, 2), (16, 5)]:
        shares = NoiseShares(quorum, colluders)
        assert shares.seen(0.9639, quorum, colluders) == 0.9639
        assert shares.share(0.9639) ** 2 * (quorum - colluders) == pytest.approx(0.9639**2)


def test_full_attendance_adds_more_noise_than_a_pooled_training() -> None:
    shares = NoiseShares(4, 1)
    assert shares.seen(1.0, 5, 0) == pytest.approx(1.29, abs=0.002)
    assert shares.seen(1.0, 5, 1) == pytest.approx(math.sqrt(4 / 3))


def test_noise_of_nobody_is_no_noise() -> None:
    assert NoiseShares(4, 1).seen(1.0, 4, 4) == 0
    with pytest.raises(OutOfRange, match="between 0 and 4"):
        NoiseShares(4, 1).seen(1.0, 4, 5)


@pytest.mark.parametrize(
    ("quorum", "colluders", "text"), [(4, 0, "or use local mode"), (2, 1, "raise the number"), (3, 3, "raise the")]
)
def test_shares_that_hide_nothing_are_refused(quorum: int, colluders: int, text: str) -> None:
    with pytest.raises(OutOfRange, match=text):
        NoiseShares(quorum, colluders)


def test_events_start_without_libraries() -> None:
    code = (
        "import sys, dp.events, dp.delta_terms, dp.tradeoff; "
        "sys.exit(bool({'torch', 'opacus', 'dp_accounting', 'numpy'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
