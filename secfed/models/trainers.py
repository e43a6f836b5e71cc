"""From a base model's folder and a study to a site's trainer, as the embedded run and a node's home both need it.

torch is loaded when the first function here is called, and not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secfed.models.data import tokenise
from secfed.models.trainer import Trainer
from secfed.study.manifest import Study

if TYPE_CHECKING:
    from dp.guards import Verdict
    from secfed.models.model import AdapterModel
    from secfed.rounds.strategies import ModelState


@dataclass(frozen=True, slots=True)
class StudyModel:
    """The model of a study, tried and found fit for private steps. Trainers of one process share it."""

    model: AdapterModel
    first: ModelState
    """The first state, which follows from study and base model."""
    tokenizer: Any
    verdict: Verdict
    """What was mended in the model, and whether records must go through it one at a time."""


def open_study_model(study: Study, base: Path) -> StudyModel:
    """Load the adapter model at its first state, and try a step on made-up records.

    Args:
        study: gives adapter, task and length.
        base: the base model's folder, checked against the study's digest already.

    Raises:
        UserError: the model does not fit the study, or no step of it is private.
    """
    from secfed.models.model import load_tokenizer
    from secfed.models.training import check_training, load_study_model

    model, first = load_study_model(study, base)
    model.check_length(base, study.model.max_length)
    tokenizer = load_tokenizer(base, model.vocabulary)
    model.pad_with(tokenizer.pad_token_id)
    model.kind.check_tokenizer(base, tokenizer)
    return StudyModel(model, first, tokenizer, check_training(study, model))


def trainer_for(study: Study, index: int, opened: StudyModel, patients: Mapping[str, list[Any]]) -> Trainer:
    """The trainer of the site at this place of the roster, on its records."""
    from secfed.models.training import make_trainer

    records = tokenise(patients, opened.tokenizer, opened.model.kind)
    return make_trainer(study, index, opened.model, opened.first, records, opened.verdict.one_at_a_time)


def progress_steps(study: Study, index: int) -> int:
    """How many steps of progress the site at this place reports in one round."""
    return study.mechanism.progress_steps(index)
