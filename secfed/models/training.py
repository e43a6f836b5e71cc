"""The node's training: from a state and a round number to what the node uploads, with `dp` and the base model.

One base model may serve several nodes of one process: the state is set before every use and nothing else of the model
changes. The noise secret comes from the caller and is wiped by it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from dp.distributed import private_sum
from dp.errors import UnsuitableModel
from dp.guards import Verdict, check_step
from dp.node_update import private_update
from dp.sampling import Patients, record_by_record
from dp.step_plan import LocalPlan, NodePlan, StepPlan
from dp.training import train_locally
from secfed.models.adapter import first_adapter_seed
from secfed.models.model import AdapterModel, LoraSettings, load_model
from secfed.models.tasks import kind_of
from secfed.rounds.strategies import Layout, ModelState
from secfed.study.base import ModelError
from secfed.study.manifest import Study
from secfed.study.mechanisms.base import Plan

_log = logging.getLogger(__name__)


PlanT = TypeVar("PlanT", bound=Plan)


@dataclass(frozen=True, slots=True)
class ModelTrainer(ABC, Generic[PlanT]):
    """What all of them share. Each carries out the plans of one type, whatever mechanism made them."""

    study: Study
    """Gives all figures."""
    index: int
    """The site's place in the roster."""
    model: AdapterModel
    """At whatever state; shared with other trainers of this process."""
    first: ModelState
    """The first state, which follows from study and base model."""
    patients: Patients
    """The site's tokenised records, by unit of privacy."""
    one_at_a_time: bool = False
    """Whether `check_training` asks for it; `DistributedTrainer` alone can do so."""

    @property
    def layout(self) -> Layout:
        return self.model.layout

    def first_state(self) -> ModelState:
        return self.first

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        """What the node uploads for this round, as whole numbers of shape (D,), and where the clipping norm adapts of
        (D + 1,). Calls `progress` after each step of its work."""
        self.model.set_state(state.adapter)
        plan = self.study.mechanism.plan(self.index, state.clip)
        trained = self.train(cast(PlanT, plan), state, round_number, secret, progress)
        return self.study.mechanism.upload(trained, self.index)

    @abstractmethod
    def train(
        self,
        plan: PlanT,
        state: ModelState,
        round_number: int,
        secret: NoiseSecret,
        progress: Callable[[int], None],
    ) -> NDArray[Any]:
        """Carry out the plan; the model is at `state`."""

    @staticmethod
    def fits(verdict: Verdict) -> Verdict:
        """What the guards' verdict comes to for this training."""
        return verdict


@dataclass(frozen=True, slots=True)
class LocalTrainer(ModelTrainer[LocalPlan]):
    """Several private steps on one site's patients."""

    def train(
        self,
        plan: LocalPlan,
        state: ModelState,
        round_number: int,
        secret: NoiseSecret,
        progress: Callable[[int], None],
    ) -> NDArray[np.float32]:
        """x_local - x, of shape (D,)."""
        train_locally(self.model.module, self.patients, plan, secret, round_number, progress)
        return self.model.get_state() - state.adapter

    @staticmethod
    def fits(verdict: Verdict) -> Verdict:
        return verdict.for_batches_alone()


@dataclass(frozen=True, slots=True)
class DistributedTrainer(ModelTrainer[StepPlan]):
    """The clipped whole-number gradients of the drawn units, and a share of the noise."""

    def train(
        self,
        plan: StepPlan,
        state: ModelState,
        round_number: int,
        secret: NoiseSecret,
        progress: Callable[[int], None],
    ) -> NDArray[np.int64]:
        """The sum of clipped gradients and noise, in steps of the grid."""
        result = private_sum(
            self.model.module, self.patients, plan, secret, round_number, progress, one_at_a_time=self.one_at_a_time
        )
        if result.non_finite:
            _log.warning("%d drawn patients contributed zero: their gradient was not finite", result.non_finite)
        return result.vector


@dataclass(frozen=True, slots=True)
class NodeTrainer(ModelTrainer[NodePlan]):
    """Plain local training, its update clipped as a whole, and a share of the noise."""

    def train(
        self,
        plan: NodePlan,
        state: ModelState,
        round_number: int,
        secret: NoiseSecret,
        progress: Callable[[int], None],
    ) -> NDArray[np.int64]:
        """The clipped update and noise, in steps of the grid."""
        result = private_update(self.model.module, self.patients, plan, secret, round_number, progress)
        if not result.finite:
            _log.warning(
                "the update of %s was not finite and contributed zero: look for extreme records, or have a study with "
                "a smaller local.learning_rate signed",
                self.study.roster[self.index].name,
            )
        return result.vector

    @staticmethod
    def fits(verdict: Verdict) -> Verdict:
        return verdict.for_whole_updates()


TRAINERS: dict[type[Plan], type[ModelTrainer[Any]]] = {
    LocalPlan: LocalTrainer,
    StepPlan: DistributedTrainer,
    NodePlan: NodeTrainer,
}
"""Who carries out which plans."""


def _trainer_type(study: Study) -> type[ModelTrainer[Any]]:
    return TRAINERS[type(study.mechanism.plan(0))]


def check_training(study: Study, model: AdapterModel) -> Verdict:
    """Try a step on made-up records, of the shape that the study gives, before any of a site's goes through.

    Raises:
        ModelError: no step of this model is private; with every reason and its fix.
    """
    made_up = model.kind.made_up(model.vocabulary, model.padding or 0)
    found = check_step(model.module, made_up, study.algorithm.physical_batch, model.trained)
    verdict = _trainer_type(study).fits(found)
    try:
        verdict.refuse()
    except UnsuitableModel as error:
        raise ModelError(str(error), "Change the study's model or adapter; nothing was started") from error
    model.kind.check_model(model.module, made_up)
    return verdict


def make_trainer(
    study: Study,
    index: int,
    model: AdapterModel,
    first: ModelState,
    patients: Patients,
    one_at_a_time: bool = False,
) -> ModelTrainer[Any]:
    """The trainer that carries out the study's plans.

    Args:
        study, index, model, first: as `ModelTrainer`.
        patients: as read, whatever the unit.
        one_at_a_time: whether `check_training` asks for it; `DistributedTrainer` alone can do so.
    """
    units = record_by_record(patients) if study.mechanism.by_record else patients
    return _trainer_type(study)(study, index, model, first, units, one_at_a_time)


def load_study_model(study: Study, base: Path) -> tuple[AdapterModel, ModelState]:
    """The adapter model at its first state, which depends on the study and the base model alone."""
    lora = study.lora
    settings = LoraSettings(lora.rank, lora.alpha, lora.targets, lora.layers or (), lora.variant)
    model = load_model(base, kind_of(study), settings, first_adapter_seed(study.digest))
    return model, ModelState(model.get_state())
