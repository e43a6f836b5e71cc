"""What the `[task]` tables have in common: whose a record is, what it needs, and how people read it. No torch."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, Strict, model_validator

from secfed.study.sections import Section, refuse_without_effect

Labels: TypeAlias = Annotated[tuple[str, ...], Strict(False), Field(min_length=2, max_length=10_000)]
"""Names of classes, in order. A list will do for the tuple, as it does in JSON, once a validator has looked at it."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that says how well a model does on the held-out records."""

    name: str
    """In `summary.json`, with `_before` and `_after`."""
    title: str
    """For people, at the start of a line: 16 characters at most."""
    meaning: str
    """For people, in full, at the start of a sentence."""
    share: bool
    """Whether it is a share, which people read in per cent."""

    @property
    def keys(self) -> tuple[str, str]:
        """Its names in `summary.json`, before a run and after it."""
        return f"{self.name}_before", f"{self.name}_after"

    def written(self, value: float) -> str:
        """The value as people read it."""
        return f"{100 * value:.1f} %" if self.share else f"{value:.3f}"


class TaskTable(Section):
    """What is learnt from a record: one class for each kind."""

    kind_name: ClassVar[str]
    """As a study names it."""
    figures: ClassVar[tuple[Figure, ...]]
    """What is measured before and after a run; the first says most."""
    all_kinds: ClassVar[dict[str, type[TaskTable]]] = {}
    """Every kind by its name, filled as classes are made."""

    patient_column: str = "patient"
    """Whose a record is."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls.all_kinds[cls.kind_name] = cls

    @model_validator(mode="before")
    @classmethod
    def _every_key_has_an_effect(cls, values: Any) -> Any:
        refuse_without_effect(values, cls, cls.all_kinds.values(), f'with kind = "{cls.kind_name}"')
        return values

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """What a record must have beside its patient, each once."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order; none where tokens are written."""
        return ()

    @property
    @abstractmethod
    def in_short(self) -> str:
        """The table, as the end of a sentence that begins with `learning`; long texts are cut."""

    @abstractmethod
    def lines(self, max_length: int) -> list[tuple[str, str]]:
        """What people read before they sign: a name, and what is said of it.

        Args:
            max_length: tokens per record.
        """

    def check_length(self, max_length: int) -> None:
        """Refuse a number of tokens per record that this task cannot be done with. Raises ValueError."""


def labels_in_words(labels: tuple[str, ...], shown: int = 8) -> str:
    """How many there are, and the first."""
    named = ", ".join(f'"{label}"' for label in labels[:shown])
    more = f" and {len(labels) - shown} more" if len(labels) > shown else ""
    return f"{len(labels)}: {named}{more}"


def check_labels(labels: tuple[str, ...]) -> None:
    """Refuse a list of labels with one twice. Raises ValueError."""
    if len(set(labels)) != len(labels):
        raise ValueError("two labels are the same")
