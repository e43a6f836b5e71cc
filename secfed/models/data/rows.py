"""Rows of a data file, whatever its format: one mapping from column to value after the other, and where each stands.

One module for each format; what the file is decides which. They hold one row at a time, or one batch, so that a file
may be larger than memory. A row that cannot be read comes as a `BadRow`, and the rows after it still come.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, get_args

from secfed.models.data.faults import BadRow, DataError

Encoding: TypeAlias = Literal["utf-8", "latin-1", "windows-1252"]
"""How a file of text may be written. UTF-8 where nobody says otherwise: the others fit any bytes, right or wrong."""
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
_NO_LATIN_1 = re.compile("[\x80-\x9f]")
_HEAD_BYTES = 4096
_JSON_NAMES = (".jsonl", ".ndjson", ".json")
_ZIP = "is a zip file, as Excel's are", "Save the sheet as CSV in UTF-8, or unpack the file"
_UTF_16 = "is in UTF-16", "Save it as UTF-8"
_STRANGERS = {
    b"PK\x03\x04": _ZIP,
    b"\xd0\xcf\x11\xe0": ("is a file of an old Excel or Word", "Save the sheet as CSV in UTF-8"),
    b"\x1f\x8b": ("is packed with gzip", "Unpack it with `gunzip`"),
    b"\x28\xb5\x2f\xfd": ("is packed with zstd", "Unpack it with `unzstd`"),
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
    b"%PDF": ("is a PDF", "Export the records as CSV, JSON lines or Parquet"),
    b"SQLite format 3\x00": ("is a SQLite database", "Export the records as CSV, JSON lines or Parquet"),
}
"""What people hand over instead, by its first bytes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the file has it; nothing about its values is checked yet."""

    place: str
    """Where it stands in the file, as in "line 12"."""
    values: Mapping[str, Any]
    """By column."""


Rows: TypeAlias = Iterator[Row | BadRow]


def read_rows(path: Path, needed: Sequence[str] = (), encoding: Encoding = "utf-8") -> Rows:
    """The rows of a file, one by one, in its order.

    Args:
        path: JSON lines, CSV with the columns' names in its first line, or Parquet.
        needed: the columns that are wanted: a table without one of them is refused at once.
        encoding: of a file of text.

    Raises:
        DataError: the file cannot be read, is of no known format, or lacks a column.
    """
    try:
        with path.open("rb") as file:
            yield from _rows(path, file, needed, encoding)
    except IsADirectoryError:
        raise DataError(
            f"{path} is a folder", "Give a file; a FHIR export becomes one with `secfed data import`"
        ) from None
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error


def _rows(path: Path, file: BinaryIO, needed: Sequence[str], encoding: Encoding) -> Rows:
    from secfed.models.data import csv_text, jsonl, parquet

    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith(parquet.MAGIC):
        return parquet.rows(path, file, needed)
    for start, (what, next_step) in _STRANGERS.items():
        if head.startswith(start):
            raise DataError(f"{path} {what}", next_step)
    if b"\x00" in head:
        raise DataError(
            f"{path} is no text: zero bytes are in it, as in UTF-16", "Save it as UTF-8, or give another file"
        )
    begins = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if begins.startswith(b"{") or not begins or path.suffix.lower() in _JSON_NAMES:
        return jsonl.rows(file, encoding)
    return csv_text.rows(path, file, needed, encoding)


def not_in(place: str, encoding: Encoding) -> BadRow:
    """A row whose bytes are not of the encoding that the file is said to be in."""
    others = " or ".join(f'"{other}"' for other in ENCODINGS if other not in (encoding, "utf-8"))
    return BadRow(
        place,
        f"is not in {encoding.replace('utf', 'UTF').replace('latin', 'Latin')}",
        f"Save the file as UTF-8; or where it really is {others}, say so by --encoding",
    )


def decoded(line: bytes, encoding: Encoding) -> str | None:
    """A line as text; None where its bytes are not of this encoding. Latin-1 has no letters from 80 to 9f."""
    try:
        text = line.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if encoding == "latin-1" and _NO_LATIN_1.search(text) else text
