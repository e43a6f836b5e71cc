"""How large a delta may be for so many units, and that what the error names is accepted."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp.delta_limit import check_delta_for, largest_delta
from dp.errors import DeltaTooLarge

WHO = "the patients of this test"


def test_a_delta_above_a_tenth_of_a_patient_is_refused_with_the_most_that_is_allowed() -> None:
    check_delta_for(Decimal("1e-5"), 10_000, WHO)
    with pytest.raises(DeltaTooLarge, match=r"above 1/\(10 N\) for N = 10001, the patients.* at most 9\.99e-6"):
        check_delta_for(Decimal("1e-5"), 10_001, WHO)


@given(st.integers(1, 10**11))
def test_the_largest_delta_that_is_named_will_do_and_hardly_more_would(units: int) -> None:
    named = Decimal(largest_delta(units))
    check_delta_for(named, units, WHO)
    with pytest.raises(DeltaTooLarge):
        check_delta_for(named * Decimal("1.011"), units, WHO)
