"""`kind = "tag"`: one label for each word of a text, such as where a medicine is named."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from secfed.study.tasks.base import Figure, Labels, TaskTable, check_labels, labels_in_words


class TagTask(TaskTable):
    """Token classification. A record has a list of words and a list of as many labels; a word's first token is
    labelled, and no other."""

    kind_name: ClassVar[str] = "tag"
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("word_accuracy", "word accuracy", "The share of words with the right label", True),
        Figure("loss", "loss", "The mean loss of a labelled word, in nats,", False),
    )

    kind: Literal["tag"] = "tag"
    labels: Labels
    words_column: str = "words"
    """A list of texts, none of them blank."""
    labels_column: str = "labels"
    """As many labels, one for each word."""

    @model_validator(mode="after")
    def _labels_differ(self) -> TagTask:
        check_labels(self.labels)
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return self.words_column, self.labels_column

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels

    @property
    def in_short(self) -> str:
        return (
            f"a label for each word, {self.labels_column} from {self.words_column}, with these {len(self.labels)} "
            f"labels, patients identified by {self.patient_column}"
        )

    def lines(self, max_length: int) -> list[tuple[str, str]]:
        return [
            (
                "task",
                f'learn a label for each word, "{self.labels_column}" from "{self.words_column}", patients by '
                f'"{self.patient_column}"',
            ),
            ("labels", labels_in_words(self.labels)),
            ("records", f"cut or padded to {max_length} tokens; words beyond have no part in it"),
        ]
