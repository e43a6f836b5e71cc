"""CSV as spreadsheets and databases write it: commas, semicolons or tabs; quotes and line breaks inside fields.

The first line names the columns. The separator is the one by which it names those that are needed; where two would do,
or none, the file is refused: a guess could put one column's text under another's name.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from secfed.models.data.faults import BadRow, DataError
from secfed.models.data.rows import Encoding, Row, Rows, decoded, not_in

RECORD_BYTES_MAX = 1 << 20
"""A longer row is refused: a record is one note, and a quotation mark that nothing closes takes the rest of a file."""
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
csv.field_size_limit(max(csv.field_size_limit(), RECORD_BYTES_MAX))  # a field is at most a row: see _Lines


def rows(path: Path, file: BinaryIO, needed: Sequence[str], encoding: Encoding = "utf-8") -> Rows:
    """The rows of a file that is open for reading; a bad one comes as a `BadRow`.

    Args:
        path: the file's, for errors.
        file: at its start.
        needed: columns that its first line must name.
        encoding: of its text.

    Raises:
        DataError: its first line does not name the columns, or not clearly.
    """
    if file.read(3) != b"\xef\xbb\xbf":
        file.seek(0)
    lines = _Lines(file, encoding)
    separator, names = _header(path, lines, needed)
    yield from _body(csv.reader(lines, delimiter=separator, strict=True), lines, names)


def _body(reader: Iterator[list[str]], lines: _Lines, names: Sequence[str]) -> Rows:
    while True:
        place = lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except _TooLong:
            # Nobody knows where the next row begins: what follows is not looked at.
            yield BadRow(
                place,
                "and what belongs to it is longer than 1 MiB; what follows was not read",
                'Look for a quotation mark there that nothing closes; inside a field they are doubled, as in "" ',
            )
            return
        except csv.Error as error:
            yield _no_csv(place, str(error))
            continue
        if lines.undecoded:
            yield not_in(place, lines.encoding)
        elif len(cells) != len(names) and any(cells):
            yield BadRow(
                place,
                f"has {len(cells)} fields, and the first line names {len(names)} columns",
                'Put fields that have a separator or a line break in them between quotation marks ("), and double '
                "those inside",
            )
        elif any(cells):
            yield Row(place, {name: cell for name, cell in zip(names, cells, strict=True) if name})


def _no_csv(place: str, problem: str) -> BadRow:
    """A row that csv refuses. Its own words are for programmers."""
    if "unexpected end" in problem:
        return BadRow(
            place, "opens a quotation mark that nothing closes", "Close it, or double it where it belongs to the text"
        )
    if "new-line" in problem:
        return BadRow(
            place, "has half a line break (a carriage return) in it", "End lines with LF or CRLF, or quote the field"
        )
    return BadRow(
        place,
        "has a quotation mark inside a field that is between such marks",
        'Double quotation marks that belong to the text, as in "" ',
    )


def _header(path: Path, lines: _Lines, needed: Sequence[str]) -> tuple[str, list[str]]:
    """The separator, and the columns' names."""
    separators = tuple(_SEPARATORS)
    first = _first(path, lines)
    if ((said := first.rstrip()).startswith("sep=") and said[4:] in _SEPARATORS) or first.rstrip("\r\n") == "sep=\t":
        separators, first = (first[4],), _first(path, lines)  # Excel's own way to say it
    found = {each: _names(first, each) for each in separators}
    fits = {each: names for each, names in found.items() if set(needed) <= set(names)}
    if len({tuple(names) for names in fits.values()}) > 1:
        kinds = " or ".join(_SEPARATORS[each] for each in fits)
        raise DataError(
            f"{path}, line {lines.number} can be read as separated by {kinds}",
            "Put every name of a column between quotation marks",
        )
    if not fits:
        widest = max(found.values(), key=len)
        missing = next((name for name in needed if name not in widest), "")
        raise DataError(
            f'{path}, line {lines.number} names no column "{missing}"',
            "Write the columns' names in the first line, as the study has them, between commas, semicolons or tabs",
        )
    separator, names = next(iter(fits.items()))
    if any(name and names.count(name) > 1 for name in names):
        raise DataError(f"{path}, line {lines.number} names a column twice", "Give every column a name of its own")
    return separator, names


def _first(path: Path, lines: _Lines) -> str:
    lines.begin()
    try:
        line = next(lines, "")
    except _TooLong:
        line = ""
    if not line.strip() or lines.undecoded:
        raise DataError(
            f"{path}, line {lines.number} does not name the columns",
            "Write a first line with their names, as UTF-8 or as node.toml says",
        )
    if "\r" in line.rstrip("\r\n"):
        raise DataError(f"{path} ends lines with carriage returns alone", "Save it with line ends of Windows or Unix")
    return line


def _names(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return []


class _TooLong(Exception):
    """A row is longer than it may be."""


class _Lines:
    """Lines of text for `csv`, which asks for as many as a row has. A generator would end with its first error."""

    def __init__(self, file: BinaryIO, encoding: Encoding) -> None:
        self._file = file
        self.encoding: Encoding = encoding
        self.undecoded = False
        self.number = 0
        self._bytes = 0

    def begin(self) -> str:
        """A row begins. Returns where."""
        self.undecoded = False
        self._bytes = 0
        return f"line {self.number + 1}"

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(RECORD_BYTES_MAX - self._bytes + 1)
        self.number += 1
        self._bytes += len(line)
        if self._bytes > RECORD_BYTES_MAX:
            raise _TooLong
        if not line:
            raise StopIteration
        text = decoded(line, self.encoding)
        if text is None:
            self.undecoded = True
            return line.decode("latin-1")  # for its separators; what it says is not used
        return text
