"""Trainers as a run makes them: from a study's text, a base model's folder and records, by `secfed.models.trainers`.

The text of a study is given by tests as plain values, from which they compute by themselves what training should get.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audits.simulator.studies import roster_of, study_from
from crypto.randomness import NoiseSecret
from secfed.models.data import Record
from secfed.models.trainers import StudyModel, open_study_model, trainer_for
from secfed.models.training import DistributedTrainer, LocalTrainer, NodeTrainer
from secfed.rounds.strategies import ModelState, first_state
from secfed.study.manifest import Study
from tests.secfed.federation import identities, study_values
from tests.tiny import LABELS, LENGTH, WORDS

COUNT = 5
"""Hospitals, or nodes, of a study: at c = 1 and f = 1 the quorum is 4, and three shares make the nominal noise."""
HONEST = 3


def signed(
    privacy: Mapping[str, Any], algorithm: Mapping[str, Any], patients: tuple[int, ...] = (100, 200, 300, 400, 500)
) -> dict[str, Any]:
    """A study's values, of which these two tables and the nominal sizes are given."""
    roster = roster_of((key.public.raw for key in identities(COUNT)), patients)
    values = study_values(
        COUNT,
        model={"max_length": LENGTH},
        task={"labels": list(LABELS)},
        lora={"rank": 2, "alpha": 8, "targets": ["query", "value"]},
    )
    return {**values, "privacy": dict(privacy), "algorithm": dict(algorithm), "roster": roster}


def trainer_of(
    values: Mapping[str, Any], index: int, base: Path, patients: Mapping[str, list[Record]]
) -> LocalTrainer | DistributedTrainer | NodeTrainer:
    """The trainer that a run has for the study with these values."""
    study = study_from(values)
    trainer = trainer_for(study, index, _opened(json.dumps(values), base), dict(patients))
    assert isinstance(trainer, LocalTrainer | DistributedTrainer | NodeTrainer)
    return trainer


@lru_cache(maxsize=32)
def _opened(values: str, base: Path) -> StudyModel:
    return open_study_model(Study.model_validate_json(values), base)


def alike(patients: int, records_each: int = 1) -> dict[str, list[Record]]:
    """Patients who have nothing but one text, so that all gradients are the same."""
    return {f"patient-{number}": [Record(" ".join(WORDS[:6]), 1)] * records_each for number in range(patients)}


def secret_of(number: int) -> NoiseSecret:
    """A secret like any other, and the same in every run of a test."""
    return NoiseSecret(lambda count: hashlib.shake_256(b"deployed trainers %d" % number).digest(count))


def contribution(
    trainer: LocalTrainer | DistributedTrainer | NodeTrainer, number: int, state: ModelState | None = None
) -> NDArray[np.int64]:
    """What the trainer's node would upload in this round, from the study's first state by default."""
    start = state or first_state(trainer.study, trainer.first_state().adapter)
    return trainer.contribute(start, number, secret_of(number), lambda step: None)
