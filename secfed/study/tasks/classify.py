"""`kind = "classify"`, or no kind at all: one label for each text.

Version 0.1.0 had this task only, and no `kind`. A study that says it or leaves it out is the same study, so that the
key is no part of what is signed: digests from then hold.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import model_validator

from secfed.study.tasks.base import Figure, Labels, TaskTable, check_labels, labels_in_words


class ClassifyTask(TaskTable):
    """Sequence classification: one record a line, several records a patient."""

    kind_name: ClassVar[str] = "classify"
    figures: ClassVar[tuple[Figure, ...]] = (Figure("accuracy", "accuracy", "Accuracy", True),)

    labels: Labels
    text_column: str = "text"
    label_column: str = "label"

    @model_validator(mode="before")
    @classmethod
    def _kind_may_be_named(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("kind") == cls.kind_name:
            return {name: value for name, value in values.items() if name != "kind"}
        return values

    @model_validator(mode="after")
    def _labels_differ(self) -> ClassifyTask:
        check_labels(self.labels)
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return self.text_column, self.label_column

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels

    @property
    def in_short(self) -> str:
        return (
            f"{self.label_column} from {self.text_column}, with these {len(self.labels)} labels, patients identified "
            f"by {self.patient_column}"
        )

    def lines(self, max_length: int) -> list[tuple[str, str]]:
        return [
            ("task", f'learn "{self.label_column}" from "{self.text_column}", patients by "{self.patient_column}"'),
            ("labels", labels_in_words(self.labels)),
            ("records", f"cut or padded to {max_length} tokens"),
        ]
