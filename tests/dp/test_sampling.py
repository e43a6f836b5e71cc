"""Who takes part in a step is decided for each patient alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from crypto.randomness import NoiseSecret
from dp.sampling import Patients, draw

ROWS = {f"patient-{number}": range(4 * number, 4 * number + 4) for number in range(2000)}


def fixed_secret(value: int = 1) -> NoiseSecret:
    return NoiseSecret(lambda count: bytes([value]) * count)


def test_removing_a_patient_leaves_everybody_elses_coin_and_record_as_they_were() -> None:
    before = draw(ROWS, 0.3, fixed_secret(), 2, 1)
    gone = next(name for name, rows in ROWS.items() if set(rows) & set(before))
    without = {name: rows for name, rows in ROWS.items() if name != gone}
    assert draw(without, 0.3, fixed_secret(), 2, 1) == [row for row in before if row not in ROWS[gone]]


def test_the_order_of_patients_does_not_matter() -> None:
    backwards = dict(reversed(ROWS.items()))
    assert sorted(draw(backwards, 0.3, fixed_secret(), 2, 1)) == sorted(draw(ROWS, 0.3, fixed_secret(), 2, 1))


def test_a_drawn_patient_gives_exactly_one_of_its_own_records() -> None:
    drawn = Counter(row // 4 for row in draw(ROWS, 0.5, fixed_secret(), 1, 1))
    assert set(drawn.values()) == {1}


def test_patients_are_drawn_at_the_sampling_rate() -> None:
    total = sum(len(draw(ROWS, 0.06, fixed_secret(), 1, step)) for step in range(1, 21))
    expected, deviation = 20 * 2000 * 0.06, (20 * 2000 * 0.06 * 0.94) ** 0.5
    assert abs(total - expected) < 4 * deviation


def test_every_record_of_a_patient_is_chosen_as_often_as_the_others() -> None:
    chosen = Counter(row % 4 for step in range(5) for row in draw(ROWS, 1.0, fixed_secret(), 1, step))
    assert all(abs(chosen[record] - 2500) < 4 * (10_000 * 0.25 * 0.75) ** 0.5 for record in range(4))


def test_at_rate_one_everybody_takes_part() -> None:
    assert len(draw(ROWS, 1.0, fixed_secret(), 1, 1)) == len(ROWS)


def test_secret_round_and_step_each_change_the_draw() -> None:
    draws = [
        draw(ROWS, 0.3, secret, round_number, step)
        for secret, round_number, step in [
            (fixed_secret(1), 1, 1),
            (fixed_secret(2), 1, 1),
            (fixed_secret(1), 2, 1),
            (fixed_secret(1), 1, 2),
        ]
    ]
    assert len({tuple(rows) for rows in draws}) == 4


def test_two_nodes_draw_differently_by_default() -> None:
    assert draw(ROWS, 0.3, NoiseSecret(), 1, 1) != draw(ROWS, 0.3, NoiseSecret(), 1, 1)


@pytest.mark.parametrize("rows", [{"a": []}, {"a": [0, 3]}, {"a": [-1]}])
def test_patients_without_records_or_with_rows_that_do_not_exist_are_refused(
    rows: dict[str, list[int]],
) -> None:
    with pytest.raises(ValueError, match="patient"):
        Patients({"input_ids": torch.zeros(3, 2)}, torch.zeros(3), rows)


def test_inputs_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="records"):
        Patients({"input_ids": torch.zeros(4, 2)}, torch.zeros(3), {"a": [0]})
