"""Token classification: words, and one label for each. A word's first token is labelled, as in BERT's own experiments
(Devlin et al. 2019, section 5.3); further tokens of it, and those that the tokenizer adds, have no label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from secfed.models.data.faults import BadRow
from secfed.models.data.records import list_of
from secfed.models.data.rows import Row
from secfed.models.data.tokens import encode
from secfed.models.tasks.base import Kind, Reading
from secfed.models.tasks.classify import label_index
from secfed.study.tasks import TagTask

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dp.sampling import Patients


@dataclass(frozen=True, slots=True)
class TaggedRecord:
    """One note of one patient, word by word."""

    words: tuple[str, ...]
    labels: tuple[int, ...]
    """Indices in the study's list of labels, one for each word."""


class Tag(Kind[TagTask, TaggedRecord]):
    """One label for each word."""

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    peft_task: ClassVar[str] = "TOKEN_CLS"
    head: ClassVar[str] = ", and the head that labels tokens"

    @property
    def purpose(self) -> str:
        return f"tagging words with {len(self.classes)} labels"

    def record_of(self, row: Row) -> TaggedRecord:
        column = self.table.labels_column
        words, names = list_of(row, self.table.words_column), list_of(row, column)
        if len(words) != len(names):
            raise BadRow(
                row.place,
                f'has another number of words in "{self.table.words_column}" than of labels in "{column}"',
                "Write one label for each word",
            )
        return TaggedRecord(words, tuple(label_index(row, column, name, self.places) for name in names))

    def content(self, record: TaggedRecord) -> tuple[str, tuple[int, ...]]:
        return " ".join(record.words), tuple(sorted(set(record.labels)))

    def readings(self, records: Sequence[TaggedRecord], tokenizer: Any) -> Iterator[Reading]:
        for ids, places in self._encoded(records, tokenizer, self.max_length + 1):
            own = [token for token, place in zip(ids, places, strict=True) if place is not None][: self.max_length]
            yield Reading(own, len(ids) > self.max_length, bool(own))

    def tensors(self, records: Sequence[TaggedRecord], tokenizer: Any) -> tuple[dict[str, Tensor], Tensor]:
        import torch

        from dp.training import IGNORED

        shape = (len(records), self.max_length)
        tokens = torch.full(shape, int(tokenizer.pad_token_id), dtype=torch.int64)
        mask, labels = torch.zeros_like(tokens), torch.full(shape, IGNORED, dtype=torch.int64)
        encoded = self._encoded(records, tokenizer, self.max_length)
        for row, (record, (ids, places)) in enumerate(zip(records, encoded, strict=True)):
            tokens[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids), 1
            before: int | None = None
            for position, place in enumerate(places):
                if place is not None and place != before:
                    labels[row, position] = record.labels[place]
                before = place
        return {"input_ids": tokens, "attention_mask": mask}, labels

    def _encoded(
        self, records: Sequence[TaggedRecord], tokenizer: Any, most: int
    ) -> Iterator[tuple[list[int], list[int | None]]]:
        """Token ids of every record, and which word each token is of; None for what the tokenizer adds."""
        for batch in encode([list(record.words) for record in records], tokenizer, most):
            for number, ids in enumerate(batch["input_ids"]):
                yield ids, batch.word_ids(number)

    def made_up(self, vocabulary: int, padding: int) -> Patients:
        import torch

        from dp.guards import made_up_patients
        from dp.sampling import Patients
        from dp.training import IGNORED

        found = made_up_patients(self.max_length, vocabulary, len(self.classes), padding=padding)
        places = torch.arange(self.max_length) + found.labels[:, None]
        labels = torch.where(found.inputs["attention_mask"] == 1, places % len(self.classes), IGNORED)
        labels[:, 0] = IGNORED
        return Patients(found.inputs, labels, found.rows)

    def measured(self, module: nn.Module, held_out: Patients) -> dict[str, float]:
        from secfed.models.tasks.positions import over_positions

        found = over_positions(module, held_out)
        return {"word_accuracy": found.accuracy, "loss": found.loss}
