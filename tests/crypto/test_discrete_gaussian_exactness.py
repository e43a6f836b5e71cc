"""The discrete Gaussian sampler is as exact as it says: its proof's steps, computed to 80 digits.

Statistics cannot see an error of 2^-100. These tests take the sampler apart instead: the exact distribution of its
proposals follows from its tables, and every decision is compared with one made in 80-digit decimal arithmetic, which
shares no code with the sampler's.
"""

from __future__ import annotations

import dataclasses
import decimal
import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from random import Random

import numpy as np
import pytest

from crypto import discrete_gaussian
from crypto.discrete_gaussian import LARGEST_VARIANCE, SAMPLER_ERROR, SMALLEST_VARIANCE, Words
from crypto.randomness import NoiseSecret
from tests.crypto.gaussian_masses import weight

COLUMN = 1 << 181
"""What one column of the alias table holds."""

TABLE_ERROR = Decimal(2) ** -178
"""The second part of the error bound: what rounding the tables may cost."""

SMALL = [Fraction(1, 16), Fraction(1, 4), Fraction(9), Fraction(10_000, 3), Fraction(10_000), Fraction(2**18 + 1, 7)]
WIDEST = [Fraction(4**k << 20, 180) for k in range(27)]
"""The largest variance for each number k of place bits: there the support is shortest."""
NARROWEST = [variance * Fraction(10**9 + 1, 10**9) for variance in WIDEST[:-1]]
"""A variance just above: there k is one more, and buckets are widest."""


@pytest.fixture(autouse=True)
def eighty_digits() -> Iterator[None]:
    with decimal.localcontext(decimal.Context(prec=80)):
        yield


def proposal_masses(table: discrete_gaussian._Table) -> list[int]:
    """What the alias table gives each bucket, in units of 2^-191: exactly."""
    thresholds = [int(first) << 128 | later for first, later in zip(table.first, table.later, strict=True)]
    masses = list(thresholds)
    for threshold, alias in zip(thresholds, table.alias.tolist(), strict=True):
        masses[alias] += COLUMN - threshold
    return masses


def distance(table: discrete_gaussian._Table) -> Decimal:
    """Total variation distance of a draw from the discrete Gaussian on its support, all decisions being exact."""
    masses = proposal_masses(table)
    places = 1 << table.place_bits
    drawn, wanted = [], []
    for magnitude in range(len(masses) * places):
        bucket = magnitude >> table.place_bits
        edge = bucket << table.place_bits
        signs = 2 if magnitude else 1
        drawn.append(signs * Decimal(masses[bucket]) * weight(magnitude**2 - edge**2, table.variance))
        wanted.append(signs * weight(magnitude**2, table.variance))
    drawn_total, wanted_total = sum(drawn), sum(wanted)
    return sum(abs(one / drawn_total - other / wanted_total) for one, other in zip(drawn, wanted, strict=True)) / 2


@pytest.mark.parametrize("variance", SMALL, ids=str)
def test_the_tables_give_the_distribution_to_the_error_that_is_claimed(variance: Fraction) -> None:
    assert distance(discrete_gaussian._table(variance)) < TABLE_ERROR


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(10_000)], ids=str)
def test_thresholds_of_one_word_would_not_reach_that_error(variance: Fraction) -> None:
    table = discrete_gaussian._table(variance)
    coarse = dataclasses.replace(table, later=(0,) * len(table.later))
    assert Decimal(SAMPLER_ERROR) < Decimal(2) ** -75 < distance(coarse) < Decimal(2) ** -50


def test_a_table_for_a_slightly_different_variance_is_far_from_that_error() -> None:
    table = dataclasses.replace(discrete_gaussian._table(Fraction(10_000)), variance=Fraction(10_001))
    assert distance(table) > Decimal("1e-5")


@pytest.mark.parametrize("variance", [*WIDEST, *NARROWEST, SMALLEST_VARIANCE, Fraction(LARGEST_VARIANCE)], ids=str)
def test_the_support_ends_where_less_than_the_claimed_error_is_left(variance: Fraction) -> None:
    table = discrete_gaussian._table(min(variance, Fraction(LARGEST_VARIANCE)))
    reach = 1 << (table.place_bits + 10)
    assert 2 * weight(reach**2, table.variance) + TABLE_ERROR < Decimal(SAMPLER_ERROR)
    # For what the tail bound leaves, a small support is summed: the bound holds, and is of the right size.
    if table.place_bits == 0:
        beyond = 2 * sum(weight(x**2, variance) for x in range(reach, reach + 400))
        assert beyond / (1 + 2 * sum(weight(x**2, variance) for x in range(1, reach))) <= 2 * weight(reach**2, variance)


