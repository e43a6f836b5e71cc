"""Patients and their records: the rows of a file, checked strictly, and grouped by patient.

Several records a patient; the study names the columns and lists the labels. All bad rows are told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from secfed.models.data.faults import BadRow, DataError, Faults
from secfed.models.data.records import Columns, text_of
from secfed.models.data.rows import Encoding, Row, Rows, read_rows
from secfed.models.data.spellings import Spellings

if TYPE_CHECKING:
    from secfed.models.tasks.base import Kind

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a data file, for its owner's eyes."""

    patients: int
    records: int
    most_records: int
    """Of one patient."""
    labels: tuple[str, ...]
    """All that occur, sorted."""


def survey(path: Path, columns: Columns, encoding: Encoding = "utf-8") -> Survey:
    """Read a whole data file as `read_patients` does, before there is a study that lists its labels.

    Raises:
        DataError: the file cannot be read, holds no record, or rows are no records.
    """
    counts: dict[str, int] = {}
    labels: set[str] = set()

    def texts(row: Row) -> str:
        if columns.text:
            text_of(row, columns.text)
        return text_of(row, columns.label) if columns.label else ""

    for patient, label in checked(path, columns.needed, texts, encoding):
        counts[patient] = counts.get(patient, 0) + 1
        if label:
            labels.add(label)
    if not counts:
        raise DataError(f"{path} holds no record", "Point it at a file with one JSON object a line")
    return Survey(len(counts), sum(counts.values()), max(counts.values()), tuple(sorted(labels)))


def read_patients(
    path: Path,
    kind: Kind[Any, Any],
    owner: str,
    advice: str = "Point it at this site's records",
    encoding: Encoding = "utf-8",
) -> dict[str, list[Any]]:
    """One site's records, grouped by patient, in the order of the file.

    Args:
        path: JSON lines, CSV or Parquet.
        kind: what a record is; columns that it does not name are ignored.
        owner: whose file it is, for the error's text.
        advice: what to do where it holds no record.
        encoding: of a file of text.

    Raises:
        DataError: the file cannot be read, holds no record, or rows are not what the study describes.
    """
    patients: dict[str, list[Any]] = {}
    for patient, record in checked(path, kind.needed, kind.record_of, encoding):
        patients.setdefault(patient, []).append(record)
    if not patients:
        raise DataError(f"{owner} has no patients: {path} holds no record", advice)
    return patients


def read_test_set(path: Path, kind: Kind[Any, Any]) -> dict[str, list[Any]]:
    """The held-out records on which a model is measured; same format and errors as `read_patients`."""
    return read_patients(
        path, kind, "the test set", "Point it at held-out records, public or synthetic ones: no patients'"
    )


def checked(
    path: Path, needed: Sequence[str], make: Callable[[Row], Made], encoding: Encoding = "utf-8"
) -> Iterator[tuple[str, Made]]:
    """Every row's patient, and what is made of the row. After the last row all bad ones are told at once.

    Args:
        path: a data file.
        needed: the columns that are read; the first of them says whose row it is.
        make: makes something of a row, or raises BadRow.
        encoding: of a file of text.

    Raises:
        DataError: the file cannot be read, or rows are bad. Whatever came before is not to be used then.
    """
    faults = Faults(path)
    yield from sorted_out(read_rows(path, needed, encoding), needed[0], make, faults)
    faults.check()


def sorted_out(
    rows: Rows, patient_column: str, make: Callable[[Row], Made], faults: Faults
) -> Iterator[tuple[str, Made]]:
    """Every good row's patient, and what is made of the row; the bad ones go to `faults`."""
    spellings = Spellings(patient_column)
    for row in rows:
        try:
            if isinstance(row, BadRow):
                raise row
            patient = text_of(row, patient_column)
            made = make(row)
            spellings.check(patient, row.place)
        except BadRow as bad:
            faults.add(bad)
            continue
        yield patient, made
