"""A base model small enough for tests: a random two-layer BERT with a WordPiece vocabulary of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, BertModel, PreTrainedTokenizerFast

from dp.sampling import Patients
from secfed.models.model import AdapterModel, LoraSettings, load_model
from secfed.models.tasks.classify import Classify
from secfed.study.tasks import ClassifyTask

WORDS = (
    "acute",
    "chronic",
    "fracture",
    "of",
    "the",
    "left",
    "right",
    "lung",
    "heart",
    "kidney",
    "bone",
    "infection",
    "pain",
    "tumour",
    "benign",
    "malignant",
    "injury",
    "burn",
    "fever",
    "viral",
    "bacterial",
    "disease",
    "failure",
    "disorder",
    "pregnancy",
    "birth",
    "skin",
    "eye",
    "ear",
    "blood",
    "nerve",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LABELS = ("bones", "organs", "other")
VOCABULARY = len(SPECIAL) + len(WORDS) + 2 * 36
"""Tokens of the tiny base: these words, and letters and digits by themselves and inside a word."""
LENGTH = 8
LORA = LoraSettings(rank=2, alpha=8, targets=("query", "value"), layers=None, variant="ffa")
SEED = bytes(range(32))


def make_tiny_base(folder: Path) -> Path:
    """Write the tiny model and its tokenizer into a folder, as transformers would; the same bytes every time."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [f"{prefix}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for prefix in ("", "##")]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS, *letters])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        BertModel(config).save_pretrained(folder)
    return folder


def classifying(length: int = LENGTH, labels: Sequence[str] = LABELS, **columns: str) -> Classify:
    """The kind of task that most tests have."""
    return Classify(ClassifyTask(labels=tuple(labels), **columns), length)


def make_tiny_model(base: Path, lora: LoraSettings = LORA) -> AdapterModel:
    """The tiny model with a fresh adapter for `LABELS`."""
    return load_model(base, classifying(), lora, SEED)


def load_plainly(base: Path, adapter: Path) -> PeftModel:
    """What docs/models.md tells users to do with a saved adapter."""
    names = PeftConfig.from_pretrained(str(adapter)).auto_mapping
    names["id2label"] = {int(number): label for number, label in names["id2label"].items()}
    plain = AutoModelForSequenceClassification.from_pretrained(base, **names)
    return PeftModel.from_pretrained(plain, adapter).eval()


def make_tiny_patients(count: int, records_each: int = 2) -> Patients:
    """Tokenised records that differ from patient to patient, with labels that depend on the tokens."""
    generator = torch.Generator().manual_seed(count)
    records = count * records_each
    tokens = torch.randint(5, 5 + len(WORDS), (records, LENGTH), generator=generator)
    tokens[:, 0] = 2
    return Patients(
        inputs={"input_ids": tokens, "attention_mask": torch.ones_like(tokens)},
        labels=tokens[:, 1] % len(LABELS),
        rows={
            f"patient-{number}": range(number * records_each, (number + 1) * records_each) for number in range(count)
        },
    )


def write_records(path: Path, records: Sequence[tuple[str, str, str]]) -> Path:
    """Write (patient, text, label) records as JSON lines with these column names."""
    lines = [json.dumps({"patient": patient, "text": text, "label": label}) for patient, text, label in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def only_patients(patients: Patients, names: set[str]) -> Patients:
    """A hospital that has these patients alone, their records moved together."""
    kept = {name: rows for name, rows in patients.rows.items() if name in names}
    order = [row for rows in kept.values() for row in rows]
    place = {row: at for at, row in enumerate(order)}
    return Patients(
        {name: tensor[order] for name, tensor in patients.inputs.items()},
        patients.labels[order],
        {name: [place[row] for row in rows] for name, rows in kept.items()},
    )
