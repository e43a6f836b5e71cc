"""Records as tensors of one fixed shape. Nothing about a record depends on other records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from dp.sampling import Patients
    from secfed.models.tasks.base import Kind

_TOKENISE_BATCH = 1024


def tokenise(patients: Mapping[str, Sequence[Any]], tokenizer: Any, kind: Kind[Any, Any]) -> Patients:
    """All records as tensors of one fixed shape.

    Args:
        patients: records by patient id.
        tokenizer: a transformers tokenizer.
        kind: what a record is, and how many tokens it has.
    """
    from dp.sampling import Patients

    inputs, labels = kind.tensors([record for own in patients.values() for record in own], tokenizer)
    rows: dict[str, range] = {}
    used = 0
    for patient, own in patients.items():
        rows[patient] = range(used, used + len(own))
        used += len(own)
    return Patients(inputs, labels, rows)


def encode(
    texts: Sequence[str] | Sequence[list[str]],
    tokenizer: Any,
    most: int,
    padding: Literal["max_length", "do_not_pad"] = "do_not_pad",
) -> Iterator[Any]:
    """What the tokenizer makes of texts, some at a time: token ids, and masks of what is padding and what was added.

    Args:
        texts: notes, of which everything is text: what looks like a special token is spelled out like any other word.
            Each may be a list of words.
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
            is_split_into_words=not isinstance(texts[start], str),
            padding_side="right",
            split_special_tokens=True,
            return_attention_mask=True,
            return_special_tokens_mask=True,
        )


def tokenizer_in(base: Path) -> Any:
    """The tokenizer of a base model that is not loaded. Raises ModelError."""
    from transformers import AutoConfig

    from secfed.models.libraries import OWN_CODE_ONLY
    from secfed.models.model import load_tokenizer
    from secfed.study.base import ModelError

    try:
        config = AutoConfig.from_pretrained(base, **OWN_CODE_ONLY)
    except (OSError, ValueError) as error:
        raise ModelError(f"{base} is no base model's folder", "Give the folder that has its config.json") from error
    return load_tokenizer(base, config.get_text_config().vocab_size)
