"""The node's training: from a state and a round number to what the node uploads, with `dp` and the base model.

One base model may serve several nodes of one process: the state is set before every use and nothing else of the model
changes. The noise secret comes from the caller and is wiped by it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from dp.distributed import private_sum
from dp.errors import UnsuitableModel
from dp.events import Unit
from dp.guards import Verdict, check_step, made_up_patients
from dp.node_update import private_update
from dp.sampling import Patients, record_by_record
from dp.training import train_locally
from secfed.models.adapter import first_adapter_seed
from secfed.models.model import AdapterModel, LoraSettings, load_model
from secfed.rounds.strategies import Layout, ModelState
from secfed.study.base import ModelError
from secfed.study.manifest import Study
from secfed.study.privacy import LocalPrivacy

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _ModelTrainer:
    """What both modes share."""

    study: Study
    """Gives all figures."""
    index: int
    """The hospital's place in the roster."""
    model: AdapterModel
    """At whatever state; shared with other trainers of this process."""
    first: ModelState
    """The first state, which follows from study and base model."""
    patients: Patients
    """The hospital's tokenised records."""

    @property
    def layout(self) -> Layout:
        return self.model.layout

    def first_state(self) -> ModelState:
        return self.first


@dataclass(frozen=True, slots=True)
class LocalTrainer(_ModelTrainer):
    """Local mode: several private steps on one hospital's patients, then the difference in fixed point."""

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        """(x_local - x) times the nominal weight, in fixed point, of shape (D,). Calls `progress` after each step."""
        study = self.study
        self.model.set_state(state.adapter)
        plan = study.local_plan(self.index)
        train_locally(self.model.module, self.patients, plan, secret, round_number, progress)
        update = self.model.get_state() - state.adapter
        return study.fixed_point.encode(update, study.weights[self.index])


@dataclass(frozen=True, slots=True)
class DistributedTrainer(_ModelTrainer):
    """Distributed mode: the clipped whole-number gradients of the drawn patients, and a share of the noise."""

    one_at_a_time: bool = False
    """Whether `check_training` asks for it."""

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        """The sum of clipped gradients and noise, in steps of the grid, of shape (D,), and where the clipping norm
        adapts of (D + 1,). Calls `progress` after each physical batch."""
        self.model.set_state(state.adapter)
        plan = self.study.step_plan(self.index, state.clip)
        result = private_sum(
            self.model.module, self.patients, plan, secret, round_number, progress, one_at_a_time=self.one_at_a_time
        )
        if result.non_finite:
            _log.warning("%d drawn patients contributed zero: their gradient was not finite", result.non_finite)
        return result.vector


@dataclass(frozen=True, slots=True)
class NodeTrainer(_ModelTrainer):
    """Distributed mode where the unit is a node: plain local training, its update clipped as a whole, and a share of
    the noise."""

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        """The clipped update and noise, in steps of the grid, of shape (D,), and where the clipping norm adapts of
        (D + 1,). Calls `progress` after each local step."""
        self.model.set_state(state.adapter)
        plan = self.study.node_plan(state.clip)
        result = private_update(self.model.module, self.patients, plan, secret, round_number, progress)
        if not result.finite:
            _log.warning(
                "the update of %s was not finite and contributed zero: look for extreme records, or have a study with "
                "a smaller local.learning_rate signed",
                self.study.roster[self.index].name,
            )
        return result.vector


def check_training(study: Study, model: AdapterModel) -> Verdict:
    """Try a step on made-up records, of the shape that the study gives, before any of a hospital's goes through.

    Raises:
        ModelError: no step of this model is private; with every reason and its fix.
    """
    length, classes = study.model.max_length, len(study.task.labels)
    made_up = made_up_patients(length, model.vocabulary, classes, padding=model.padding or 0)
    verdict = check_step(model.module, made_up, study.algorithm.physical_batch, model.trained)
    if isinstance(study.privacy, LocalPrivacy):
        verdict = verdict.for_batches_alone()
    elif study.privacy.protects is Unit.NODE:
        verdict = verdict.for_whole_updates()
    try:
        verdict.refuse()
    except UnsuitableModel as error:
        raise ModelError(str(error), "Change the study's model or adapter; nothing was started") from error
    return verdict


def make_trainer(
    study: Study,
    index: int,
    model: AdapterModel,
    first: ModelState,
    patients: Patients,
    one_at_a_time: bool = False,
) -> LocalTrainer | DistributedTrainer | NodeTrainer:
    """The trainer of the study's mode and unit.

    Args:
        study, index, model, first: as `LocalTrainer`.
        patients: as read, whatever the unit.
        one_at_a_time: whether `check_training` asks for it; `DistributedTrainer` alone can do so.
    """
    privacy = study.privacy
    if isinstance(privacy, LocalPrivacy):
        return LocalTrainer(study, index, model, first, patients)
    if privacy.protects is Unit.NODE:
        return NodeTrainer(study, index, model, first, patients)
    units = record_by_record(patients) if privacy.protects is Unit.RECORD else patients
    return DistributedTrainer(study, index, model, first, units, one_at_a_time)


def load_study_model(study: Study, base: Path) -> tuple[AdapterModel, ModelState]:
    """The adapter model at its first state, which depends on the study and the base model alone."""
    lora = study.lora
    settings = LoraSettings(lora.rank, lora.alpha, lora.targets, lora.layers or (), lora.variant)
    model = load_model(base, study.task.labels, settings, first_adapter_seed(study.digest))
    return model, ModelState(model.get_state())
