"""What stands in a row's columns, checked. What a record is made of depends on the task: see `secfed.models.tasks`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secfed.models.data.faults import BadRow
from secfed.models.data.rows import Row

if TYPE_CHECKING:
    from secfed.study.tasks import TaskTable

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""One of two surrogates: JSON lets it through alone, and no text has it."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a record's fields, before there is a study that names them."""

    patient: str
    text: str
    """Empty where no column is text alone."""
    label: str
    """Empty where records have no label."""

    @property
    def needed(self) -> tuple[str, ...]:
        """All of them, each once, the patient's first."""
        return tuple(dict.fromkeys(name for name in (self.patient, self.text, self.label) if name))


@dataclass(frozen=True, slots=True)
class Record:
    """One note of one patient."""

    text: str
    label: int
    """Index in the study's list of labels."""


def needed_of(task: TaskTable) -> tuple[str, ...]:
    """The columns that a task needs, each once, the patient's first."""
    return tuple(dict.fromkeys((task.patient_column, *task.columns)))


def maker_of(task: TaskTable) -> Callable[[Row], Any]:
    """What makes a task's record of a row, or raises BadRow."""
    from secfed.models.tasks import kind_for  # stands on this module

    return kind_for(task, 0).record_of  # how many tokens are read does not matter to it


def text_of(row: Row, column: str) -> str:
    """What a row says in one column. Raises BadRow when it is no text, or none that a model could read."""
    return _checked(row, column, _value(row, column))


def list_of(row: Row, column: str) -> tuple[str, ...]:
    """The texts of a list in one column. Raises BadRow when it is no list, is empty, or holds what is no text."""
    value = _value(row, column)
    if not isinstance(value, list | tuple) or not value:
        raise BadRow(row.place, f'has no list in column "{column}"', "Write it as a list of texts")
    return tuple(_checked(row, column, each) for each in value)


def _value(row: Row, column: str) -> Any:
    if column not in row.values:
        raise BadRow(row.place, f'has no column "{column}"', "Name the columns in the study as in the file")
    return row.values[column]


def _checked(row: Row, column: str, value: Any) -> str:
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
