"""Trainers as a run makes them: what they upload has the noise and the patients that the signed study says, by count.

Every patient has the same text, so that a sum is n C along one known direction, n being drawn by coins, and noise in
all directions. What is along it tells n; what is across it tells the noise. Bounds fail with a chance of about 1e-9 for
fresh secrets; those here are fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom, chi2, norm

from dp.node_update import local_update
from dp.training import evaluation, record_losses
from secfed.models.training import DistributedTrainer, LocalTrainer, NodeTrainer
from secfed.rounds.strategies import first_state
from tests.secfed.deployed import HONEST, alike, contribution, secret_of, signed, trainer_of

pytestmark = pytest.mark.usefixtures("one_thread")

RARE = 1e-9
ROUNDS = 6
PATIENTS = 100
RATE = 0.4
CLIP = 0.01
"""Far below the gradients' norms."""


def direction(trainer: Any, records: int) -> NDArray[np.float64]:
    """The unit vector of one patient's gradient at the first state, by plain autograd."""
    trainer.model.set_state(trainer.first_state().adapter)
    model, patients = trainer.model.module, trainer.patients
    named = dict(model.named_parameters())
    with evaluation(model):
        inputs = {name: tensor[:records] for name, tensor in patients.inputs.items()}
        loss = record_losses(model, inputs, patients.labels[:records]).sum()
        parts = torch.autograd.grad(loss, [named[name] for name, _ in trainer.layout])
    gradient = torch.cat([part.flatten() for part in parts]).double().numpy()
    length = float(np.linalg.norm(gradient))
    assert length > 2 * CLIP
    return np.asarray(gradient / length)


def assert_noise(values: NDArray[np.float64], variance: float) -> None:
    """These numbers are Gaussian with mean 0 and this variance: their squares add up to what they should."""
    low, high = chi2.ppf([RARE, 1 - RARE], values.size) * variance
    assert low < float(np.square(values).sum()) < high


def assert_drawn(counts: list[float], blur: float) -> None:
    """So many patients, each known to within Gaussian `blur`, were drawn by coins at the signed rate."""
    low, high = binom.ppf([RARE, 1 - RARE], ROUNDS * PATIENTS, RATE)
    spread = float(norm.isf(RARE)) * blur * ROUNDS**0.5
    assert low - spread < sum(counts) < high + spread
    nearest = float(norm.isf(RARE)) * blur
    assert all(abs(count - round(count)) < nearest for count in counts)
    assert len({round(count) for count in counts}) > 1  # every round tosses afresh


def split(vectors: list[NDArray[np.float64]], along: NDArray[np.float64]) -> tuple[list[float], NDArray[np.float64]]:
    """The vectors' lengths along a direction, and what is across it, in a basis of its own: D - 1 numbers each."""
    dimension = along.size
    basis, _ = np.linalg.qr(np.column_stack([along, np.eye(dimension)[:, : dimension - 1]]))
    across = basis[:, 1:]
    return [float(vector @ along) for vector in vectors], np.concatenate([vector @ across for vector in vectors])


def local_trainer(base: Path, patients: int, sigma: float, **figures: Any) -> LocalTrainer:
    local = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.5, **figures.pop("local", {})}
    privacy = {
        "mode": "local",
        "epsilon": 8.0,
        "delta": 1e-6,
        "noise_multiplier": sigma,
        "sampling_rate": RATE,
        "clip": CLIP,
        "bound": 1.0,
        "fraction_bits": 40,
    }
    values = signed(privacy, {"rounds": ROUNDS, **figures, "local": local}, (40, 70, patients, 160, 220))
    trainer = trainer_of(values, 2, base, alike(PATIENTS))
    assert isinstance(trainer, LocalTrainer)
    return trainer


def local_updates(trainer: LocalTrainer, weight: int) -> list[NDArray[np.float64]]:
    return [contribution(trainer, number) / (2.0**40 * weight) for number in range(1, ROUNDS + 1)]


STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg"},
    "fedprox": {"strategy": "fedprox", "mu": 0.3, "local": {"steps": 3}},
    "fedopt": {"strategy": "fedopt-adam", "server_learning_rate": 0.05},
}


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("nominal", [100, 95])
def test_a_local_update_has_the_signed_noise_and_the_patients_of_the_signed_rate(
    base: Path, name: str, nominal: int
) -> None:
    """By the public denominator q N: n of PATIENTS are drawn, and the noise of S steps is that of S numbers."""
    trainer = local_trainer(base, nominal, 1 / 16, **STRATEGIES[name])
    steps = STRATEGIES[name].get("local", {}).get("steps", 1)
    pull = 1 - 0.5 * STRATEGIES[name].get("mu", 0.0)  # how much of a step is left after the next one's proximal term
    scale = 0.5 * CLIP / (RATE * nominal)
    vectors = [-update / scale for update in local_updates(trainer, nominal)]
    along, across = split(vectors, direction(trainer, 1))
    kept = sum(pull ** (2 * step) for step in range(steps))
    assert_noise(across, kept / 16**2)
    if steps == 1:
        assert_drawn(along, 1 / 16)
    else:
        assert np.mean(along) == pytest.approx(PATIENTS * RATE * sum(pull**step for step in range(steps)), rel=0.25)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_noise_of_local_steps_adds_up_and_grows_with_the_signed_multiplier(base: Path, steps: int) -> None:
    """So much noise that the patients do not show beside it."""
    trainer = local_trainer(base, PATIENTS, 50.0, local={"steps": steps})
    updates = np.concatenate(local_updates(trainer, PATIENTS))
    scale = 0.5 * CLIP / (RATE * PATIENTS)
    assert_noise(updates / scale, steps * 50.0**2)


