"""Any source of records as one file of JSON lines, whose owner is shown what was understood of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from secfed.errors import UserError
from secfed.files.whole import writing_whole
from secfed.models.data import fhir
from secfed.models.data.faults import BadRow, DataError, Faults
from secfed.models.data.jsonl import LINE_BYTES_MAX
from secfed.models.data.patients import sorted_out
from secfed.models.data.records import maker_of, needed_of
from secfed.models.data.rows import Encoding, Row, Rows, read_rows
from secfed.models.data.task_file import TaskFile


@dataclass(frozen=True, slots=True)
class Imported:
    """What was understood of a source, for its owner's eyes."""

    resources: Mapping[str, int]
    """How many of each type were read from a FHIR export; none from a table."""
    patients_in_source: int
    """With records or without."""
    patients: int
    """With records."""
    records: int
    most_records: int
    """Of one patient."""
    left_out: Mapping[str, int]
    """Documents that became no record, by why."""
    not_read: Mapping[str, int]
    """Attachments that were not read, by why."""


def import_records(
    source: Path,
    task: TaskFile,
    out: Path,
    encoding: Encoding = "utf-8",
    on_row: Callable[[int], None] = lambda _: None,
) -> Imported:
    """Write a source's records to a new file, all of them or nothing.

    Args:
        source: the folder of a FHIR export, or a data file.
        task: what a record has.
        out: the new file; it can be read by its owner alone.
        encoding: of a source of text.
        on_row: is told how many records there are so far.

    Raises:
        UserError: the source cannot be read, has bad rows or no records, or the file exists or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists already", "Give another file with --out, or move that one away")
    tally, needed, faults = fhir.Tally(), needed_of(task.task), Faults(source)
    rows = _rows(source, task, tally, encoding)
    check, counts = maker_of(task.task), dict[str, int]()

    def line_of(row: Row) -> bytes:
        check(row)
        line = (
            json.dumps({name: row.values[name] for name in needed if name in row.values}, ensure_ascii=False).encode()
            + b"\n"
        )
        if len(line) > LINE_BYTES_MAX:
            raise BadRow(row.place, "makes a record of more than 1 MiB", "Take shorter texts, such as fewer sections")
        return line

    try:
        with writing_whole(out) as file:
            for records, (patient, line) in enumerate(sorted_out(rows, needed[0], line_of, faults), start=1):
                counts[patient] = counts.get(patient, 0) + 1
                file.write(line)
                on_row(records)
            faults.check()
            if not counts:
                why = "".join(f"; {count} times: {reason}" for reason, count in tally.left_out.most_common(3))
                raise DataError(f"{source} holds no record{why}", "Check the task's file against the source")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})", "Check its folder and its disk") from error
    return Imported(
        dict(tally.resources),
        tally.patients or len(counts),
        len(counts),
        sum(counts.values()),
        max(counts.values()),
        dict(tally.left_out.most_common()),
        dict(tally.not_read.most_common()),
    )


def _rows(source: Path, task: TaskFile, tally: fhir.Tally, encoding: Encoding) -> Rows:
    if not source.is_dir():
        return read_rows(source, needed_of(task.task), encoding)
    if task.fhir is None:
        raise UserError(
            f"{source} is a folder, and the task's file has no [fhir] that says what a record is there",
            "Add [fhir] to it (docs/data.md), or give a file",
        )
    return fhir.rows(source, task.fhir, task.task.patient_column, tally)
