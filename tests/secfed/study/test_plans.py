"""Every figure that was signed is the figure that training gets: each field of each plan, in every mode.

What is expected is computed here from the study's text alone. What is found is what reaches `dp`, through the trainers
that a run makes. A figure that is halved on the way would train as well, and no report would tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import secfed.models.training
from audits.simulator.studies import study_from
from crypto.discrete_gaussian import SAMPLER_ERROR
from dp.delta_terms import DistributedNoise, LocalNoise
from dp.events import NoisedSums, NoiseShares, Unit
from dp.step_plan import LocalPlan, NodePlan, StepPlan
from protocols.parameters import DIMENSION_MAX
from secfed.rounds.strategies import first_state
from secfed.study.account import check_noise, event_of, figure_of_record, noise_of
from tests.secfed.deployed import HONEST, alike, contribution, secret_of, signed, trainer_of
from tests.secfed.federation import ALGORITHMS

pytestmark = pytest.mark.usefixtures("one_thread")

LOCAL_PRIVACY = {
    "mode": "local",
    "epsilon": 7.0,
    "delta": 3e-6,
    "noise_multiplier": 0.8231,
    "sampling_rate": 0.0371,
    "clip": 0.83,
}
SHARED_PRIVACY = {
    "mode": "distributed",
    "epsilon": 7.0,
    "delta": 3e-6,
    "noise_multiplier": 0.7321,
    "sampling_rate": 0.0537,
    "clip": 0.61,
    "grid": 3 << 18,
}
NODE_PRIVACY = {
    "mode": "distributed",
    "unit": "node",
    "epsilon": 7.0,
    "delta": 3e-6,
    "noise_multiplier": 11.5,
    "clip": 0.37,
    "grid": 5 << 16,
}
ADAPTIVE = {"adaptive_clip": {"quantile": 0.4, "learning_rate": 0.3, "indicator": 0.15}}
LOCAL_STEPS = {"steps": 3, "optimizer": "sgd", "learning_rate": 0.0123}
SIZES = (120, 230, 310, 470, 90)

LOCAL_MODES = {
    **{name: {**figures, "local": LOCAL_STEPS} for name, figures in ALGORITHMS.items()},
    "fedavg by adam": {"strategy": "fedavg", "local": {**LOCAL_STEPS, "optimizer": "adam", "learning_rate": 0.0456}},
    "fedprox at another mu": {"strategy": "fedprox", "mu": 0.021, "local": {**LOCAL_STEPS, "steps": 5}},
}
SHARED_MODES = {
    "patients": {"records_per_patient": 3},
    "patients, by default": {},
    "records": {"unit": "record"},
    "patients, adapting clip": {"records_per_patient": 2, **ADAPTIVE},
    "records, adapting clip": {"unit": "record", **ADAPTIVE},
}
NODE_MODES = {
    "fedavg": ({}, {"strategy": "fedavg"}),
    "fedprox": ({}, {"strategy": "fedprox", "mu": 0.07}),
    "fedopt": ({}, {"strategy": "fedopt-yogi", "server_learning_rate": 0.05}),
    "fedavg, adapting clip": (ADAPTIVE, {"strategy": "fedavg"}),
}


def most_there(nominal: int) -> int:
    """The most patients that a rounded number stands for."""
    return nominal + max(5, nominal // 10)


def batches(nominal: int, rate: float, records: int, batch: int) -> int:
    """K by the Chernoff bound at 2^-40, a place for one patient more included; in floating point, by trying all."""
    patients = most_there(nominal)

    def exponent(drawn: int) -> float:
        share = drawn / patients
        heads = share * math.log(share / rate) if drawn else 0.0
        tails = (1 - share) * math.log((1 - share) / (1 - rate)) if drawn < patients else 0.0
        return patients * (heads + tails)

    least = math.ceil(rate * patients)
    enough = (drawn for drawn in range(least, patients + 1) if exponent(drawn) >= 40 * math.log(2))
    return math.ceil(min(next(enough, patients) + 1, patients) * records / batch)


def handed_over(
    function: str, values: Mapping[str, Any], index: int, base: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, ...]:
    """The arguments with which a round of this study's trainer calls into `dp`; the call itself is made."""
    calls: list[tuple[Any, ...]] = []
    real = getattr(secfed.models.training, function)

    def noted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(secfed.models.training, function, noted)
    contribution(trainer_of(values, index, base, alike(12, records_each=2)), 7)
    (call,) = calls
    return call


