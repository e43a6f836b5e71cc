"""A patient's part in a step: drawn by a coin of its own, clipped once, whole, and the same whoever else is there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dp.patients
from crypto.randomness import NoiseSecret
from dp.patients import Drawn, clipped_integers, draw_patients, patient_vectors, square_sum

GRID = 1 << 20
ROWS = {f"patient-{number}": range(5 * number, 5 * number + 5) for number in range(400)}


def secret(value: int = 1) -> NoiseSecret:
    return NoiseSecret(lambda count: bytes([value]) * count)


def finished(gradient: np.ndarray, clip: float = 1.0, grid: int = GRID) -> np.ndarray:
    vector = clipped_integers(gradient, clip, grid)
    assert vector is not None
    return vector


def exact_square_sum(vector: np.ndarray) -> int:
    return sum(int(value) ** 2 for value in vector)


magnitudes = st.floats(min_value=-1e30, max_value=1e30, allow_nan=False)


@settings(deadline=None, max_examples=300)
@given(st.lists(magnitudes, min_size=1, max_size=40), st.floats(1e-6, 1e6))
def test_no_gradient_is_longer_than_the_clip_and_rounding_only_shortens(values: list[float], clip: float) -> None:
    gradient = np.array(values, dtype=np.float64)
    vector = finished(gradient, clip)
    assert exact_square_sum(vector) <= GRID**2
    squared_norm = sum(Fraction(value) ** 2 for value in values)
    largest_scale = min(Fraction(GRID) ** 2 / Fraction(clip) ** 2, GRID**2 / squared_norm if squared_norm else 10**99)
    slack = Fraction(1, 2**20)  # the kept bits, and one rounded division
    for value, whole in zip(values, vector.tolist(), strict=True):
        assert whole == 0 or (whole > 0) == (value > 0)
        assert whole**2 <= Fraction(value) ** 2 * largest_scale * (1 + slack)


def straightforward(gradient: np.ndarray, clip: float, grid: int) -> list[int] | None:
    """The oracle: the same clipping, element by element, in Python's numbers."""
    values = [float(value) for value in gradient]
    if not all(math.isfinite(value) for value in values):
        return None
    largest = max((abs(value) for value in values), default=0.0)
    if largest * grid < clip:
        return [0] * len(values)
    shift = 26 - math.frexp(largest)[1]
    whole = [math.trunc(math.ldexp(value, shift)) for value in values]
    squares = sum(value**2 for value in whole)
    norm = math.isqrt(squares)
    if norm**2 < squares:
        norm += 1
    factor = grid / max(norm, math.ldexp(clip, shift))
    vector = [math.trunc(value * factor) for value in whole]
    return vector if sum(value**2 for value in vector) <= grid**2 else [0] * len(values)


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e20])
@pytest.mark.parametrize("grid", [1, 1 << 20, 1 << 26])
def test_the_fast_way_gives_the_straightforward_ways_bits(size: int, scale: float, grid: int) -> None:
    generator = np.random.default_rng(size)
    for clip in (1e-7, 0.3, 1.0, 1e6):
        gradient = generator.standard_normal(size) * scale * 10.0 ** generator.integers(-8, 3, size)
        vector = clipped_integers(gradient, clip, grid)
        assert vector is not None
        assert vector.dtype == np.int64
        assert vector.tolist() == straightforward(gradient, clip, grid)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.floats(), max_size=40), st.floats(1e-300, 1e300), st.integers(1, 1 << 26))
