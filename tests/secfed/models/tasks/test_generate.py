"""Causal language models: each record's gradient is its own, and what the model foretells is the answer."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from crypto.randomness import NoiseSecret
from dp.distributed import (
    Batch,
    batch_gradients,
    draw_noise,
    gradient_buffer,
    private_sum,
    single_gradients,
    trained_parameters,
)
from dp.guards import check_step
from dp.sampling import Patients
from dp.step_plan import LocalPlan, StepPlan
from dp.training import IGNORED, per_sample_gradients, plain_gradients, record_losses, train_locally
from secfed.models.data import BadRow, Row, tokenise
from secfed.models.tasks.generate import Generate, WrittenRecord
from secfed.study.base import ModelError
from tests.causal import RECORDS, architecture, generating, opened, write_causal_base
from tests.tiny import only_patients

KINDS = (
    *("gpt2", "gpt_neox", "opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3"),
    *("mixtral", "qwen2_moe", "qwen3_moe"),
)
DISTRIBUTED = StepPlan(1.0, 0.5, 1 << 20, 2, 4, 2, Fraction(10**6))
LOCAL = LocalPlan(1, 1.0, 3, 0.5, 0.7, 0.1, "sgd", 4, 1)
pytestmark = pytest.mark.usefixtures("one_thread")


def loss_by_hand(base: Path, record: WrittenRecord, tokenizer: Any, kind: Generate, model: Any) -> float:
    """A record's loss as it is written in books: its own tokens, without padding, through the whole model."""
    prompt = tokenizer(record.prompt)["input_ids"][:-1]  # without [SEP], which is put behind a text
    prompt = [prompt[0], *prompt[1:][-(kind.prompt_tokens - 1) :]]
    answer = tokenizer(record.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    answer = answer[: kind.table.answer_tokens]
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))


