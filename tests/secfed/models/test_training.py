"""A study's figures in local training: real private steps on a tiny model, averaged as the nodes do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.randomness import NoiseSecret
from secfed.models.training import LocalTrainer
from secfed.rounds.strategies import ModelState, first_state, next_state
from secfed.study.algorithms import describe
from tests.secfed.federation import ALGORITHMS, make_study
from tests.tiny import make_tiny_model, make_tiny_patients

NODES = 3
SMALL = {"colluders": 1, "tolerated_dropouts": 0, "minimum": 3}


pytestmark = pytest.mark.usefixtures("one_thread")


def train(base: Path, rounds: int = 3, local: dict[str, Any] | None = None, **algorithm: Any) -> ModelState:
    """Rounds of three hospitals, with the same coins and noise whatever the algorithm."""
    study = make_study(
        NODES, algorithm={"local": {"steps": 2, "learning_rate": 0.05, **(local or {})}, **algorithm}, cohort=SMALL
    )
    model = make_tiny_model(base)
    start = ModelState(model.get_state())
    trainers = [LocalTrainer(study, node, model, start, make_tiny_patients(10 + node)) for node in range(NODES)]
    state = first_state(study, trainers[0].first_state().adapter)
    for number in range(1, rounds + 1):
        total = np.zeros(state.adapter.size, dtype=np.int64)
        for node, trainer in enumerate(trainers):
            secret = NoiseSecret(lambda count, node=node: bytes([node]) * count)  # type: ignore[misc]
            total += trainer.contribute(state, number, secret, lambda step: None)
        state = next_state(study, state, total, range(NODES))
    return state


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fedprox_with_mu_zero_is_fedavg_bit_for_bit_and_with_another_mu_it_is_not(base: Path, optimizer: str) -> None:
    plain = train(base, strategy="fedavg", local={"steps": 3, "optimizer": optimizer})
    zero = train(base, strategy="fedprox", mu=0.0, local={"steps": 3, "optimizer": optimizer})
    held = train(base, strategy="fedprox", mu=0.5, local={"steps": 3, "optimizer": optimizer})
    assert zero.adapter.tobytes() == plain.adapter.tobytes()
    assert held.adapter.tobytes() != plain.adapter.tobytes()


def test_with_one_local_step_a_round_the_proximal_term_would_do_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why such a study is refused: with the refusal taken out, mu = 1 and FedAvg end with the same bits."""
    from secfed.study.algorithms import FedProx, LocalTraining

    plain = train(base, strategy="fedavg", local={"steps": 1})
    with pytest.raises(ValueError, match=r"local\.steps = 1 is fedavg"):
        train(base, strategy="fedprox", mu=1.0, local={"steps": 1})
    two = make_study(NODES, algorithm={"strategy": "fedprox", "mu": 1.0}, cohort=SMALL)
    single = LocalTraining(steps=1, learning_rate=0.05)
    algorithm = FedProx.model_construct(**{**two.algorithm.written(), "local": single})
    one = type(two).model_construct(**{**two.written(), "algorithm": algorithm})
    assert isinstance(one.algorithm, FedProx)
    monkeypatch.setattr("tests.secfed.models.test_training.make_study", lambda *arguments, **changes: one)
    assert train(base).adapter.tobytes() == plain.adapter.tobytes()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_strategy_moves_a_real_adapter(base: Path, name: str) -> None:
    state = train(base, rounds=2, **ALGORITHMS[name])
    start = make_tiny_model(base).get_state()
    assert np.isfinite(state.adapter).all()
    assert (state.adapter != start).mean() > 0.9, describe(make_study(algorithm=ALGORITHMS[name]).algorithm)


def test_training_leaves_subnormal_numbers_as_they_are(base: Path) -> None:
    """A library that sets the processor to flush them to zero would give this node other bits than the others."""
    train(base, rounds=1)
    smallest = np.full(9, 5e-324)
    assert (smallest * 1.0 == 5e-324).all()
    assert (np.full(9, 1e-310) / 2.0 == 5e-311).all()
    assert (np.full(9, 1e-40).astype(np.float32) != 0).all()
