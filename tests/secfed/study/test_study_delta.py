"""A study's delta is held to everybody whom it is promised to: all patients of the roster, not one hospital's."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from secfed.demo.workspace import DemoSettings
from tests.secfed.federation import identities, make_study
from tests.secfed.rounds.test_distributed_study import study_of


def roster(count: int, patients: int) -> list[dict[str, Any]]:
    return [
        {"name": f"hospital-{node}", "identity": key.public.raw.hex(), "patients": patients}
        for node, key in enumerate(identities(count))
    ]


@pytest.mark.parametrize("make", [make_study, study_of], ids=["local", "distributed"])
def test_a_hundred_hospitals_are_promised_a_delta_for_all_their_patients(make: Any) -> None:
    wide = {"roster": roster(100, 10_000), "cohort": {"colluders": 10, "tolerated_dropouts": 10, "minimum": 80}}
    said = r"1/\(10 N\) for N = 1000000, the patients of the whole roster together: .* Use at most 1e-7"
    with pytest.raises(ValidationError, match=said):
        make(**wide, privacy={"delta": 1e-5})
    assert make(**wide, privacy={"delta": 1e-7}).privacy.delta == 1e-7


def test_the_limit_is_met_exactly() -> None:
    assert make_study(roster=roster(4, 2_500), privacy={"delta": 1e-5}).privacy.delta == 1e-5
    with pytest.raises(ValidationError, match=r"N = 10004, .* Use at most 9\.99e-6"):
        make_study(roster=roster(4, 2_501), privacy={"delta": 1e-5})


def test_where_the_unit_is_a_record_records_are_counted() -> None:
    with pytest.raises(ValidationError, match=r"N = 12000, the records of the whole roster"):
        study_of(roster=roster(6, 2_000), privacy={"unit": "record", "delta": 1e-5})


def test_the_demo_keeps_its_own_rule() -> None:
    settings = DemoSettings()
    assert 10 * settings.patients * settings.delta <= 1
