"""A round's noise secret is gone with the training that used it: nothing can draw its coins and noise again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from secfed.rounds.strategies import ModelState
from tests.secfed.federation import Federation, FormulaTrainer, make_study


class Keeping(FormulaTrainer):
    """Keeps the secrets that it was given, and what they drew."""

    def __init__(self, trainer: FormulaTrainer, fails: bool) -> None:
        super().__init__(trainer.study, trainer.index)
        self.fails = fails
        self.secrets: list[NoiseSecret] = []
        self.drawn: list[int] = []

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        self.secrets.append(secret)
        self.drawn.append(secret.choice(2**32, "test"))
        if self.fails:
            raise MemoryError("in the middle of training")
        return super().contribute(state, round_number, secret, progress)


@pytest.mark.parametrize("fails", [False, True], ids=["trained", "failed"])
def test_a_nodes_noise_secret_is_wiped_when_training_ends_however_it_ends(tmp_path: Path, fails: bool) -> None:
    federation = Federation(make_study(algorithm={"rounds": 2}), tmp_path)
    keeping = federation.trainers[1] = Keeping(federation.trainers[1], fails)
    federation.nodes[1] = federation.start_node(1)
    coordinator = federation.coordinator()
    if fails:
        with pytest.raises(MemoryError):
            coordinator.run_round(1)
    else:
        coordinator.run()
    assert len(keeping.secrets) == (1 if fails else 2)
    assert len(set(keeping.drawn)) == len(keeping.drawn)  # a secret of its own for every round
    for secret in keeping.secrets:
        with pytest.raises(RuntimeError, match="wiped"):
            secret.choice(2**32, "test")