@pytest.mark.parametrize("variance", [*WIDEST[:-1], *NARROWEST, Fraction(LARGEST_VARIANCE)], ids=str)
def test_the_tables_are_whole_and_their_sums_exact(variance: Fraction) -> None:
    table = discrete_gaussian._table(variance)
    masses = proposal_masses(table)
    assert sum(masses) == 1024 * COLUMN
    assert all(0 <= int(first) <= 1 << 53 for first in table.first)
    edges = [weight((bucket << table.place_bits) ** 2, variance) for bucket in range(1024)]
    total = sum(edges)
    for mass, edge in zip(masses, edges, strict=True):
        assert abs(Decimal(mass) - edge / total * 1024 * COLUMN) < 1100
    # In uint64 nothing may overflow, for the largest place of the last bucket.
    last = (1 << table.place_bits) - 1
    excess = ((1023 << table.place_bits + 1) + last) * last
    if table.place_bits:
        assert (table.slope + 1) * ((excess >> table.cut) + 1) < 1 << 63
        assert int(table.certain[-1]) < 1 << 32


def test_a_cached_table_cannot_be_written() -> None:
    table = discrete_gaussian._table(Fraction(9))
    for array in (table.first, table.alias, table.certain):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("bits", [32, 96, 224])
def test_the_bounds_of_exp_enclose_it_closely(bits: int) -> None:
    random = Random(bits)
    cases = [Fraction(random.randrange(1, 10**9), random.randrange(1, 10**9)) for _ in range(200)]
    cases += [Fraction(random.randrange(250 * 10**20), 10**20) for _ in range(200)]
    cases += [Fraction(1, 10**30), Fraction(1), Fraction(bits - 1), Fraction(bits), Fraction(10**9), Fraction(0)]
    for z in cases:
        low, high = discrete_gaussian._exp_bounds(z, bits)
        exact = weight(2 * z.numerator, Fraction(z.denominator)) * 2**bits
        assert low - Decimal(1) / 2**30 <= exact <= high + Decimal(1) / 2**30
        assert high - low <= 2
    assert discrete_gaussian._exp_bounds(Fraction(0), bits) == (1 << bits, 1 << bits)


def test_the_bounds_of_exp_hold_right_beside_a_whole_number() -> None:
    # z is such that 2^32 exp(-z) misses a whole number by 2^-100: a bound rounded the wrong way lands beyond it.
    random = Random(1)
    for _ in range(300):
        whole = random.randrange(2**24, 2**32)
        for side in (-1, 1):
            z = Fraction(-((whole + side * Decimal(2) ** -100) / 2**32).ln())
            low, high = discrete_gaussian._exp_bounds(z, 32)
            assert low <= (whole if side > 0 else whole - 1)
            assert high >= (whole + 1 if side > 0 else whole)


@pytest.mark.parametrize("variance", [*NARROWEST, Fraction(10_000), Fraction(LARGEST_VARIANCE)], ids=str)
def test_the_bounds_of_rejection_enclose_its_probability(variance: Fraction) -> None:
    table = discrete_gaussian._table(variance)
    places = 1 << table.place_bits
    random = Random(int(variance))
    pairs = [(random.randrange(1024), random.randrange(places)) for _ in range(300)]
    pairs += [(0, 0), (0, places - 1), (1023, 0), (1023, places - 1), (1, 1), (1023, 1)]
    excess = np.array([((j << table.place_bits + 1) + offset) * offset for j, offset in pairs], dtype=np.uint64)
    for (j, _), value, low, high in zip(
        pairs, excess.tolist(), *discrete_gaussian._bounds_of_rejection(table, excess), strict=True
    ):
        exact = (1 - weight(value, variance)) * 2**32
        assert int(low) <= exact <= int(high)
        assert exact <= int(table.certain[j])
        z = value / float(2 * variance)
        # No wider than the series cut after z, one unit of the excess, and some roundings.
        assert int(high) - int(low) < z * z / 2 * 2**32 + 2 * (table.slope >> 31) + 8


