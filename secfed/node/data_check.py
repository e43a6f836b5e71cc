"""A data file, looked at before a study is: figures about its patients and records, and what looks like a mistake.

It is for the file's owner alone, and has no text, no label but the study's, and no patient's id.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secfed.models.data import Encoding, read_patients, read_rows
from secfed.models.data.faults import Faults
from secfed.models.data.patients import sorted_out
from secfed.models.data.rows import Row
from secfed.models.data.tokens import tokenizer_in
from secfed.models.tasks import kind_for
from secfed.node.texts import TextFigures, measure
from secfed.study.tasks import TaskTable

NEAR_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class DataFigures:
    """What is in a data file."""

    patients: int
    records: int
    records_per_patient: dict[int, int]
    """How many patients have so many records."""
    above_group: int
    """Patients with more records than the study takes of one."""
    labels: dict[str, int]
    """Records by label, in the study's order."""
    characters: tuple[int, int, int]
    """Of a text: the median, 95 % of them have no more, the most."""
    duplicates: int
    """Records whose text stands in an earlier one, too."""
    near: tuple[str, ...]
    """Rows whose patient's id differs from an earlier one's by leading zeros, capitals or punctuation alone."""
    near_count: int
    bad: tuple[str, ...]
    """Rows that are no records: the first of them, and how many more."""
    bad_count: int


def examine_data(
    path: Path,
    task: TaskTable,
    group: int,
    encoding: Encoding = "utf-8",
    on_row: Callable[[int], None] = lambda _: None,
) -> DataFigures:
    """Look at a whole file, row by row. Its texts are not kept.

    Args:
        path: the file.
        task: what a record has.
        group: how many records of one patient a study takes.
        encoding: of a file of text.
        on_row: is told how many records there were so far.

    Raises:
        DataError: the file cannot be read at all.
    """
    kind, faults = kind_for(task, 0), Faults(path)
    counts: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    lengths: Counter[int] = Counter()
    texts: set[bytes] = set()
    near: dict[str, tuple[str, str]] = {}
    close: list[str] = []

    def told(row: Row) -> tuple[str, str, tuple[int, ...]]:
        return row.place, *kind.content(kind.record_of(row))

    records = near_count = 0
    rows = read_rows(path, kind.needed, encoding)
    for patient, (place, text, classes) in sorted_out(rows, task.patient_column, told, faults):
        records += 1
        on_row(records)
        if patient not in counts:
            other, earlier = near.setdefault(_nearly(patient), (patient, place))
            if other != patient:
                near_count += 1
                close += [f"{place} and {earlier}"] if len(close) < NEAR_SHOWN_MAX else []
        counts[patient] += 1
        labels.update(classes)
        lengths[len(text)] += 1
        texts.add(hashlib.blake2b(text.encode(), digest_size=16).digest())
    return DataFigures(
        len(counts),
        records,
        dict(sorted(Counter(counts.values()).items())),
        sum(count > group for count in counts.values()),
        {name: labels[place] for place, name in enumerate(task.classes)},
        (_quantile(lengths, 0.5), _quantile(lengths, 0.95), max(lengths, default=0)),
        records - len(texts),
        tuple(close),
        near_count,
        tuple(faults.told),
        faults.count,
    )


def examine_tokens(
    path: Path, task: TaskTable, base: Path, max_length: int, encoding: Encoding = "utf-8"
) -> TextFigures:
    """What a base model's tokenizer makes of the same file, all of whose rows are records. Raises UserError."""
    tokenizer = tokenizer_in(base)
    kind = kind_for(task, max_length)
    patients = read_patients(path, kind, str(path), encoding=encoding)
    return measure(patients, tokenizer, kind)


def _nearly(patient: str) -> str:
    """An id without what people write in several ways: capitals, punctuation, leading zeros."""
    folded = unicodedata.normalize("NFKC", patient).casefold()
    return "".join(letter for letter in folded if letter.isalnum()).lstrip("0")


def _quantile(lengths: Counter[int], share: float) -> int:
    """The smallest length that so large a share does not exceed; 0 where there is none."""
    left = share * lengths.total()
    for length, count in sorted(lengths.items()):
        left -= count
        if left <= 0:
            return length
    return 0
