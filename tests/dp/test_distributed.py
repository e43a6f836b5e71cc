"""One step over the union of all hospitals: whole numbers, from patients who do not touch each other."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dp.patients
from crypto.randomness import NoiseSecret
from dp import distributed
from dp.distributed import (
    draw_noise,
    private_sum,
    record_gradients,
    trained_parameters,
)
from dp.errors import UnsuitableModel
from dp.patients import clipped_integers, draw_patients, patient_vectors
from dp.sampling import Patients, record_by_record
from dp.step_plan import StepPlan, batches_needed, most_drawn, noise_share
from dp.training import record_losses
from secfed.models.model import AdapterModel
from tests.tiny import make_tiny_patients, only_patients

PLAN = StepPlan(
    sampling_rate=0.5,
    clip=0.05,
    grid=1 << 20,
    most_records=2,
    physical_batch=4,
    batches=12,
    noise_variance=Fraction(10**11),
)


pytestmark = pytest.mark.usefixtures("one_thread")


def secret(value: int = 1) -> NoiseSecret:
    return NoiseSecret(lambda count: bytes([value]) * count)


def without_noise(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Record the noise that each step draws; a hook that only tests have."""
    drawn: list[np.ndarray] = []

    def recorded(*arguments: Any) -> np.ndarray:
        drawn.append(draw_noise(*arguments))
        return drawn[-1]

    monkeypatch.setattr(distributed, "draw_noise", recorded)
    return drawn


def vectors(model: nn.Module, patients: Patients, plan: StepPlan = PLAN) -> dict[str, list[int] | None]:
    """Every drawn patient's finished vector, by name."""
    drawn = draw_patients(patients.rows, plan.sampling_rate, plan.most_records, secret(), 1)
    dimension = sum(parameter.numel() for _, parameter in trained_parameters(model))
    batches = record_gradients(model, patients, drawn, plan)
    made = patient_vectors(drawn, batches, dimension, plan.clip, plan.grid)
    return {
        entry.patient: None if vector is None else vector.tolist() for entry, vector in zip(drawn, made, strict=True)
    }


def alone(adapter: AdapterModel, patients: Patients, rows: tuple[int, ...]) -> np.ndarray:
    """The oracle: one patient, plain autograd, in the order of the adapter's layout."""
    model, index = adapter.module, list(rows)
    inputs = {name: tensor[index] for name, tensor in patients.inputs.items()}
    loss = record_losses(model, inputs, patients.labels[index]).sum()
    named = dict(model.named_parameters())
    parts = torch.autograd.grad(loss, [named[name] for name, _ in adapter.layout])
    return torch.cat([part.flatten() for part in parts]).double().numpy()


