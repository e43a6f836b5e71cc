"""The node's training: from a state and a round number to a private update, with `dp` and the base model.

One base model may serve several nodes of one process: the state is set before every use and nothing else of the model
changes. The noise secret comes from the caller and is wiped by it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from dp.sampling import Patients
from dp.training import LocalPlan, train_locally
from secfed.adapter import first_adapter_seed
from secfed.algorithms import FedProx
from secfed.data import Columns
from secfed.models import AdapterModel, LoraSettings, ModelError, base_digest, load_model, resolve_base
from secfed.strategies import Layout, ModelState
from secfed.study import Study


class LocalTrainer:
    """Several private steps on one hospital's patients."""

    def __init__(
        self,
        study: Study,
        index: int,
        model: AdapterModel,
        first: ModelState,
        patients: Patients,
        noise_multiplier: float,
    ) -> None:
        algorithm, privacy = study.algorithm, study.privacy
        self.layout: Layout = model.layout
        self._model = model
        self._first = first
        self._patients = patients
        self._plan = LocalPlan(
            steps=algorithm.local_steps,
            sampling_rate=privacy.sampling_rate,
            nominal_patients=study.roster[index].patients,
            clip=privacy.clip,
            noise_multiplier=noise_multiplier,
            learning_rate=algorithm.learning_rate,
            optimizer=algorithm.optimizer,
            physical_batch=algorithm.physical_batch,
            proximal_mu=algorithm.mu if isinstance(algorithm, FedProx) else 0.0,
        )

    def first_state(self) -> ModelState:
        return self._first

    def update(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.float32]:
        """x_local - x after the round's private steps, of shape (D,)."""
        self._model.set_state(state.adapter)
        train_locally(self._model.module, self._patients, self._plan, secret, round_number, progress)
        return self._model.get_state() - state.adapter


def columns(study: Study) -> Columns:
    """The names of a record's fields."""
    task = study.task
    return Columns(task.patient_column, task.text_column, task.label_column)


def find_base(study: Study, study_folder: Path) -> Path:
    """The base model's folder, checked against the digest that the study pins.

    Raises:
        ModelError: it is not there, or its files are others than the signed ones.
    """
    base = resolve_base(study.model.base, study_folder)
    found = base_digest(base)
    if found != study.model.digest:
        raise ModelError(
            f"the base model in {base} is not the one that the study pins: its digest is {found}",
            "Get the model that the hospitals signed for, or have a new study with this digest signed",
        )
    return base


def load_study_model(study: Study, base: Path) -> tuple[AdapterModel, ModelState]:
    """The adapter model at its first state, which depends on the study and the base model alone."""
    lora = study.lora
    settings = LoraSettings(lora.rank, lora.alpha, lora.targets, lora.layers or (), lora.variant)
    model = load_model(base, study.task.labels, settings, first_adapter_seed(study.digest))
    return model, ModelState(model.get_state())
