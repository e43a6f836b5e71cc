"""What docs/models.md says of an architecture is what happens to it: in both modes, and to the adapter afterwards."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from crypto.randomness import NoiseSecret
from dp.distributed import private_sum
from dp.errors import UnsuitableModel
from dp.guards import Verdict, check_step, made_up_patients
from dp.step_plan import LocalPlan, StepPlan
from dp.training import train_locally
from secfed.models.data import Record, tokenise
from secfed.models.model import AdapterModel, LoraSettings, load_model, load_tokenizer
from secfed.study.base import ModelError
from tests.architectures import ARCHITECTURES, Architecture, write_base
from tests.console import ROOT
from tests.tiny import LABELS, LENGTH, SEED, classifying, load_plainly

DISTRIBUTED = StepPlan(0.9, 0.5, 1 << 20, 1, 4, 2, Fraction(10**6))
LOCAL = LocalPlan(1, 0.9, 6, 0.5, 0.7, 0.1, "sgd", 4, 2)
RECORDS = {
    f"patient {number}": [Record(" ".join(["acute", "pain", "of", "the", "left", "lung"][:number]), number % 3)]
    for number in range(1, 7)
}
pytestmark = pytest.mark.usefixtures("one_thread")


def names(architecture: Architecture) -> str:
    return architecture.kind


def opened(base: Path, architecture: Architecture) -> AdapterModel:
    lora = LoraSettings(rank=2, alpha=4, targets=architecture.targets, layers=None, variant="ffa")
    return load_model(base, classifying(), lora, SEED)


def tried(model: AdapterModel) -> Verdict:
    """The guards' verdict, as before a study."""
    made_up = made_up_patients(LENGTH, model.vocabulary, len(LABELS), padding=model.padding or 0)
    verdict = check_step(model.module, made_up, LOCAL.physical_batch, model.trained)
    verdict.refuse()
    return verdict


@pytest.mark.parametrize("architecture", [each for each in ARCHITECTURES if not each.refused], ids=names)
def test_an_architecture_is_trained_in_both_modes_and_its_adapter_loaded_by_peft(
    tmp_path: Path, architecture: Architecture
) -> None:
    base = write_base(tmp_path / "base", architecture)
    model = opened(base, architecture)
    tokenizer = load_tokenizer(base, model.vocabulary)
    model.pad_with(tokenizer.pad_token_id)
    verdict = tried(model)
    verdict.for_batches_alone().refuse()
    patients, secret, before = tokenise(RECORDS, tokenizer, classifying()), NoiseSecret(bytes), model.get_state()
    found = private_sum(model.module, patients, DISTRIBUTED, secret, 1, one_at_a_time=verdict.one_at_a_time)
    assert found.non_finite == 0
    assert found.vector.shape == (model.dimension,)
    train_locally(model.module, patients, LOCAL, secret, 1)
    assert (model.get_state() != before).mean() > 0.99  # every tensor got its noise
    model.save(tmp_path / "adapter", "tiny")
    loaded = load_plainly(base, tmp_path / "adapter")
    with torch.inference_mode():
        assert torch.equal(loaded(**patients.inputs).logits, model.module(**patients.inputs).logits)


@pytest.mark.parametrize("architecture", [each for each in ARCHITECTURES if each.refused], ids=names)
def test_what_cannot_be_trained_is_refused_with_the_reason(tmp_path: Path, architecture: Architecture) -> None:
    base = write_base(tmp_path / "base", architecture)
    with pytest.raises((ModelError, UnsuitableModel), match=re.escape(architecture.refused)):
        tried(opened(base, architecture))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoder_classifies_by_the_last_token_of_a_text_however_much_padding_follows(
    tmp_path: Path, kind: str
) -> None:
    architecture = next(each for each in ARCHITECTURES if each.kind == kind)
    base = write_base(tmp_path / "base", architecture)
    model = opened(base, architecture)
    tokenizer = load_tokenizer(base, model.vocabulary)
    model.pad_with(tokenizer.pad_token_id)
    record = {"a": [Record("acute pain", 0)]}
    with torch.inference_mode():
        short, long = (
            model.module(**tokenise(record, tokenizer, classifying(length)).inputs).logits for length in (4, 12)
        )
    assert np.allclose(short.numpy(), long.numpy(), atol=1e-6)


@pytest.mark.parametrize("architecture", [each for each in ARCHITECTURES if not each.refused], ids=names)
def test_records_may_be_as_long_as_a_model_has_positions_and_no_longer(
    tmp_path: Path, architecture: Architecture
) -> None:
    """At the bound a model really reads them; what is longer is refused with both numbers, and not by the library."""
    base = write_base(tmp_path / "base", architecture)
    model = opened(base, architecture)
    if architecture.kind == "bloom":  # by distance alone: no number anywhere
        return model.check_length(base, 8192)
    most = 40 - {"roberta": 1, "xlm-roberta": 1, "camembert": 1, "mpnet": 2}.get(architecture.kind, 0)
    model.check_length(base, most)
    tokens = torch.full((1, most), 5)
    with torch.no_grad():
        model.module(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    with pytest.raises(ModelError, match=f"reads {most} tokens of a record, and the study's max_length is {most + 1}"):
        model.check_length(base, most + 1)


def test_the_page_about_models_says_what_the_tests_ran() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    rows = [
        f"| {each.title} | `{each.kind}` | {', '.join(f'`{name}`' for name in each.targets)} | "
        + (f"refused: {each.refused}" if each.refused else "yes")
        + " |"
        for each in ARCHITECTURES
    ]
    assert [line for line in page.splitlines() if line.startswith("| ")][1:] == rows
