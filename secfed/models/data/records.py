"""From a row to a record of a patient. What a record is depends on the study's task; nothing else here does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secfed.models.data.faults import BadRow
from secfed.models.data.rows import Row

if TYPE_CHECKING:
    from secfed.study.manifest import Study, TaskSection

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""One of two surrogates: JSON lets it through alone, and no text has it."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a record's fields, from the study."""

    patient: str
    text: str
    label: str

    @property
    def needed(self) -> tuple[str, ...]:
        """All of them, each once, the patient's first."""
        return tuple(dict.fromkeys((self.patient, self.text, self.label)))


@dataclass(frozen=True, slots=True)
class Record:
    """One note of one patient."""

    text: str
    label: int
    """Index in the study's list of labels."""


def columns(study: Study) -> Columns:
    """The names of a record's fields."""
    return columns_of(study.task)


def columns_of(task: TaskSection) -> Columns:
    """The names of a record's fields."""
    return Columns(task.patient_column, task.text_column, task.label_column)


def needed_of(task: TaskSection) -> tuple[str, ...]:
    """The columns that a task needs, each once, the patient's first."""
    return columns_of(task).needed


def maker_of(task: TaskSection) -> Callable[[Row], Any]:
    """What makes a task's record of a row, or raises BadRow."""
    fields, index_of = columns_of(task), {label: index for index, label in enumerate(task.labels)}
    return lambda row: record_of(row, fields, index_of)


def record_of(row: Row, columns: Columns, index_of: Mapping[str, int]) -> Record:
    """The record that a row describes.

    Args:
        row: as the file has it.
        columns: the fields that every record has; other fields are ignored.
        index_of: the study's labels, and their places in it.

    Raises:
        BadRow: it describes none.
    """
    text, name = text_of(row, columns.text), text_of(row, columns.label)
    label = index_of.get(name)
    if label is None:
        raise BadRow(
            row.place,
            f'has a label in "{columns.label}" that the study does not list',
            "Use the labels of task.labels, or ask for a study that lists this one",
        )
    return Record(text, label)


def text_of(row: Row, column: str) -> str:
    """What a row says in one column. Raises BadRow when it is no text, or none that a model could read."""
    if column not in row.values:
        raise BadRow(row.place, f'has no column "{column}"', "Name the columns in the study as in the file")
    value = row.values[column]
    if not isinstance(value, str) or not value.strip():
        raise BadRow(
            row.place,
            f'has no text in column "{column}"',
            "Fill it in, or leave the record out; in JSON lines, text stands between quotation marks",
        )
    if _HALF_CHARACTER.search(value):
        raise BadRow(
            row.place,
            f'has half a character in column "{column}"',
            "It was cut in the middle of one, such as an emoji: cut it between two, and write the file again",
        )
    return value
