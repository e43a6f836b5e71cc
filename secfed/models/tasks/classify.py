"""Sequence classification: a text, and one label of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from secfed.models.data.faults import BadRow
from secfed.models.data.records import Record, text_of
from secfed.models.data.rows import Row
from secfed.models.data.tokens import encode
from secfed.models.tasks.base import _ANOTHER, Kind, Reading
from secfed.study.base import ModelError
from secfed.study.tasks import ClassifyTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dp.sampling import Patients

_BATCH = 128


class Classify(Kind[ClassifyTask, Record]):
    """One label for each text. Decoders classify by the last token of it."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    peft_task: ClassVar[str] = "SEQ_CLS"
    head: ClassVar[str] = ", and the classification head"
    why_no_pair: ClassVar[str] = "classifies by an end-of-text token that a cut record lacks"

    @property
    def purpose(self) -> str:
        return f"classification into {len(self.classes)} labels"

    def record_of(self, row: Row) -> Record:
        text, name = text_of(row, self.table.text_column), text_of(row, self.table.label_column)
        return Record(text, label_index(row, self.table.label_column, name, self.places))

    def content(self, record: Record) -> tuple[str, tuple[int, ...]]:
        return record.text, (record.label,)

    def readings(self, records: Sequence[Record], tokenizer: Any) -> Iterator[Reading]:
        # One more than is read: this one was cut.
        for batch in encode([record.text for record in records], tokenizer, self.max_length + 1):
            for ids, added in zip(batch["input_ids"], batch["special_tokens_mask"], strict=True):
                own = [token for token, special in zip(ids, added, strict=True) if not special]
                yield Reading(own[: self.max_length], len(ids) > self.max_length)

    def tensors(self, records: Sequence[Record], tokenizer: Any) -> tuple[dict[str, Tensor], Tensor]:
        import torch

        parts: dict[str, list[Tensor]] = {"input_ids": [], "attention_mask": []}
        texts = [record.text for record in records]
        for encoded in encode(texts, tokenizer, self.max_length, padding="max_length"):
            for name, tensors in parts.items():
                tensors.append(torch.tensor(encoded[name], dtype=torch.int64))
        inputs = {name: torch.cat(tensors) for name, tensors in parts.items()}
        return inputs, torch.tensor([record.label for record in records], dtype=torch.int64)

    def made_up(self, vocabulary: int, padding: int) -> Patients:
        from dp.guards import made_up_patients

        return made_up_patients(self.max_length, vocabulary, len(self.classes), padding=padding)

    def check_config(self, base: Path, config: Mapping[str, Any]) -> None:
        super().check_config(base, config)
        if config.get("model_type") == "xlnet":
            raise ModelError(
                f"the model in {base} is an XLNet, which classifies by the last position, and that is padding", _ANOTHER
            )

    def measured(self, module: nn.Module, held_out: Patients) -> dict[str, float]:
        import torch

        right = 0
        with torch.inference_mode():
            for start in range(0, held_out.records, _BATCH):
                rows = slice(start, start + _BATCH)
                inputs = {name: tensor[rows] for name, tensor in held_out.inputs.items()}
                right += int((module(**inputs).logits.argmax(dim=1) == held_out.labels[rows]).sum())
        return {"accuracy": right / held_out.records}


def label_index(row: Row, column: str, name: str, places: Mapping[str, int]) -> int:
    """A label's place in the study. Raises BadRow, which does not tell the label."""
    place = places.get(name)
    if place is None:
        raise BadRow(
            row.place,
            f'has a label in "{column}" that the study does not list',
            "Use the labels of task.labels, or ask for a study that lists this one",
        )
    return place
