"""From a signed study to the figures that training gets: the one place where they change hands.

A figure that is lost here is lost without a trace: half the noise trains as well, and its report looks as ever. So each
plan is made in one expression, every field by name, and `tests/secfed/study/test_plans.py` computes each field from the
study's text by itself, and looks at what reaches training.

Free of torch: the ring's width and the report come from these figures, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dp.events import Unit
from dp.step_plan import LocalPlan, NodePlan, StepPlan, batches_needed
from secfed.study.algorithms import FedProx
from secfed.study.privacy import DistributedPrivacy, LocalPrivacy

if TYPE_CHECKING:
    from secfed.study.manifest import Study


def local_plan(study: Study, index: int) -> LocalPlan:
    """What the hospital at this place of the roster does in one round, in local mode.

    Raises:
        TypeError: the study is in distributed mode.
    """
    privacy, algorithm, entry = study.privacy, study.algorithm, study.roster[index]
    local = algorithm.local
    if not isinstance(privacy, LocalPrivacy) or local is None:
        raise TypeError("a study in distributed mode has no private local training")
    batch = algorithm.physical_batch
    return LocalPlan(
        steps=local.steps,
        sampling_rate=privacy.sampling_rate,
        nominal_patients=entry.patients,
        clip=privacy.clip,
        noise_multiplier=privacy.noise_multiplier,
        learning_rate=local.learning_rate,
        optimizer=local.optimizer,
        physical_batch=batch,
        batches=batches_needed(entry.patients_band[1], privacy.sampling_rate, 1, batch),
        proximal_mu=algorithm.mu if isinstance(algorithm, FedProx) else 0.0,
    )


def step_plan(study: Study, index: int, clip: float | None = None) -> StepPlan:
    """What the hospital at this place of the roster does in one step, in distributed mode.

    Args:
        study: gives all figures.
        index: the hospital's place.
        clip: C of the state that the step starts from, where it adapts; the study's by default.

    Raises:
        TypeError: the study is in local mode, or its unit is the node.
    """
    privacy, batch = study.privacy, study.algorithm.physical_batch
    if not isinstance(privacy, DistributedPrivacy) or privacy.protects is Unit.NODE:
        raise TypeError("a study in local mode, or of nodes, has no distributed step")
    most = study.roster[index].patients_band[1]
    return StepPlan(
        sampling_rate=privacy.sampling_rate,
        clip=privacy.clip if clip is None else clip,
        grid=privacy.grid,
        most_records=privacy.records_per_patient,
        physical_batch=batch,
        batches=batches_needed(most, privacy.sampling_rate, privacy.records_per_patient, batch),
        noise_variance=study.share_variance,
        indicator=privacy.indicator,
    )


def node_plan(study: Study, clip: float | None = None) -> NodePlan:
    """What every node does in one round, where the unit is the node.

    Args:
        study: gives all figures.
        clip: C of the state that the round starts from, where it adapts; the study's by default.

    Raises:
        TypeError: the unit is not the node.
    """
    privacy, algorithm = study.privacy, study.algorithm
    local = algorithm.local
    if not isinstance(privacy, DistributedPrivacy) or privacy.protects is not Unit.NODE or local is None:
        raise TypeError("only where the unit is the node is its update private as a whole")
    return NodePlan(
        steps=local.steps,
        optimizer=local.optimizer,
        learning_rate=local.learning_rate,
        physical_batch=algorithm.physical_batch,
        clip=privacy.clip if clip is None else clip,
        grid=privacy.grid,
        noise_variance=study.share_variance,
        indicator=privacy.indicator,
        proximal_mu=algorithm.mu if isinstance(algorithm, FedProx) else 0.0,
    )