def test_no_gradient_is_a_special_case_for_the_fast_way(values: list[float], clip: float, grid: int) -> None:
    gradient = np.array(values, dtype=np.float64)
    vector = clipped_integers(gradient, clip, grid)
    assert (None if vector is None else vector.tolist()) == straightforward(gradient, clip, grid)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(magnitudes, min_size=1, max_size=40), st.floats(1e-6, 1e6), st.integers(2, 1 << 26), st.floats(0.001, 0.99)
)
def test_an_indicator_says_whether_a_gradient_was_shortened_within_the_one_norm(
    values: list[float], clip: float, grid: int, share: float
) -> None:
    indicator = min(max(1, int(share * grid)), grid - 1)
    vector = clipped_integers(np.array(values), clip, grid, indicator)
    assert vector is not None
    assert exact_square_sum(vector) <= grid**2
    length = math.isqrt(grid**2 - indicator**2)
    assert vector[:-1].tolist() == straightforward(np.array(values), clip, length)
    squares = sum(Fraction(value) ** 2 for value in values)
    if abs(squares / Fraction(clip) ** 2 - 1) > Fraction(1, 1 << 20):  # nearer than the kept bits, either may be said
        assert vector[-1] == (-indicator if squares > Fraction(clip) ** 2 else indicator)