@pytest.mark.sweep
@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("name", LOCAL_MODES)
def test_local_training_gets_the_figures_that_were_signed(
    base: Path, monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    algorithm = {**LOCAL_MODES[name], "rounds": 11, "physical_batch": 2}  # so small that K tells each figure apart
    values = signed(LOCAL_PRIVACY, algorithm, SIZES)
    _, patients, plan, _, round_number, _ = handed_over("train_locally", values, index, base, monkeypatch)
    local = algorithm["local"]
    assert type(plan) is LocalPlan
    assert dataclasses.asdict(plan) == {
        "steps": local["steps"],
        "sampling_rate": 0.0371,
        "nominal_patients": SIZES[index],
        "clip": 0.83,
        "noise_multiplier": 0.8231,
        "learning_rate": local["learning_rate"],
        "optimizer": local["optimizer"],
        "physical_batch": 2,
        "batches": batches(SIZES[index], 0.0371, 1, 2),
        "proximal_mu": algorithm.get("mu", 0.0),
    }
    assert (len(patients), patients.records, round_number) == (12, 24, 7)


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("name", SHARED_MODES)
def test_a_distributed_step_gets_the_figures_that_were_signed(
    base: Path, monkeypatch: pytest.MonkeyPatch, name: str, index: int
) -> None:
    changes = SHARED_MODES[name]
    algorithm = {"strategy": "fedopt-adam", "server_learning_rate": 0.05, "rounds": 11, "physical_batch": 8}
    values = signed({**SHARED_PRIVACY, **changes}, algorithm, SIZES)
    _, patients, plan, _, round_number, _ = handed_over("private_sum", values, index, base, monkeypatch)
    by_record = changes.get("unit") == "record"
    records = 1 if by_record else changes.get("records_per_patient", 4)
    assert type(plan) is StepPlan
    assert dataclasses.asdict(plan) == {
        "sampling_rate": 0.0537,
        "clip": 0.61,
        "grid": 3 << 18,
        "most_records": records,
        "physical_batch": 8,
        "batches": batches(SIZES[index], 0.0537, records, 8),
        "noise_variance": Fraction("0.7321") ** 2 * (3 << 18) ** 2 / HONEST,
        "indicator": math.floor(Fraction("0.15") * (3 << 18)) if "adaptive_clip" in changes else 0,
    }
    assert plan.most_patients == plan.batches * 8 // records
    assert (len(patients), patients.records, round_number) == (24 if by_record else 12, 24, 7)


@pytest.mark.parametrize("name", NODE_MODES)
def test_a_node_that_is_a_unit_gets_the_figures_that_were_signed(
    base: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changes, figures = NODE_MODES[name]
    algorithm = {**figures, "local": LOCAL_STEPS, "rounds": 11, "physical_batch": 6}
    values = signed({**NODE_PRIVACY, **changes}, algorithm, (1,) * 5)
    _, data, plan, _, round_number, _ = handed_over("private_update", values, 3, base, monkeypatch)
    assert type(plan) is NodePlan
    assert dataclasses.asdict(plan) == {
        "steps": 3,
        "optimizer": "sgd",
        "learning_rate": 0.0123,
        "physical_batch": 6,
        "clip": 0.37,
        "grid": 5 << 16,
        "noise_variance": Fraction("11.5") ** 2 * (5 << 16) ** 2 / HONEST,
        "indicator": math.floor(Fraction("0.15") * (5 << 16)) if changes else 0,
        "proximal_mu": figures.get("mu", 0.0),
    }
    assert (data.records, round_number) == (24, 7)


@pytest.mark.parametrize(("function", "unit"), [("private_sum", "patient"), ("private_update", "node")])
def test_a_clip_that_has_moved_is_the_states_and_the_noise_stays_in_proportion(
    base: Path, monkeypatch: pytest.MonkeyPatch, function: str, unit: str
) -> None:
    algorithm: dict[str, Any] = {"strategy": "fedopt-sgd", "server_learning_rate": 0.5, "rounds": 11}
    nodes = unit == "node"
    privacy = {**(NODE_PRIVACY if nodes else SHARED_PRIVACY), **ADAPTIVE}
    values = signed(privacy, {**algorithm, **({"local": LOCAL_STEPS} if nodes else {})}, (1,) * 5 if nodes else SIZES)
    plans: list[Any] = []
    real = getattr(secfed.models.training, function)

    def noted(model: Any, patients: Any, plan: Any, *arguments: Any, **options: Any) -> Any:
        plans.append(plan)
        return real(model, patients, plan, *arguments, **options)

    monkeypatch.setattr(secfed.models.training, function, noted)
    trainer = trainer_of(values, 1, base, alike(5))
    start = first_state(trainer.study, trainer.first_state().adapter)
    assert start.clip == privacy["clip"]
    trainer.contribute(start, 1, secret_of(1), lambda step: None)
    trainer.contribute(dataclasses.replace(start, clip=0.0625), 2, secret_of(2), lambda step: None)
    assert plans[1] == dataclasses.replace(plans[0], clip=0.0625)


def test_the_updates_weight_and_grid_are_the_signed_ones() -> None:
    values = signed({**LOCAL_PRIVACY, "bound": 0.125, "fraction_bits": 13}, {"rounds": 1, "local": LOCAL_STEPS}, SIZES)
    study = study_from(values)
    assert (study.mechanism.fixed_point.fraction_bits, study.mechanism.fixed_point.limit) == (13, 1 << 10)
    assert study.weights == SIZES


# What is accounted for is what is done.


def test_local_mode_is_accounted_for_at_the_signed_figures_over_all_steps() -> None:
    study = study_from(signed(LOCAL_PRIVACY, {"rounds": 11, "local": LOCAL_STEPS}, SIZES))
    assert event_of(study) == NoisedSums(0.0371, 0.8231, 11 * 3, draws=1, unit=Unit.PATIENT)
    assert noise_of(study) == LocalNoise(2.0**-40)


@pytest.mark.parametrize("unit", ["patient", "record", "node"])
@pytest.mark.parametrize("adapting", [False, True])
def test_distributed_mode_is_accounted_for_at_the_signed_figures_over_all_rounds(unit: str, adapting: bool) -> None:
    nodes = unit == "node"
    privacy = {**(NODE_PRIVACY if nodes else SHARED_PRIVACY), "unit": unit, **(ADAPTIVE if adapting else {})}
    algorithm: dict[str, Any] = {"strategy": "fedopt-sgd", "server_learning_rate": 0.5, "rounds": 11}
    values = signed(privacy, {**algorithm, **({"local": LOCAL_STEPS} if nodes else {})}, (1,) * 5 if nodes else SIZES)
    study = study_from(values)
    rate = 1.0 if nodes else 0.0537
    assert event_of(study) == NoisedSums(rate, privacy["noise_multiplier"], 11, draws=1, unit=Unit(unit))
    assert noise_of(study) == DistributedNoise(
        NoiseShares(4, 1),
        nodes=5,
        dimension=DIMENSION_MAX,
        grid=privacy["grid"],
        sampler_error=SAMPLER_ERROR,
        overflow_probability=0.0 if nodes else 2.0**-40,
    )


@pytest.mark.parametrize("mode", ["local", "distributed"])
def test_epsilon_is_at_the_signed_delta(mode: str) -> None:
    """Against another library's figure: a hundredth above, by its own tolerance."""
    from dp.accounting import prv_epsilon

    local = mode == "local"
    privacy = {**(LOCAL_PRIVACY if local else SHARED_PRIVACY), "epsilon": 50.0}
    algorithm: dict[str, Any] = {"strategy": "fedopt-sgd", "server_learning_rate": 0.5, "rounds": 11}
    study = study_from(signed(privacy, {**algorithm, **({"local": LOCAL_STEPS} if local else {})}, SIZES))
    steps = 33 if local else 11
    found = check_noise(study)
    assert found == figure_of_record(study)
    beside = prv_epsilon(privacy["sampling_rate"], privacy["noise_multiplier"], steps, 3e-6)  # type: ignore[arg-type]
    assert 0 <= beside - found < 0.02
