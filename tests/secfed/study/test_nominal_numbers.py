"""A nominal number of patients is a rounded one: it need not be the true one, and batches suffice for all it allows."""

from __future__ import annotations

import pytest

from audits.simulator.studies import study_from
from dp.step_plan import batches_needed
from secfed.errors import UserError
from secfed.models.data import Record
from secfed.study.manifest import Study, band_around
from tests.secfed.rounds.test_distributed_study import values


def study_with(nominal: int) -> Study:
    found = values()
    found["roster"][0]["patients"] = nominal
    return study_from(found)


@pytest.mark.parametrize("nominal", [1, 5, 9, 10, 49])
def test_a_small_number_stands_for_five_more_and_five_less(nominal: int) -> None:
    assert band_around(nominal) == (max(1, nominal - 5), nominal + 5)


@pytest.mark.parametrize(("nominal", "give"), [(50, 5), (59, 5), (60, 6), (1900, 190)])
def test_a_larger_one_stands_for_a_tenth(nominal: int, give: int) -> None:
    assert band_around(nominal) == (nominal - give, nominal + give)


@pytest.mark.parametrize("true", range(5, 200))
def test_any_number_rounded_to_the_next_ten_is_allowed(true: int) -> None:
    fewest, most = band_around((true + 5) // 10 * 10)
    assert fewest <= true <= most


@pytest.mark.parametrize("nominal", [1, 7, 10, 49, 50, 1000])
def test_the_site_and_the_padded_batches_go_by_the_same_band(nominal: int) -> None:
    study = study_with(nominal)
    fewest, most = band_around(nominal)
    name, record = study.roster[0].name, [Record("a fracture", 0)]
    for true in (fewest, most):
        study.mechanism.check_size(name, {str(patient): record for patient in range(true)})
    for true in {fewest - 1, most + 1} - {0}:
        with pytest.raises(UserError, match=f"allowed: {fewest} to {most}"):
            study.mechanism.check_size(name, {str(patient): record for patient in range(true)})
    plan, privacy = study.mechanism.plan(0), study.privacy
    assert plan.batches == batches_needed(most, privacy.sampling_rate, plan.most_records, plan.physical_batch)
