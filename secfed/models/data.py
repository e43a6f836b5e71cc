"""Patients and their records: read from JSON lines, checked strictly, turned into tensors of fixed shape.

One record a line, several records a patient; the study names the columns and lists the labels. Nothing about a
record depends on other records: labels, vocabulary and length come from the study. An error names the file, the
line and the next step, and never the text of a record, its label or its patient.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from secfed.errors import UserError

if TYPE_CHECKING:
    from dp.sampling import Patients
    from secfed.study.manifest import Study

LINE_BYTES_MAX = 1 << 20
"""A longer line is refused: a record is one note, not a file without line breaks."""
_TOKENISE_BATCH = 1024
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""One of two surrogates: JSON lets it through alone, and no text has it."""


_WHOLE_NUMBER = re.compile(r"([0-9]+)[.,]0+")


class DataError(UserError):
    """A data file is missing, malformed, or not what the study describes."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of a record's fields, from the study."""

    patient: str
    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Record:
    """One note of one patient."""

    text: str
    label: int
    """Index in the study's list of labels."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a data file, for its owner's eyes."""

    patients: int
    records: int
    most_records: int
    """Of one patient."""
    labels: tuple[str, ...]
    """All that occur, sorted."""


def columns(study: Study) -> Columns:
    """The names of a record's fields."""
    task = study.task
    return Columns(task.patient_column, task.text_column, task.label_column)


def survey(path: Path, columns: Columns) -> Survey:
    """Read a whole data file as `read_patients` does, before there is a study that lists its labels.

    Raises:
        DataError: the file cannot be read, holds no record, or a line is no record.
    """
    counts: dict[str, int] = {}
    labels: set[str] = set()
    spellings = _Spellings(columns.patient)
    for number, line in _lines(path):
        patient, _, label = _fields(f"{path}, line {number}", line, columns)
        spellings.check(patient, path, number)
        counts[patient] = counts.get(patient, 0) + 1
        labels.add(label)
    if not counts:
        raise DataError(f"{path} holds no record", "Point it at a file with one JSON object a line")
    return Survey(len(counts), sum(counts.values()), max(counts.values()), tuple(sorted(labels)))


def read_patients(
    path: Path, columns: Columns, labels: Sequence[str], owner: str, advice: str = "Point it at this hospital's records"
) -> dict[str, list[Record]]:
    """One hospital's records, grouped by patient, in the order of the file.

    Args:
        path: a JSON lines file in UTF-8; blank lines are passed over.
        columns: the fields that every record has; other fields are ignored.
        labels: the study's labels.
        owner: whose file it is, for the error's text.
        advice: what to do where it holds no record.

    Raises:
        DataError: the file cannot be read, holds no record, or a line is not what the study describes.
    """
    index_of = {label: index for index, label in enumerate(labels)}
    patients: dict[str, list[Record]] = {}
    spellings = _Spellings(columns.patient)
    for number, line in _lines(path):
        patient, record = _parse(f"{path}, line {number}", line, columns, index_of)
        spellings.check(patient, path, number)
        patients.setdefault(patient, []).append(record)
    if not patients:
        raise DataError(f"{owner} has no patients: {path} holds no record", advice)
    return patients


def read_test_set(path: Path, columns: Columns, labels: Sequence[str]) -> dict[str, list[Record]]:
    """The held-out records on which accuracy is measured; same format and errors as `read_patients`."""
    return read_patients(
        path, columns, labels, "the test set", "Point it at held-out records, public or synthetic ones: no patients'"
    )


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


class _Spellings:
    """Every patient's id is written one way. `10001`, `10001.0` and `10001 ` would be three patients: each drawn and
    clipped by itself, and the person behind them protected by a third of what is promised."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._first: dict[str, tuple[str, int]] = {}

    def check(self, patient: str, path: Path, number: int) -> None:
        """Raises DataError when an earlier line writes the id of this line's patient in another way."""
        spelling, line = self._first.setdefault(_plain(patient), (patient, number))
        if spelling != patient:
            raise DataError(
                f'{path}, line {number} has the same patient in "{self._column}" as line {line} in another spelling: '
                "they would count as two patients",
                "Write every patient's id in one way: without blanks around it, and numbers without .0 at their end",
            )


def _plain(patient: str) -> str:
    """An id without what spreadsheets and exports add: blanks, invisible marks, wide letters, .0 after a number."""
    visible = "".join(" " if letter.isspace() else letter for letter in unicodedata.normalize("NFKC", patient))
    visible = "".join(letter for letter in visible if unicodedata.category(letter) not in ("Cc", "Cf"))
    number = _WHOLE_NUMBER.fullmatch(" ".join(visible.split()))
    return number[1] if number else " ".join(visible.split())


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The file's lines that are not blank, with their numbers from 1."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX + 1):
                number += 1
                if len(line) > LINE_BYTES_MAX:
                    raise DataError(
                        f"{path}, line {number} is longer than 1 MiB", "Write one record a line, as JSON lines"
                    )
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error


def _parse(where: str, line: bytes, columns: Columns, index_of: Mapping[str, int]) -> tuple[str, Record]:
    patient, text, name = _fields(where, line, columns)
    label = index_of.get(name)
    if label is None:
        raise DataError(
            f'{where} has a label in "{columns.label}" that the study does not list',
            "Use the labels of task.labels, or ask for a study that lists this one",
        )
    return patient, Record(text, label)


def _fields(where: str, line: bytes, columns: Columns) -> tuple[str, str, str]:
    """Patient, text and label of one line."""
    # `from None` throughout: a decoding error carries the line itself, and tracebacks get passed on.
    try:
        values = json.loads(line, object_pairs_hook=_each_once)
    except _Repeated:
        raise DataError(f"{where} has a key twice", "Write every key once: nobody knows which value is meant") from None
    except (ValueError, RecursionError):
        raise DataError(f"{where} is not JSON", "Write one JSON object a line, in UTF-8") from None
    if not isinstance(values, dict):
        raise DataError(f"{where} is not a JSON object", "Write one JSON object a line")
    patient, text = _text(where, values, columns.patient), _text(where, values, columns.text)
    return patient, text, _text(where, values, columns.label)


class _Repeated(Exception):
    """A JSON object has a key twice."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _Repeated
    return values


def _text(where: str, values: dict[str, Any], column: str) -> str:
    if column not in values:
        raise DataError(f'{where} has no column "{column}"', "Name the columns in the study as in the file")
    value = values[column]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'{where} has no text in column "{column}"', "Write it as text between quotation marks")
    if _HALF_CHARACTER.search(value):
        raise DataError(
            f'{where} has half a character in column "{column}"',
            "It was cut in the middle of one, such as an emoji: cut it between two, and write the file again",
        )
    return value
