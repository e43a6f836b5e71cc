"""Token classification: a label for each word, and each record's gradient its own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForTokenClassification

from crypto.randomness import NoiseSecret
from dp.distributed import Batch, batch_gradients, gradient_buffer, private_sum, single_gradients, trained_parameters
from dp.guards import check_step
from dp.step_plan import LocalPlan, StepPlan
from dp.training import IGNORED, per_sample_gradients, plain_gradients, record_losses, train_locally
from secfed.models.data import BadRow, Row, tokenise
from secfed.models.model import LoraSettings, load_model, load_tokenizer
from secfed.models.tasks.tag import Tag, TaggedRecord
from secfed.study.tasks import TagTask
from tests.architectures import ARCHITECTURES, Architecture, write_base
from tests.tiny import SEED, only_patients

DISTRIBUTED = StepPlan(1.0, 0.5, 1 << 20, 2, 4, 2, Fraction(10**6))
LOCAL = LocalPlan(1, 1.0, 3, 0.5, 0.7, 0.1, "sgd", 4, 1)
KIND = Tag(TagTask(labels=("O", "PLACE", "FINDING")), 10)
RECORDS = {
    "p1": [TaggedRecord(("acute", "pain", "of", "the", "lung"), (0, 2, 0, 0, 1))],
    "p2": [TaggedRecord(("fever",), (2,)), TaggedRecord(("left", "heart", "failure"), (0, 1, 2))],
    "p3": [TaggedRecord(("q7x", "lung") * 6, (2, 1) * 6)],  # words of several tokens, and more than are read
}
pytestmark = pytest.mark.usefixtures("one_thread")


def opened(base: Path, architecture: Architecture) -> tuple[Any, Any]:
    model = load_model(base, KIND, LoraSettings(2, 4, architecture.targets, None, "ffa"), SEED)
    tokenizer = load_tokenizer(base, model.vocabulary)
    model.pad_with(tokenizer.pad_token_id)
    return model, tokenizer


def tags(architecture: Architecture) -> bool:
    return hasattr(AutoModelForTokenClassification, "_model_mapping") and any(
        config.model_type == architecture.kind for config in AutoModelForTokenClassification._model_mapping
    )


TAGGING = [each for each in ARCHITECTURES if not each.refused and tags(each)]


@pytest.mark.parametrize("architecture", TAGGING, ids=lambda each: each.kind)
def test_an_architecture_tags_in_both_modes_by_gradients_that_are_each_records_own(
    tmp_path: Path, architecture: Architecture
) -> None:
    model, tokenizer = opened(write_base(tmp_path / "base", architecture), architecture)
    verdict = check_step(model.module, KIND.made_up(model.vocabulary, model.padding or 0), 4, model.trained)
    verdict.refuse()
    patients = tokenise(RECORDS, tokenizer, KIND)
    parameters, batch = trained_parameters(model.module), Batch(patients.inputs, patients.labels, torch.ones(4))
    buffers = gradient_buffer(parameters, 4), gradient_buffer(parameters, 4)
    if not verdict.one_at_a_time:
        with per_sample_gradients(model.module):
            together = batch_gradients(model.module, parameters, batch, buffers[0])
        with plain_gradients(model.module):
            alone = single_gradients(model.module, parameters, batch, buffers[1])
        assert (np.linalg.norm(together - alone, axis=1) / np.linalg.norm(alone, axis=1) < 1e-6).all()
    secret, before = NoiseSecret(bytes), model.get_state()
    found = private_sum(model.module, patients, DISTRIBUTED, secret, 1, one_at_a_time=verdict.one_at_a_time)
    assert (found.non_finite, found.vector.shape) == (0, (model.dimension,))
    verdict.for_batches_alone().refuse()
    train_locally(model.module, patients, LOCAL, secret, 1)
    assert (model.get_state() != before).mean() > 0.99

    model.save(tmp_path / "adapter", "tiny")
    names = PeftConfig.from_pretrained(str(tmp_path / "adapter")).auto_mapping
    names["id2label"] = {int(number): label for number, label in names["id2label"].items()}
    plain = AutoModelForTokenClassification.from_pretrained(tmp_path / "base", **names)
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    with torch.inference_mode():
        assert torch.equal(loaded(**patients.inputs).logits, model.module(**patients.inputs).logits)


def test_a_words_first_token_has_its_label_and_no_other_token_has_one(tmp_path: Path) -> None:
    _, tokenizer = opened(write_base(tmp_path, ARCHITECTURES[0]), ARCHITECTURES[0])
    labels = tokenise(RECORDS, tokenizer, KIND).labels
    assert labels[0].tolist() == [IGNORED, 0, 2, 0, 0, 1, *[IGNORED] * 4]
    assert labels[1].tolist() == [IGNORED, 2, *[IGNORED] * 8]
    assert len(tokenizer("q7x", add_special_tokens=False)["input_ids"]) == 3
    assert labels[3].tolist() == [IGNORED, 2, IGNORED, IGNORED, 1, 2, IGNORED, IGNORED, 1, IGNORED]


def test_a_record_of_many_words_weighs_as_much_as_one_of_a_single_word(tmp_path: Path) -> None:
    model, tokenizer = opened(write_base(tmp_path, ARCHITECTURES[0]), ARCHITECTURES[0])
    patients = tokenise(RECORDS, tokenizer, KIND)
    with torch.inference_mode():
        together = record_losses(model.module, dict(patients.inputs), patients.labels)
        for name, place in (("p1", 0), ("p3", 3)):
            own = only_patients(patients, {name})
            alone = record_losses(model.module, dict(own.inputs), own.labels)
            assert float(together[place]) == pytest.approx(float(alone[0]), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"words": ["lung", "pain"], "labels": ["PLACE"]}, 'has another number of words in "words" than of labels'),
        ({"words": ["lung"], "labels": ["ORGAN"]}, 'has a label in "labels" that the study does not list'),
        ({"words": "lung", "labels": ["PLACE"]}, 'has no list in column "words"'),
        ({"words": [], "labels": []}, 'has no list in column "words"'),
        ({"words": ["lung", " "], "labels": ["PLACE", "O"]}, 'has no text in column "words"'),
        ({"words": ["lung", 7], "labels": ["PLACE", "O"]}, 'has no text in column "words"'),
        ({"words": ["lung"]}, 'has no column "labels"'),
    ],
)
def test_a_row_that_is_no_record_is_told_without_a_word_of_it(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRow) as refused:
        KIND.record_of(Row("line 3", values))
    assert told in str(refused.value)
    assert not any(word in str(refused.value) for word in ("lung", "ORGAN", "pain"))