@pytest.mark.parametrize("variant", ["ffa", "ab"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_records_gradient_is_what_it_is_by_itself(tmp_path: Path, kind: str, variant: str) -> None:
    base = write_causal_base(tmp_path, kind)
    model, tokenizer = opened(base, generating(), architecture(kind).targets, variant)
    patients = tokenise(RECORDS, tokenizer, model.kind)
    parameters, batch = trained_parameters(model.module), Batch(patients.inputs, patients.labels, torch.ones(4))
    buffers = gradient_buffer(parameters, 4), gradient_buffer(parameters, 4)
    with per_sample_gradients(model.module):
        together = batch_gradients(model.module, parameters, batch, buffers[0])
    with plain_gradients(model.module):
        alone = single_gradients(model.module, parameters, batch, buffers[1])
    size = np.linalg.norm(alone, axis=1)
    assert (size > 0).all()
    assert (np.linalg.norm(together - alone, axis=1) / size < 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_answer_positions_alone_give_the_loss_of_the_whole_model_without_padding(tmp_path: Path, kind: str) -> None:
    base = write_causal_base(tmp_path, kind)
    model, tokenizer = opened(base, generating(), architecture(kind).targets)
    plain, records = model.module.model, [record for own in RECORDS.values() for record in own]
    with torch.inference_mode():
        patients = tokenise(RECORDS, tokenizer, model.kind)
        found = record_losses(model.module, dict(patients.inputs), patients.labels)
        expected = [loss_by_hand(base, record, tokenizer, model.kind, plain) for record in records]
        assert found.tolist() == pytest.approx(expected, rel=2e-6)
        whole = plain(**patients.inputs, position_ids=(patients.inputs["attention_mask"].cumsum(1) - 1).clamp(min=0))
        assert torch.equal(model.module(**patients.inputs).logits, whole.logits[:, 6:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_writes_is_trained_in_both_modes_and_its_adapter_loaded_by_plain_peft(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_causal_base(tmp_path / "base", kind)
    model, tokenizer = opened(base, generating(), architecture(kind).targets)
    made_up = model.kind.made_up(model.vocabulary, model.padding or 0)
    verdict = check_step(model.module, made_up, 4, model.trained)
    verdict.for_batches_alone().refuse()
    model.kind.check_model(model.module, made_up)
    patients, secret, before = tokenise(RECORDS, tokenizer, model.kind), NoiseSecret(bytes), model.get_state()
    found = private_sum(model.module, patients, DISTRIBUTED, secret, 1, one_at_a_time=verdict.one_at_a_time)
    assert found.non_finite == 0
    assert found.vector.shape == (model.dimension,)
    train_locally(model.module, patients, LOCAL, secret, 1)
    assert (model.get_state() != before).mean() > 0.99
    model.save(tmp_path / "adapter", "base")
    assert all("lora_" in name for name, _ in model.layout)
    monkeypatch.chdir(tmp_path)
    with torch.inference_mode():
        expected = model.module.model(**patients.inputs).logits
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
        assert torch.equal(plain.eval()(**patients.inputs).logits, expected)
        assert torch.equal(
            AutoPeftModelForCausalLM.from_pretrained("adapter").eval()(**patients.inputs).logits, expected
        )


def test_a_patients_part_of_a_step_is_the_same_to_the_bit_without_the_others(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path)
    model, tokenizer = opened(base, generating(), ("q_proj", "v_proj"))
    one_at_a_time = check_step(model.module, model.kind.made_up(model.vocabulary, 0), 4, model.trained).one_at_a_time

    def vector(patients: Patients) -> Any:
        secret = NoiseSecret(bytes)
        found = private_sum(model.module, patients, DISTRIBUTED, secret, 1, one_at_a_time=one_at_a_time).vector
        return found - draw_noise(secret, 1, found.size, DISTRIBUTED.noise_variance)

    everybody = tokenise(RECORDS, tokenizer, model.kind)
    parts = [vector(only_patients(everybody, {name})) for name in RECORDS]
    assert (vector(everybody) == sum(parts)).all()


def test_a_long_answer_does_not_weigh_on_a_short_one(tmp_path: Path) -> None:
    """The harm without it: a mean over the batch's tokens gives a short record's gradient to a long one."""
    base = write_causal_base(tmp_path)
    model, tokenizer = opened(base, generating(), ("q_proj", "v_proj"))
    short, long = [WrittenRecord("pain", "burn")], [WrittenRecord("pain", "acute fever of the skin")]
    alone, beside = (tokenise(data, tokenizer, model.kind) for data in ({"a": short}, {"a": short, "b": long}))

    def over_the_batch(patients: Patients) -> torch.Tensor:
        logits = model.module(**patients.inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), patients.labels.flatten(), ignore_index=IGNORED)

    with torch.inference_mode():
        own = [record_losses(model.module, dict(each.inputs), each.labels)[0] for each in (alone, beside)]
        assert float(own[0]) == pytest.approx(float(own[1]), rel=1e-6)
        assert float(over_the_batch(beside)) != pytest.approx(float(over_the_batch(alone)), rel=1e-3)


def test_a_record_with_nothing_to_learn_has_no_loss_and_no_gradient(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path)
    model, tokenizer = opened(base, generating(), ("q_proj", "v_proj"))
    patients = tokenise(RECORDS, tokenizer, model.kind)
    labels = torch.full_like(patients.labels, IGNORED)
    loss = record_losses(model.module, dict(patients.inputs), labels)
    loss.sum().backward()
    assert loss.tolist() == [0.0] * 4
    assert all(not parameter.grad.any() for parameter in model.trained.values())


def test_prompts_end_where_answers_begin_and_lose_their_beginning(tmp_path: Path) -> None:
    _, tokenizer = opened(write_causal_base(tmp_path), generating(), ("q_proj",))
    found = tokenise(RECORDS, tokenizer, generating())
    words = [tokenizer.convert_ids_to_tokens(row) for row in found.inputs["input_ids"].tolist()]
    assert words[1] == ["[SEP]"] * 5 + ["[CLS]", "pain", "burn"] + ["[SEP]"] * 4
    assert words[2][0] == "[CLS]"
    assert words[2][5:] == ["the", "ear", "chronic", "failure", "of", "the", "heart"]
    assert found.inputs["attention_mask"][1].tolist() == [0] * 5 + [1] * 4 + [0] * 3
    assert found.labels[1].tolist() == [*tokenizer.convert_tokens_to_ids(["burn", "[SEP]"]), *[IGNORED] * 3]
    assert found.labels[2].tolist() == found.inputs["input_ids"][2, 7:].tolist()  # cut: no end of the text


def test_without_a_prompt_a_text_is_learnt_from_its_first_token_on(tmp_path: Path) -> None:
    _, tokenizer = opened(write_causal_base(tmp_path), generating(), ("q_proj",))
    found = tokenise({"a": [WrittenRecord("", "acute pain")]}, tokenizer, generating(6, prompt=""))
    assert tokenizer.convert_ids_to_tokens(found.inputs["input_ids"][0].tolist())[:4] == [
        "[CLS]",
        "acute",
        "pain",
        "[SEP]",
    ]
    assert found.labels[0, :3].tolist() == tokenizer.convert_tokens_to_ids(["acute", "pain", "[SEP]"])
    tokenizer.backend_tokenizer.post_processor = None  # as GPT-2's, which puts nothing before a text
    found = tokenise({"a": [WrittenRecord("", "acute pain")]}, tokenizer, generating(6, prompt=""))
    assert found.labels[0, :3].tolist() == [IGNORED, *tokenizer.convert_tokens_to_ids(["pain", "[SEP]"])]


def row(**values: Any) -> Row:
    return Row("line 7", values)


def test_a_row_becomes_a_prompt_and_an_answer() -> None:
    kind = generating(prompt="{a} {{x}} {b}:", answer=" {c}")
    assert kind.record_of(row(a="{b} é", b="", c="yes")) == WrittenRecord("{b} é {x} :", " yes")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": "x"}, 'has no column "c"'),
        ({"c": "x"}, 'has no column "a"'),
        ({"a": "x", "c": " "}, "has no text in any column of task.answer"),
        ({"a": 3, "c": "x"}, 'has no text in column "a"'),
        ({"a": "secret \ud83d", "c": "x"}, 'has half a character in column "a"'),
    ],
)
def test_a_row_that_is_no_record_is_refused_without_its_text(values: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRow, match=words) as refused:
        generating(prompt="{a}", answer="{c}").record_of(row(**values))
    assert "secret" not in str(refused.value)


def test_an_encoder_that_sees_the_answer_is_refused(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path, "bert")
    model, _ = opened(base, generating(), ("query", "value"))
    with pytest.raises(ModelError, match="sees the token that it is to foretell"):
        model.kind.check_model(model.module, model.kind.made_up(model.vocabulary, 0))


def test_weights_without_the_head_that_writes_are_refused(tmp_path: Path) -> None:
    from transformers import AutoModel

    base = write_causal_base(tmp_path, tie_word_embeddings=False)
    AutoModel.from_pretrained(base).save_pretrained(base)
    with pytest.raises(ModelError, match="lack lm_head"):
        opened(base, generating(), ("q_proj",))


def test_figures_are_over_all_tokens_of_the_answers(tmp_path: Path) -> None:
    model, tokenizer = opened(write_causal_base(tmp_path), generating(), ("q_proj", "v_proj"))
    patients = tokenise(RECORDS, tokenizer, model.kind)
    with torch.inference_mode():
        logits = model.module(**patients.inputs).logits
        per_token = torch.nn.functional.cross_entropy(logits.flatten(0, 1), patients.labels.flatten())
        wanted = patients.labels != IGNORED
        right = (logits.argmax(-1) == patients.labels)[wanted].double().mean()
    found = model.measured(patients)
    assert found["loss"] == pytest.approx(float(per_token), rel=1e-6)
    assert found["perplexity"] == pytest.approx(float(per_token.exp()), rel=1e-5)
    assert found["token_accuracy"] == pytest.approx(float(right))