ADAPTIVE = {"adaptive_clip": {"quantile": 0.4, "learning_rate": 0.3, "indicator": 0.15}}
SHARED: dict[str, dict[str, Any]] = {
    "patients": {"records_per_patient": 2},
    "records": {"unit": "record"},
    "patients, adapting clip": {"records_per_patient": 2, **ADAPTIVE},
    "records, adapting clip": {"unit": "record", **ADAPTIVE},
}
GRID = 1 << 20


def shared_trainer(base: Path, sigma: float, changes: dict[str, Any]) -> DistributedTrainer:
    privacy = {
        "mode": "distributed",
        "epsilon": 8.0,
        "delta": 1e-6,
        "noise_multiplier": sigma,
        "sampling_rate": RATE,
        "clip": CLIP,
        "grid": GRID,
        **changes,
    }
    algorithm = {"strategy": "fedopt-sgd", "server_learning_rate": 0.5, "rounds": ROUNDS}
    records = 1 if changes.get("unit") == "record" else 3
    trainer = trainer_of(signed(privacy, algorithm, (PATIENTS,) * 5), 2, base, alike(PATIENTS, records))
    assert isinstance(trainer, DistributedTrainer)
    return trainer


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("sigma", [1 / 16, 0.5])
def test_a_distributed_step_has_its_share_of_the_signed_noise_and_the_patients_of_the_signed_rate(
    base: Path, name: str, sigma: float
) -> None:
    trainer = shared_trainer(base, sigma, SHARED[name])
    vectors = [contribution(trainer, number) / GRID for number in range(1, ROUNDS + 1)]
    blur = sigma / HONEST**0.5
    if "adaptive_clip" in SHARED[name]:
        # All gradients are shortened: each takes the indicator down by kappa, and has the rest of the one norm.
        indicators, vectors = [-vector[-1] / 0.15 for vector in vectors], [vector[:-1] for vector in vectors]
        length = (1 - 0.15**2) ** 0.5
        along, across = split(vectors, direction(trainer, 1))
        if sigma < 0.1:
            assert_drawn([each / length for each in along], blur / length + 0.01)
            assert [round(each / length) for each in along] == pytest.approx(indicators, abs=6 * blur / 0.15)
    else:
        along, across = split(vectors, direction(trainer, 1))
        if sigma < 0.1:
            assert_drawn(along, blur + 0.01)  # each gradient is rounded toward zero
    assert_noise(across, blur**2)


NODE: dict[str, dict[str, Any]] = {"fixed clip": {}, "adapting clip": ADAPTIVE}


def node_trainer(base: Path, sigma: float, rate: float, changes: dict[str, Any]) -> NodeTrainer:
    privacy = {
        "mode": "distributed",
        "unit": "node",
        "epsilon": 8.0,
        "delta": 1e-6,
        "noise_multiplier": sigma,
        "clip": CLIP,
        "grid": GRID,
        **changes,
    }
    local = {"steps": 2, "optimizer": "sgd", "learning_rate": rate}
    algorithm = {"strategy": "fedprox", "mu": 0.1, "rounds": ROUNDS, "physical_batch": 4, "local": local}
    trainer = trainer_of(signed(privacy, algorithm, (1,) * 5), 2, base, alike(3, records_each=2))
    assert isinstance(trainer, NodeTrainer)
    return trainer


@pytest.mark.parametrize("name", NODE)
def test_a_node_that_learns_nothing_uploads_its_share_of_the_signed_noise(base: Path, name: str) -> None:
    trainer = node_trainer(base, 3.0, 1e-12, NODE[name])
    vectors = [contribution(trainer, number) / GRID for number in range(1, ROUNDS + 1)]
    if NODE[name]:
        for vector in vectors:
            assert abs(vector[-1] - 0.15) < float(norm.isf(RARE)) * 3.0 / HONEST**0.5
        vectors = [vector[:-1] for vector in vectors]
    assert_noise(np.concatenate(vectors), 3.0**2 / HONEST)


@pytest.mark.parametrize("name", NODE)
def test_a_node_takes_part_in_every_round_with_one_update_of_the_signed_norm(base: Path, name: str) -> None:
    trainer = node_trainer(base, 1 / 16, 0.5, NODE[name])
    study, blur = trainer.study, 1 / 16 / HONEST**0.5
    start = first_state(study, trainer.first_state().adapter)
    for number in range(1, ROUNDS + 1):
        trainer.model.set_state(start.adapter)
        data, plan = trainer.patients, study.mechanism.plan(0, start.clip)
        update = local_update(trainer.model.module, data, plan, secret_of(number), number)
        length = float(np.linalg.norm(update))
        assert length > CLIP
        vector = contribution(trainer, number) / GRID
        if NODE[name]:
            assert abs(vector[-1] + 0.15) < float(norm.isf(RARE)) * blur
            vector = vector[:-1] / (1 - 0.15**2) ** 0.5
        (along,), across = split([vector], update / length)
        assert abs(along - 1) < float(norm.isf(RARE)) * (blur + 0.01)
        assert_noise(across * ((1 - 0.15**2) ** 0.5 if NODE[name] else 1.0), blur**2)