@pytest.mark.parametrize("indicator", [0, 400])
def test_a_vector_that_came_out_too_long_contributes_zero(monkeypatch: pytest.MonkeyPatch, indicator: int) -> None:
    """The integers are checked, not the arithmetic that made them: here it scales to a tenth more than may be."""
    monkeypatch.setattr(dp.patients, "gradient_grid", lambda grid, indicator: grid + grid // 10)
    long = clipped_integers(np.array([3.0, 4.0]), 1.0, 1000, indicator)
    assert long is not None
    assert long.tolist() == [0] * (3 if indicator else 2)


def test_the_indicator_counts_towards_the_length_that_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the scaling forgets the indicator: the gradient alone is within the grid, and the two together are not."""
    monkeypatch.setattr(dp.patients, "gradient_grid", lambda grid, indicator: grid)
    assert finished(np.array([3.0, 4.0]), grid=1000).tolist() == [600, 800]
    both = clipped_integers(np.array([3.0, 4.0]), 1.0, 1000, 400)
    assert both is not None
    assert both.tolist() == [0, 0, 0]


def test_a_gradient_that_is_not_finite_says_nothing_of_its_length() -> None:
    assert clipped_integers(np.array([1.0, math.nan]), 1.0, GRID, 1000) is None


def test_a_patients_records_are_added_in_their_order_across_batches_and_fillers_are_nobodys() -> None:
    records = np.random.default_rng(3).standard_normal((12, 50)).astype(np.float32)
    drawn = [Drawn("a", (4,)), Drawn("b", (1, 2, 3, 9)), Drawn("c", (5, 6)), Drawn("d", (7,))]
    taken = []

    def batches() -> Iterator[np.ndarray]:
        for start in (0, 3, 6, 9):
            taken.append(start)
            yield records[start : start + 3]

    found = [None if each is None else each.tolist() for each in patient_vectors(drawn, batches(), 50, 0.5, GRID)]
    expected, start = [], 0
    for entry in drawn:
        gradient = np.zeros(50)
        for row in records[start : start + len(entry.rows)]:
            gradient = gradient + row
        expected.append(straightforward(gradient, 0.5, GRID))
        start += len(entry.rows)
    assert found == expected
    assert taken == [0, 3, 6, 9], "a batch that holds fillers only is computed like any other"


@settings(deadline=None, max_examples=200)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60), st.floats(0.01, 10))
def test_it_is_the_clipped_gradient_to_within_a_step_of_the_grid(values: list[float], clip: float) -> None:
    gradient = np.array(values, dtype=np.float64)
    scale = GRID / max(clip, float(np.linalg.norm(gradient)))
    assert np.abs(finished(gradient, clip) - gradient * scale).max() <= 1 + GRID * 2.0**-22


def test_rounding_to_the_nearest_would_let_the_norm_grow() -> None:
    """The harm that rounding toward zero prevents: many small elements, all rounded up."""
    gradient = np.full(1 << 16, 1.0)
    grid = 1 << 10
    scaled = gradient * grid / np.linalg.norm(gradient)  # 4 steps each
    shifted = scaled * 0.9
    assert square_sum(np.rint(shifted * 1.0).astype(np.int64)) > float(np.sum(shifted**2)) * 1.2
    assert exact_square_sum(finished(gradient, 1.0, grid)) <= grid**2


def test_clipping_records_and_adding_them_up_would_give_one_patient_the_weight_of_all_its_records() -> None:
    record = np.array([3.0, 4.0])
    record_wise = sum(finished(record) for _ in range(4))
    assert math.isqrt(exact_square_sum(record_wise)) > 3.99 * GRID
    assert exact_square_sum(finished(4 * record)) <= GRID**2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_has_no_vector(bad: float) -> None:
    assert clipped_integers(np.array([1.0, bad, 2.0]), 1.0, GRID) is None


def test_a_zero_gradient_stays_zero_and_an_empty_one_empty() -> None:
    assert finished(np.zeros(5)).tolist() == [0] * 5
    assert finished(np.zeros(0)).tolist() == []


@pytest.mark.parametrize("scale", [1e-300, 1e-45, 1e-20, 1e20, 1e300])
def test_the_smallest_and_the_largest_numbers_are_no_special_case(scale: float) -> None:
    vector = finished(np.array([3.0, -4.0]) * scale)
    if scale > 1:
        assert np.abs(vector - np.array([0.6, -0.8]) * GRID).max() <= 1
    else:
        assert vector.tolist() == [0, 0]


def test_what_is_already_short_is_not_scaled_up() -> None:
    assert finished(np.array([0.25, -0.5])).tolist() == [GRID // 4, -GRID // 2]


def test_the_square_sum_is_exact_where_double_precision_is_not() -> None:
    values = np.full(5000, (1 << 26) - 1, dtype=np.int64)
    assert square_sum(values) == 5000 * ((1 << 26) - 1) ** 2
    assert square_sum(values) != int(np.sum(values.astype(np.float64) ** 2))
    assert square_sum(np.zeros(0, dtype=np.int64)) == 0


@pytest.mark.parametrize("value", [(1 << 26) + 1, -(1 << 26) - 1, -(2**63)])
def test_the_square_sum_refuses_what_could_overflow(value: int) -> None:
    with pytest.raises(ValueError, match="26 bits"):
        square_sum(np.array([1, value], dtype=np.int64))


def test_every_patient_is_drawn_by_a_coin_of_its_own() -> None:
    drawn = draw_patients(ROWS, 0.3, 2, secret(), 4)
    without = {patient: rows for patient, rows in ROWS.items() if patient != drawn[3].patient}
    expected = [entry for entry in drawn if entry.patient != drawn[3].patient]
    assert draw_patients(without, 0.3, 2, secret(), 4) == expected
    assert 80 <= len(drawn) <= 160
    assert draw_patients(ROWS, 0.3, 2, secret(), 5) != drawn
    assert draw_patients(ROWS, 0.3, 2, secret(2), 4) != drawn
    assert len(draw_patients(ROWS, 1.0, 2, secret(), 4)) == len(ROWS)


def test_a_patients_choice_does_not_depend_on_where_its_records_lie_in_the_file() -> None:
    one, other = (
        draw_patients({"a": range(5)}, 1.0, 3, secret(), 1),
        draw_patients({"a": range(70, 75)}, 1.0, 3, secret(), 1),
    )
    assert one == [Drawn("a", tuple(row - 70 for row in other[0].rows))]


def test_at_most_g_records_of_a_patient_each_as_likely_as_the_others() -> None:
    counts = np.zeros(5)
    for number in range(2000):
        (entry,) = draw_patients({"a": range(5)}, 1.0, 2, secret(), number)
        assert len(set(entry.rows)) == 2
        counts[list(entry.rows)] += 1
    assert float(np.sum((counts - 800) ** 2 / 800)) < 18.5  # chi-square, 4 degrees of freedom: 0.1 %
    (entry,) = draw_patients({"a": range(2)}, 1.0, 9, secret(), 1)
    assert sorted(entry.rows) == [0, 1]
