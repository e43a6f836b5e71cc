"""Who takes part in a step, and with which records, is decided for each patient alone, by the same work for all."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, permutations, product
from typing import Any

import pytest
import torch

from crypto.randomness import NoiseSecret
from dp.patients import draw_patients
from dp.sampling import Patients, choose, draw, shuffled_rows

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


# Which records


class Scripted(NoiseSecret):
    """A secret whose choices are given beforehand."""

    def __init__(self, script: Sequence[int]) -> None:
        super().__init__()
        self.script = iter(script)

    def choice(self, bound: int, *name: str | int) -> int:
        chosen = next(self.script)
        assert 0 <= chosen < bound
        return chosen


def scripts(records: int, most: int) -> Iterator[tuple[int, ...]]:
    """Every course that the choices can take; each has the same chance."""
    return product(*(range(records - number % records) for number in range(most)))


@pytest.mark.parametrize(("records", "most"), [(4, 1), (4, 2), (5, 3), (4, 4), (1, 1)])
def test_every_choice_of_records_in_every_order_has_the_same_chance(records: int, most: int) -> None:
    own = range(70, 70 + records)
    found = Counter(choose(own, most, Scripted(script)) for script in scripts(records, most))
    assert found == Counter(permutations(own, most))


@pytest.mark.parametrize(("records", "most"), [(1, 3), (2, 5), (3, 4)])
def test_a_patient_with_fewer_records_takes_part_with_all_of_them(records: int, most: int) -> None:
    own = range(70, 70 + records)
    found = Counter(choose(own, most, Scripted(script)) for script in scripts(records, most))
    assert set(found) == set(permutations(own))
    assert len(set(found.values())) == 1


def test_records_are_chosen_evenly_by_real_keys_too() -> None:
    """30 pairs, 6000 rounds: chi-square with 29 degrees of freedom is above 93 with a chance of 1e-8."""
    found = Counter(choose(range(6), 2, fixed_secret(), "record", number, "a") for number in range(6000))
    assert set(found) == set(permutations(range(6), 2))
    assert sum((count - 200) ** 2 / 200 for count in found.values()) < 93


def test_a_choice_is_fresh_in_every_round_and_is_the_patients_own() -> None:
    def chosen(value: int, *name: str | int) -> tuple[int, ...]:
        return choose(range(10_000), 4, fixed_secret(value), *name)

    names: list[tuple[int, str | int, str | int]] = [(1, 1, "a"), (1, 2, "a"), (1, 1, "b"), (2, 1, "a")]
    assert len({chosen(*name) for name in names}) == 4
    assert chosen(1, 1, "a") == chosen(1, 1, "a")


class Untouched(Sequence[int]):
    """So many rows, of which none may be looked at but those that are chosen."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.looked_at = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: Any) -> Any:
        assert isinstance(place, int)
        self.looked_at += 1
        return place

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("a pass over all records of a patient")


def drawn_together(rows: dict[str, Sequence[int]], rate: float) -> int:
    return len(draw_patients(rows, rate, 4, fixed_secret(), 1))


def drawn_locally(rows: dict[str, Sequence[int]], rate: float) -> int:
    return len(draw(rows, rate, fixed_secret(), 1, 1))


@pytest.mark.parametrize(("drawing", "most"), [(drawn_together, 4), (drawn_locally, 1)])
@pytest.mark.parametrize("records", [1, 3, 10_000, 2**32])
@pytest.mark.parametrize("rate", [1e-12, 1.0])
def test_a_patient_costs_a_coin_and_g_choices_drawn_or_not_and_however_many_records_it_has(
    drawing: Callable[[dict[str, Sequence[int]], float], int],
    most: int,
    records: int,
    rate: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    derived = 0
    digest = hmac.digest

    def counted(*arguments: Any) -> bytes:
        nonlocal derived
        derived += 1
        return digest(*arguments)

    monkeypatch.setattr(hmac, "digest", counted)
    own = Untouched(records)
    assert drawing({"a": own}, rate) == (rate == 1.0)
    assert derived == 1 + most
    assert own.looked_at <= most


def test_a_long_shuffle_writes_down_no_more_than_it_has_moved() -> None:
    assert len(set(islice(shuffled_rows(2**32, fixed_secret(), "row"), 100))) == 100
