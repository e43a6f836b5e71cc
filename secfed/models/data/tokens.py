"""Records as tensors of one fixed shape. Nothing about a record depends on other records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from secfed.models.data.records import Record

if TYPE_CHECKING:
    from dp.sampling import Patients

_TOKENISE_BATCH = 1024


def tokenise(patients: Mapping[str, Sequence[Record]], tokenizer: Any, max_length: int) -> Patients:
    """All records as tensors of one fixed length: cut, or padded with masked tokens.

    Args:
        patients: records by patient id.
        tokenizer: a transformers tokenizer.
        max_length: tokens per record.
    """
    import torch

    from dp.sampling import Patients

    records = [record for own in patients.values() for record in own]
    parts: dict[str, list[torch.Tensor]] = {"input_ids": [], "attention_mask": []}
    for encoded in encode([record.text for record in records], tokenizer, max_length, padding="max_length"):
        for name, tensors in parts.items():
            tensors.append(torch.tensor(encoded[name], dtype=torch.int64))
    rows: dict[str, range] = {}
    used = 0
    for patient, own in patients.items():
        rows[patient] = range(used, used + len(own))
        used += len(own)
    return Patients(
        inputs={name: torch.cat(tensors) for name, tensors in parts.items()},
        labels=torch.tensor([record.label for record in records], dtype=torch.int64),
        rows=rows,
    )


def encode(
    texts: Sequence[str], tokenizer: Any, most: int, padding: Literal["max_length", "do_not_pad"] = "do_not_pad"
) -> Iterator[Mapping[str, list[list[int]]]]:
    """What the tokenizer makes of texts, some at a time: token ids, and masks of what is padding and what was added.

    Args:
        texts: notes, of which everything is text: what looks like a special token is spelled out like any other word.
        tokenizer: a transformers tokenizer.
        most: tokens of a text; the rest is cut.
        padding: whether shorter ones are filled up: after the text, whatever the tokenizer's own files say. Models with
            absolute positions, such as BERT, would read a text elsewhere; those that read its last token find it.
    """
    for start in range(0, len(texts), _TOKENISE_BATCH):
        yield tokenizer(
            list(texts[start : start + _TOKENISE_BATCH]),
            max_length=most,
            padding=padding,
            truncation=True,
            padding_side="right",
            split_special_tokens=True,
            return_attention_mask=True,
            return_special_tokens_mask=True,
        )


def tokenizer_in(base: Path) -> Any:
    """The tokenizer of a base model that is not loaded. Raises ModelError."""
    from transformers import AutoConfig

    from secfed.models.model import load_tokenizer
    from secfed.study.base import ModelError

    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{base} is no base model's folder", "Give the folder that has its config.json") from error
    return load_tokenizer(base, config.get_text_config().vocab_size)