def test_the_sum_is_as_integers_that_of_every_patient_alone_and_the_noise(
    adapter: AdapterModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    patients = make_tiny_patients(20, records_each=3)
    noises = without_noise(monkeypatch)
    result = private_sum(adapter.module, patients, PLAN, secret(), 1)
    expected = np.zeros(adapter.dimension, dtype=np.int64)
    drawn = draw_patients(patients.rows, PLAN.sampling_rate, PLAN.most_records, secret(), 1)
    assert 5 <= len(drawn) < 20
    for entry in drawn:
        (vector,) = vectors(adapter.module, only_patients(patients, {entry.patient})).values()
        assert vector is not None
        expected += np.array(vector)
    (noise,) = noises
    assert result.vector.dtype == np.int64
    assert result.vector.tolist() == (expected + noise).tolist()
    assert result.non_finite == 0


def test_each_vector_is_the_clipped_gradient_of_that_patient(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(20, records_each=3)
    drawn = draw_patients(patients.rows, PLAN.sampling_rate, PLAN.most_records, secret(), 1)
    found = vectors(adapter.module, patients)
    shortened = 0
    for entry in drawn:
        gradient = alone(adapter, patients, entry.rows)
        shortened += float(np.linalg.norm(gradient)) > PLAN.clip
        expected = gradient * PLAN.grid / max(PLAN.clip, float(np.linalg.norm(gradient)))
        vector = np.array(found[entry.patient])
        assert np.abs(vector - expected).max() < 1 + PLAN.grid * 1e-5
        assert int(np.sum(vector**2)) <= PLAN.grid**2
    assert shortened > 0


def test_without_one_patient_every_other_vector_has_the_same_bits(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(20, records_each=3)
    everybody = vectors(adapter.module, patients)
    for gone in list(everybody)[:3]:
        rest = vectors(adapter.module, only_patients(patients, set(patients.rows) - {gone}))
        assert rest == {name: vector for name, vector in everybody.items() if name != gone}


def test_one_patient_moves_the_sum_by_at_most_the_clip(adapter: AdapterModel) -> None:
    """Remove-one on integers: with all records, whatever they are."""
    patients = make_tiny_patients(12, records_each=6)
    plan = replace(PLAN, sampling_rate=1.0, most_records=6, batches=20)
    whole = private_sum(adapter.module, patients, plan, secret(), 1).vector
    for gone in ("patient-0", "patient-7"):
        rest = private_sum(
            adapter.module, only_patients(patients, set(patients.rows) - {gone}), plan, secret(), 1
        ).vector
        difference = whole - rest
        assert 0 < int(np.sum(difference**2)) <= plan.grid**2


def test_every_step_makes_the_same_number_of_passes_of_the_same_shape(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(20, records_each=3)
    shapes: list[list[tuple[int, ...]]] = []
    handle = adapter.module.register_forward_pre_hook(
        lambda module, arguments, inputs: shapes[-1].append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    try:
        for rate in (1e-12, 0.5, 1.0):
            shapes.append([])
            private_sum(adapter.module, patients, replace(PLAN, sampling_rate=rate), secret(), 1)
    finally:
        handle.remove()
    assert shapes[0] == shapes[1] == shapes[2]
    assert len(shapes[0]) == PLAN.batches


def test_an_empty_draw_sends_its_noise(adapter: AdapterModel, monkeypatch: pytest.MonkeyPatch) -> None:
    noises = without_noise(monkeypatch)
    plan = replace(PLAN, sampling_rate=1e-12)
    vector = private_sum(adapter.module, make_tiny_patients(5), plan, secret(), 1).vector
    assert vector.tolist() == noises[0].tolist()
    assert any(vector.tolist())


def test_a_patient_whose_gradient_is_not_finite_contributes_zero_and_hurts_nobody(adapter: AdapterModel) -> None:
    patients = make_tiny_patients(6, records_each=1)
    plan = replace(PLAN, sampling_rate=1.0)
    healthy = vectors(adapter.module, patients, plan)
    embeddings = adapter.module.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    rare = 40
    patients.inputs["input_ids"][2, 3] = rare
    with torch.no_grad():
        embeddings[rare] = float("nan")
    sick = vectors(adapter.module, patients, plan)
    assert sick["patient-2"] is None
    assert {name: vector for name, vector in sick.items() if name != "patient-2"} == {
        name: vector for name, vector in healthy.items() if name != "patient-2"
    }
    assert private_sum(adapter.module, patients, plan, secret(), 1).non_finite == 1


@pytest.mark.parametrize("records", [1, 2, 3])
def test_patients_beyond_what_the_batches_hold_contribute_zero(
    adapter: AdapterModel, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """The first six of twenty, exactly, even where the batches have room for more records of the others: six are what
    the ring has room for."""
    patients = make_tiny_patients(20, records_each=records)
    plan = replace(PLAN, sampling_rate=1.0, batches=3)
    assert plan.most_patients == 6
    noises = without_noise(monkeypatch)
    vector = private_sum(adapter.module, patients, plan, secret(), 1).vector
    first = [entry.patient for entry in draw_patients(patients.rows, 1.0, plan.most_records, secret(), 1)][:6]
    found = vectors(adapter.module, only_patients(patients, set(first)), plan)
    assert list(found) == first
    expected = np.sum([np.array(found[name]) for name in first], axis=0)
    assert vector.tolist() == (expected + noises[0]).tolist()


def test_the_shares_of_the_quorum_without_colluders_make_the_noise_that_is_counted() -> None:
    share = noise_share(Fraction("0.6422"), 1 << 20, quorum=4, colluders=1)
    assert share * (4 - 1) == (Fraction("0.6422") * 2**20) ** 2
    for quorum in (1, 2):
        with pytest.raises(ValueError, match="nobody to add noise"):
            noise_share(Fraction(1), 1 << 20, quorum=quorum, colluders=2)


def test_the_noise_of_two_rounds_and_of_two_secrets_differs() -> None:
    first = draw_noise(secret(), 1, 50, Fraction(10**12))
    assert first.tolist() == draw_noise(secret(), 1, 50, Fraction(10**12)).tolist()
    assert first.tolist() != draw_noise(secret(), 2, 50, Fraction(10**12)).tolist()
    assert first.tolist() != draw_noise(secret(2), 1, 50, Fraction(10**12)).tolist()
    assert 0.5e6 < float(np.std(first)) < 1.5e6


@pytest.mark.parametrize(
    ("patients", "rate", "records", "batch"), [(1600, 0.06, 1, 32), (50, 0.5, 4, 8), (10, 1.0, 2, 4)]
)
def test_the_batches_hold_every_draw_but_with_a_probability_of_two_to_the_minus_forty(
    patients: int, rate: float, records: int, batch: int
) -> None:
    count = batches_needed(patients, rate, records, batch)
    chance, whole = rate.as_integer_ratio()

    def beyond(held: int) -> Fraction:
        """P(Binomial(patients, rate) > held), exactly: in whole numbers, and one division."""
        ways = (
            comb(patients, k) * chance**k * (whole - chance) ** (patients - k) for k in range(held + 1, patients + 1)
        )
        return Fraction(sum(ways), whole**patients)

    assert beyond(count * batch // records) <= Fraction(1, 2**40)
    if (most := most_drawn(patients, rate)) < patients:  # the bound is no exact quantile, but close to it
        assert beyond(most * 24 // 25) > Fraction(1, 2**40)


@pytest.mark.parametrize(("patients", "rate"), [(1600, 0.06), (50, 0.5), (176, 0.06), (10_000, 0.001), (600, 0.9)])
def test_the_most_that_are_drawn_are_one_more_than_the_chernoff_bound_says(patients: int, rate: float) -> None:
    """Every implementation has to get this number: it decides batches, magnitude and ring."""

    def bits(drawn: int) -> float:
        """-log2 of Hoeffding's bound on P[Binomial(patients, rate) >= drawn]."""
        share = drawn / patients
        nats = share * math.log(share / rate) + ((1 - share) * math.log((1 - share) / (1 - rate)) if share < 1 else 0)
        return patients * nats / math.log(2)

    smallest = next(drawn for drawn in range(math.ceil(rate * patients), patients + 1) if bits(drawn) >= 40)
    assert bits(smallest - 1) < 40 - 1e-6
    assert bits(smallest) > 40 + 1e-6
    assert most_drawn(patients, rate) == smallest + 1


def test_never_more_are_drawn_than_there_are() -> None:
    assert [most_drawn(patients, 1.0) for patients in (1, 10, 1000)] == [1, 10, 1000]


def test_a_model_that_mixes_samples_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    with pytest.raises(UnsuitableModel, match="BatchNorm"):
        private_sum(model, make_tiny_patients(2), PLAN, secret(), 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.1},
        {"clip": 0.0},
        {"clip": float("inf")},
        {"grid": 0},
        {"most_records": 0},
        {"physical_batch": 0},
        {"batches": 0},
        {"noise_variance": Fraction(0)},
    ],
)
def test_a_plan_that_is_no_plan_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|sampling rate|clipping norm|variance"):
        replace(PLAN, **wrong)


def test_the_clip_is_of_the_whole_patient() -> None:
    """Two records that pull the same way: clipped one by one they would reach 2 C."""
    record = np.array([0.6, 0.8]) * 10
    both = clipped_integers(2 * record, 1.0, 1 << 20)
    one = clipped_integers(record, 1.0, 1 << 20)
    assert both is not None
    assert one is not None
    assert int(np.sum((2 * one) ** 2)) > 3.9 * (1 << 40) > int(np.sum(both**2)) * 3.9


@pytest.mark.parametrize("drawn", [0.001, 0.5, 1.0])
def test_as_many_gradients_are_clipped_whoever_is_drawn(
    adapter: AdapterModel, monkeypatch: pytest.MonkeyPatch, drawn: float
) -> None:
    """Otherwise the time that a step takes would tell how many were."""
    clipped = 0
    clip = dp.patients._clip_into

    def counted(vector: np.ndarray, gradient: np.ndarray, *arguments: Any) -> bool:
        nonlocal clipped
        clipped += 1
        return clip(vector, gradient, *arguments)

    monkeypatch.setattr(dp.patients, "_clip_into", counted)
    plan = replace(PLAN, sampling_rate=drawn)
    private_sum(adapter.module, make_tiny_patients(20, records_each=2), plan, secret(), 1)
    assert clipped == plan.most_patients == 24


def test_a_records_coin_depends_on_that_record_alone() -> None:
    """Taking a record out moves the rows of all later ones; their names, and so their coins, stay."""
    patients = make_tiny_patients(20, records_each=2)
    everyone = record_by_record(patients)
    assert len(everyone) == patients.records == 40
    names = {rows[0]: name for name, rows in everyone.rows.items()}
    kept = [row for row in range(40) if row != 3]
    fewer = record_by_record(
        Patients(
            {name: tensor[kept] for name, tensor in patients.inputs.items()},
            patients.labels[kept],
            {"all": range(len(kept))},
        )
    )
    taken = names[3].split()[0]
    for place, row in enumerate(kept):
        name = next(name for name, rows in fewer.rows.items() if rows == (place,))
        assert name == names[row] or names[row].split()[0] == taken  # equal records cannot be told apart
    assert len(set(everyone.rows) - set(fewer.rows)) == 1