class Scripted:
    """Words that a test writes down: first one proposal, then what its lazy comparisons ask for."""

    def __init__(self, choice: int, place: int, *later: int) -> None:
        self._proposal = (choice, place)
        self.later = list(later)

    def __call__(self, count: int) -> np.ndarray:
        if self._proposal:
            choice, place = self._proposal
            self._proposal = ()
            return np.array([choice] * (count // 2) + [place] * (count // 2), dtype=np.uint64)
        taken, self.later = self.later[:count], self.later[count:]
        assert len(taken) == count, "a comparison went on for longer than the test foresaw"
        return np.array(taken, dtype=np.uint64)


def propose(table: discrete_gaussian._Table, words: Words) -> list[int]:
    return discrete_gaussian._proposals(table, words, 1).tolist()


@pytest.mark.parametrize("variance", [Fraction(9), Fraction(10_000), Fraction(2**40, 3)], ids=str)
def test_a_tied_choice_is_decided_by_later_words(variance: Fraction) -> None:
    table = discrete_gaussian._table(variance)
    columns = [j for j in range(1024) if 0 < table.first[j] < 1 << 53 and table.later[j] > 0][::40]
    assert columns
    for column in columns:
        later = table.later[column]
        choice = column << 54 | int(table.first[column]) << 1
        kept, given = (int(j) << table.place_bits for j in (column, table.alias[column]))
        for number, wanted in ((later - 1, kept), (later, given), (0, kept), ((1 << 128) - 1, given)):
            words = Scripted(choice, (1 << 32) - 1, number >> 64, number & (1 << 64) - 1)
            assert propose(table, words) == [wanted]
            assert words.later == []
        # One unit off in the first word, nothing more is asked.
        assert propose(table, Scripted(choice - 2, (1 << 32) - 1)) == [kept]
        assert propose(table, Scripted(choice + 2, (1 << 32) - 1)) == [given]


@pytest.mark.parametrize("variance", [Fraction(10_000), Fraction(2**40, 3), Fraction(2**64)], ids=str)
def test_a_close_acceptance_is_decided_by_later_words(variance: Fraction) -> None:
    table = discrete_gaussian._table(variance)
    for column in (0, 20, 100):
        offset = (1 << table.place_bits) - 1
        edge = column << table.place_bits
        choice = column << 54
        assert table.first[column] > 0
        rejected = (1 - weight((edge + offset) ** 2 - edge**2, variance)) * 2**32
        near = int(rejected)
        place = offset << 32 | near
        following = int((rejected - near) * 2**64)
        assert propose(table, Scripted(choice, place, following - 1)) == []
        assert propose(table, Scripted(choice, place, following + 1)) == [edge + offset]
        assert propose(table, Scripted(choice | 1, place, following + 1)) == [-edge - offset]
        # On a tie of 96 bits, another word decides.
        last = int(((rejected - near) * 2**64 - following) * 2**64)
        assert propose(table, Scripted(choice, place, following, last - 1)) == []
        assert propose(table, Scripted(choice, place, following, last + 1)) == [edge + offset]
        # One unit off in the first 32 bits, none does.
        assert propose(table, Scripted(choice, place - 1)) == []
        assert propose(table, Scripted(choice, place + 1)) == [edge + offset]


def test_zero_is_accepted_with_one_sign_only() -> None:
    table = discrete_gaussian._table(Fraction(10_000))
    assert propose(table, Scripted(0, 0)) == [0]
    assert propose(table, Scripted(1, 0)) == []


def proposed_by_hand(table: discrete_gaussian._Table, choice: int, place: int) -> int | None:
    """What becomes of one proposal, in plain integers and decimals. Ties do not occur: they have tests of their own."""
    column, uniform, negative = choice >> 54, (choice >> 1) % 2**53, choice % 2
    assert uniform != table.first[column]
    bucket = column if uniform < table.first[column] else int(table.alias[column])
    edge = bucket << table.place_bits
    magnitude = edge + (place >> 32) % 2**table.place_bits
    rejected = (1 - weight(magnitude**2 - edge**2, table.variance)) * 2**32
    assert magnitude == edge or int(rejected) != place % 2**32
    if place % 2**32 < int(rejected) or (magnitude == 0 and negative):
        return None
    return -magnitude if negative else magnitude


@pytest.mark.parametrize(
    "variance", [Fraction(1, 4), Fraction(10_000), Fraction(2**24), NARROWEST[19], Fraction(2**64)], ids=str
)
def test_every_proposal_is_decided_as_it_is_by_hand(variance: Fraction) -> None:
    # Half of the uniform numbers are small, so that rejection is seen as often as acceptance.
    count = 4000
    table = discrete_gaussian._table(variance)
    entropy = NoiseSecret(bytes).stream("by hand", str(variance)).uniform_words(2 * count)
    entropy[count::2] &= np.uint64(~(0xFE << 24) % 2**64)
    asked = []

    def words(asked_for: int) -> np.ndarray:
        asked.append(asked_for)
        return entropy if len(asked) == 1 else np.full(asked_for, 2**63, dtype=np.uint64)

    values = discrete_gaussian._proposals(table, words, count).tolist()
    by_hand = [proposed_by_hand(table, *words) for words in zip(*entropy.reshape(2, count).tolist(), strict=True)]
    assert values == [value for value in by_hand if value is not None]
    assert len(values) < count


def test_the_error_of_a_whole_study_is_far_below_any_delta() -> None:
    # A thousand rounds, a hundred nodes, a hundred million parameters, epsilon 8.
    assert (1 + math.exp(8)) * 1000 * 100 * 1e8 * SAMPLER_ERROR < 1e-21
