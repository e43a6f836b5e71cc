"""Small random causal language models, with what the tests of `generate` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from secfed.models.model import AdapterModel, LoraSettings, load_model, load_tokenizer
from secfed.models.tasks.generate import Generate, WrittenRecord
from secfed.study.tasks import GenerateTask
from tests.architectures import ARCHITECTURES, Architecture
from tests.tiny import SEED, VOCABULARY, make_tiny_base

CHAT = (
    "{% for message in messages %}[CLS]{{ 'left' if message['role'] == 'user' else 'right' }} of "
    "{{ message['content'] }}[SEP] the {% endfor %}{% if add_generation_prompt %}[CLS]right of {% endif %}"
)
"""A chat template in the tiny tokenizer's own tokens."""
TASK: dict[str, Any] = {"prompt": "pain of {where}", "answer": "{what}", "answer_tokens": 5}
RECORDS = {
    "a": [WrittenRecord("pain of the left lung", "acute infection"), WrittenRecord("pain", "burn")],
    "b": [WrittenRecord("pain of the heart and the kidney and the eye and the ear", "chronic failure of the heart")],
    "c": [WrittenRecord("skin", "benign tumour disease failure disorder injury")],
}


def generating(length: int = 12, **task: Any) -> Generate:
    """The kind of task: prompts of 7 tokens and answers of 5."""
    return Generate(GenerateTask(**{**TASK, **task}), length)


def architecture(kind: str) -> Architecture:
    return next(each for each in ARCHITECTURES if each.kind == kind)


def write_causal_base(folder: Path, kind: str = "llama", chat_template: str | None = None, **config: Any) -> Path:
    """A base that writes, as it is published: its head tied or not as the architecture has it, no padding token."""
    make_tiny_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.chat_template = None, "[SEP]", chat_template
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    (folder / "config.json").unlink()
    values = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **{**architecture(kind).config, **config})
    with torch.random.fork_rng():
        torch.manual_seed(7)
        AutoModelForCausalLM.from_config(values).save_pretrained(folder)
    return folder


def opened(base: Path, kind: Generate, targets: tuple[str, ...], variant: Any = "ffa") -> tuple[AdapterModel, Any]:
    """The adapter model, a little off its start, where A has a gradient, too; and its tokenizer."""
    model = load_model(base, kind, LoraSettings(2, 4, targets, None, variant), SEED)
    tokenizer = load_tokenizer(base, model.vocabulary)
    model.pad_with(tokenizer.pad_token_id)
    with torch.no_grad():
        for number, parameter in enumerate(model.trained.values()):
            parameter.add_(0.05 * torch.cos(torch.arange(parameter.numel()) + number).view_as(parameter))
    return model, tokenizer
