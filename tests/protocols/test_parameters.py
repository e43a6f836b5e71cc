"""Quorum, minima and ring width: what fits, what is refused, and what the refusal says."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import CohortTooSmall, ParameterError
from protocols.parameters import (
    HONEST_MIN,
    RING_BITS_MAX,
    RING_BITS_MIN,
    CohortRules,
    OverflowCertificate,
    RoundShape,
)


def fits(*numbers: int) -> bool:
    try:
        CohortRules(*numbers)
    except ParameterError:
        return False
    return True


def smallest_safe_quorum(roster_size: int, colluders: int) -> int | None:
    """By trying: the smallest t at which any two sets of t nodes share more nodes than there are colluders."""
    nodes = range(roster_size)
    for size in range(1, roster_size + 1):
        first = set(nodes[:size])  # by symmetry one of the two sets can be fixed
        if all(len(first & set(second)) > colluders for second in itertools.combinations(nodes, size)):
            return size
    return None


@pytest.mark.parametrize("roster_size", range(3, 9))
def test_the_quorum_is_the_smallest_at_which_any_two_quorums_share_an_honest_node(roster_size: int) -> None:
    for colluders in range(roster_size - 1):
        smallest = smallest_safe_quorum(roster_size, colluders)
        assert smallest is not None
        for dropouts in range(roster_size - smallest + 1):
            rules = CohortRules(roster_size, colluders, dropouts, colluders + HONEST_MIN)
            for cohort_size in range(smallest, roster_size + 1):
                assert rules.quorum(cohort_size) == max(cohort_size - dropouts, smallest)


def test_the_quorum_comes_from_the_roster_so_two_halves_cannot_both_make_a_round() -> None:
    rules = CohortRules(10, 0, 4, 2)
    for half in range(1, 6):
        with pytest.raises(CohortTooSmall, match=f"cohort of {half} cannot reach the quorum of 6"):
            rules.quorum(half)


def test_exactly_the_combinations_with_a_reachable_quorum_are_legal() -> None:
    for roster_size, colluders, dropouts, minimum in itertools.product(range(3, 10), range(11), range(11), range(12)):
        threshold = (roster_size + colluders) // 2 + 1
        expected = threshold <= roster_size - dropouts and colluders + HONEST_MIN <= minimum <= roster_size - dropouts
        assert fits(roster_size, colluders, dropouts, minimum) == expected


def test_a_refused_number_of_colluders_says_the_most_that_fit() -> None:
    for roster_size in range(3, 13):
        with pytest.raises(ParameterError) as refused:
            CohortRules(roster_size, roster_size, 0, roster_size)
        most = int(re.findall(r"at most c = (\d+) do", str(refused.value))[0])
        assert fits(roster_size, most, 0, roster_size)
        assert not any(fits(roster_size, most + 1, 0, minimum) for minimum in range(roster_size + 2))


def test_a_refused_number_of_dropouts_says_the_most_that_fit() -> None:
    for roster_size, colluders in [(3, 0), (5, 1), (9, 2), (12, 10)]:
        with pytest.raises(ParameterError) as refused:
            CohortRules(roster_size, colluders, roster_size, colluders + 2)
        most = int(re.findall(r"at most f = (\d+) can", str(refused.value))[0])
        assert fits(roster_size, colluders, most, colluders + 2)
        assert not fits(roster_size, colluders, most + 1, colluders + 2)


@pytest.mark.parametrize("minimum", [0, 2, 11, 100])
def test_a_refused_minimum_says_the_range_that_fits(minimum: int) -> None:
    with pytest.raises(ParameterError) as refused:
        CohortRules(12, 1, 2, minimum)
    least, most = map(int, re.findall(r"from (\d+) to (\d+)", str(refused.value))[0])
    assert fits(12, 1, 2, least)
    assert fits(12, 1, 2, most)
    assert not fits(12, 1, 2, least - 1)
    assert not fits(12, 1, 2, most + 1)


@pytest.mark.parametrize("numbers", [(2, 0, 0, 2), (1001, 0, 0, 2), (5, -1, 0, 2), (5, 0, -1, 2), (-5, 0, 0, 2)])
def test_impossible_sizes_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ParameterError):
        CohortRules(*numbers)


@pytest.mark.parametrize(("site_minimum", "site_honest_minimum"), [(6, 2), (0, 5)])
def test_a_site_that_demands_more_than_the_roster_cannot_join(site_minimum: int, site_honest_minimum: int) -> None:
    with pytest.raises(ParameterError, match="policy"):
        CohortRules(5, 1, 0, 3, site_minimum, site_honest_minimum)


@pytest.mark.parametrize(
    ("rules", "smallest"),
    [
        (CohortRules(9, 1, 3, 3), 6),  # the quorum, from the roster
        (CohortRules(9, 1, 1, 3), 8),  # the quorum, from f
        (CohortRules(9, 1, 2, 7), 7),  # n_min
        (CohortRules(9, 1, 3, 3, site_minimum=8), 8),  # the site's cohort
        (CohortRules(9, 1, 3, 3, site_honest_minimum=7), 8),  # the site's honest survivors, and c more
        (CohortRules(9, 1, 3, 3, site_honest_minimum=0), 6),  # a site cannot ask for less than the protocol
        (CohortRules(3, 1, 0, 3, site_honest_minimum=0), 3),
    ],
)
def test_every_minimum_holds_at_every_stage(rules: CohortRules, smallest: int) -> None:
    size = rules.roster_size
    assert rules.smallest_legal(size) == smallest
    assert rules.really_tolerated(size) == size - smallest
    rules.check_stage("the cohort", smallest, size)
    with pytest.raises(CohortTooSmall, match=f"has {smallest - 1} nodes where at least {smallest} are needed"):
        rules.check_stage("the cohort", smallest - 1, size)


def test_a_sites_minimum_never_changes_the_quorum() -> None:
    plain, strict = CohortRules(9, 1, 3, 3), CohortRules(9, 1, 3, 3, site_minimum=9, site_honest_minimum=8)
    assert [plain.quorum(size) for size in range(6, 10)] == [strict.quorum(size) for size in range(6, 10)]


@given(roster_size=st.integers(1, 1000), magnitude=st.integers(1, 2**50), tail=st.integers(0, 2**50) | st.just(0))
def test_the_ring_is_the_smallest_that_holds_the_worst_sum(roster_size: int, magnitude: int, tail: int) -> None:
    worst = roster_size * magnitude + tail
    if worst >= 1 << (RING_BITS_MAX - 1):
        with pytest.raises(ParameterError, match="at most 60 are allowed"):
            OverflowCertificate(roster_size, magnitude, tail)
        return
    bits = OverflowCertificate(roster_size, magnitude, tail).ring_bits
    assert worst < 1 << (bits - 1)
    assert bits == RING_BITS_MIN or worst >= 1 << (bits - 2)


@pytest.mark.parametrize("bits", range(8, 61))
def test_the_ring_grows_exactly_where_the_worst_sum_reaches_its_half(bits: int) -> None:
    largest = (1 << (bits - 1)) - 1
    assert OverflowCertificate(1, largest).ring_bits == bits
    assert OverflowCertificate(3, largest // 3, largest % 3).ring_bits == bits
    if bits < RING_BITS_MAX:
        assert OverflowCertificate(1, largest + 1).ring_bits == bits + 1
        assert OverflowCertificate(1, largest, 1).ring_bits == bits + 1
    else:
        with pytest.raises(ParameterError, match="ring of 61 bits"):
            OverflowCertificate(1, largest + 1)


@pytest.mark.parametrize("numbers", [(0, 1, 0), (3, 0, 0), (3, 1, -1)])
def test_a_certificate_needs_sensible_numbers(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ParameterError):
        OverflowCertificate(*numbers)


@pytest.mark.parametrize(("dimension", "bits"), [(0, 8), (-1, 8), (1 << 29, 8), (1, 7), (1, 61)])
def test_a_shape_outside_the_bounds_is_refused(dimension: int, bits: int) -> None:
    with pytest.raises(ParameterError):
        RoundShape(dimension, bits)
