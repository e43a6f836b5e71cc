"""The step that is made is the one the accountant counts: what each departure from it costs, in numbers.

Coins for every patient, no draw truncated, nothing divided by what was drawn, one norm over every coordinate, a zero
for a gradient that is not finite, and noise even if nobody is drawn.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dp.accounting import epsilon
from dp.distributed import draw_noise, private_sum
from dp.patients import clipped_integers, draw_patients, square_sum
from dp.sampling import Patients
from dp.step_plan import StepPlan, batches_needed
from secfed.models.model import AdapterModel
from tests.dp.guarded import (
    GRID,
    PLAN,
    VOCABULARY,
    Classifier,
    behind_a_layer,
    clipped_sum,
    patient_gradients,
    rows_of,
    secret,
    texts,
    verdict,
    without,
)
from tests.tiny import make_tiny_patients

pytestmark = [
    pytest.mark.usefixtures("one_thread", "seeded"),
    # PEFT still asks transformers under the old name.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]


# Not finite, and nothing drawn


def test_one_gradient_that_is_not_a_number_would_wipe_out_the_sum_and_contributes_zero(adapter: AdapterModel) -> None:
    patients, rare = make_tiny_patients(6, records_each=1), VOCABULARY + 1
    patients.inputs["input_ids"][2, 3] = rare
    with torch.no_grad():
        adapter.module.get_input_embeddings().weight[rare] = float("nan")  # type: ignore[operator, union-attr]
    wiped = clipped_sum(patient_gradients(adapter.module, patients), PLAN.clip)
    assert wiped.isnan().all()
    plan = replace(PLAN, noise_variance=Fraction(1))
    sick = private_sum(adapter.module, patients, plan, secret(), 1)
    healthy = private_sum(adapter.module, without(patients, "patient-2"), plan, secret(), 1)
    assert sick.vector.tolist() == healthy.vector.tolist()
    assert (sick.non_finite, healthy.non_finite) == (1, 0)


def test_a_model_whose_gradients_are_never_finite_is_refused() -> None:
    """The root of what is cut off at zero has an infinite slope there, times zero; the loss looks as ever."""
    model = Classifier(behind_a_layer(lambda values: (values * (values > 0)).sqrt()))
    assert private_sum(model, make_tiny_patients(6), PLAN, secret(), 1).non_finite == 6
    assert "not finite on made-up records" in texts(verdict(model))


def test_an_empty_draw_would_crash_the_model_and_sends_the_noise_share(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(5)
    with pytest.raises(RuntimeError, match="0 elements"):
        adapter.module(**rows_of(patients, [])[0])
    plan = replace(PLAN, sampling_rate=1e-12)
    vector = private_sum(adapter.module, patients, plan, secret(), 1).vector
    assert vector.tolist() == draw_noise(secret(), 1, adapter.dimension, plan.noise_variance).tolist()


# Sampling is what the accountant assumes

RATE, NOISE, STEPS, DELTA = 0.02, 0.9639, 500, 1e-5


def test_batches_in_a_fixed_order_cost_six_times_the_epsilon_of_coins() -> None:
    """A loader that does not shuffle: each patient is in one known batch of each of the ten epochs."""
    assert epsilon(RATE, NOISE, STEPS, DELTA) <= 3.0
    assert epsilon(1.0, NOISE, round(STEPS * RATE), DELTA) > 18.0


def test_a_shuffled_loader_breaks_delta_a_thousandfold_at_the_epsilon_of_coins() -> None:
    """One epoch, one patient of norm C against none, everybody else at -C: is the highest batch above a threshold?

    Batches of fixed size betray which one has a place left empty (Chua et al. 2024, "How Private are DP-SGD
    Implementations?", section 4): two hypotheses, one of the batches being 2 C or C above the others.
    """
    batches = round(1 / RATE)
    claimed = epsilon(RATE, NOISE, batches, DELTA)
    threshold = np.linspace(0, 12, 2001)
    others = norm.cdf(threshold / NOISE) ** (batches - 1)
    there = 1 - norm.cdf((threshold - 2) / NOISE) * others
    gone = 1 - norm.cdf((threshold - 1) / NOISE) * others
    assert float((there - math.exp(claimed) * gone).max()) > 1000 * DELTA


def test_dropping_the_last_batch_lets_the_number_of_steps_tell_and_here_it_is_planned(adapter: AdapterModel) -> None:
    def full_batches(patients: Patients) -> int:
        loader = torch.utils.data.DataLoader(list(patients.rows), batch_size=4, drop_last=True)
        return len(loader)

    patients = make_tiny_patients(20, records_each=1)
    assert full_batches(patients) != full_batches(without(patients, "patient-7"))
    done: list[list[int]] = [[], []]
    for hospital, seen in zip((patients, without(patients, "patient-7")), done, strict=True):
        private_sum(adapter.module, hospital, PLAN, secret(), 1, seen.append)
    assert done[0] == done[1] == list(range(1, PLAN.batches + 1))


def test_truncating_a_draw_lets_another_patient_in_and_enough_batches_are_counted(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(20, records_each=2)
    small = replace(PLAN, batches=3, noise_variance=Fraction(1))
    assert small.most_patients == 6

    def moved(plan: StepPlan) -> float:
        whole = private_sum(adapter.module, patients, plan, secret(), 1).vector
        rest = private_sum(adapter.module, without(patients, "patient-0"), plan, secret(), 1).vector
        return float(np.linalg.norm(whole - rest)) / plan.grid

    enough = batches_needed(20, PLAN.sampling_rate, PLAN.most_records, PLAN.physical_batch)
    assert moved(small) > 1.3
    assert moved(replace(small, batches=enough)) <= 1 + 1e-9


def test_a_private_denominator_shows_in_the_noise() -> None:
    """The mean over 10 or 9 drawn patients: noise of another scale in every coordinate, whatever the gradients are."""
    coordinates, ratio = 45_334, (10 / 9) ** 2
    divergence = coordinates / 2 * (ratio - 1 - math.log(ratio))
    assert divergence > 500, "nats, and so much epsilon: the draw's size can be read off one step"


def test_coins_from_a_stream_taken_in_order_change_for_everybody_and_keyed_ones_do_not() -> None:
    patients = {f"patient-{number}": [number] for number in range(400)}
    gone = next(iter(patients))
    rest = {name: rows for name, rows in patients.items() if name != gone}

    def in_order(rows: dict[str, list[int]]) -> set[str]:
        stream = np.random.default_rng(5)
        return {name for name in rows if stream.random() < 0.3}

    changed = in_order(patients) ^ in_order(rest)
    assert len(changed - {gone}) > 100, "every one of them moves the sum by up to C"
    keyed = [{entry.patient for entry in draw_patients(rows, 0.3, 1, secret(), 1)} for rows in (patients, rest)]
    assert keyed[0] - {gone} == keyed[1]


# Every coordinate counts


def test_an_uncounted_coordinate_of_norm_c_turns_epsilon_three_into_seven() -> None:
    """Two vectors of norm C each under noise for one: together one of norm C times the root of 2."""
    assert epsilon(RATE, NOISE, STEPS, DELTA) <= 3.0
    assert 7.1 < epsilon(RATE, NOISE / math.sqrt(2), STEPS, DELTA) < 7.25


def test_what_leaves_has_the_trained_coordinates_and_one_norm_over_all_of_them(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(8)
    assert private_sum(adapter.module, patients, PLAN, secret(), 1).vector.shape == (adapter.dimension,)
    gradient, indicator = np.full(100, 1.0), np.array([1.0])
    apart = [clipped_integers(part, 1.0, GRID) for part in (gradient, indicator)]
    assert sum(square_sum(part) for part in apart if part is not None) > 1.99 * GRID**2
    together = clipped_integers(np.concatenate([gradient, indicator]), 1.0, GRID)
    assert together is not None
    assert square_sum(together) <= GRID**2
    with_indicator = clipped_integers(gradient, 1.0, GRID, GRID // 10)
    assert with_indicator is not None
    assert with_indicator[-1] == -(GRID // 10)
    assert 0.999 * GRID**2 < square_sum(with_indicator) <= GRID**2
