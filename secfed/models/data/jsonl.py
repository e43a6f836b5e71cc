"""JSON lines: one JSON object a line. Blank lines are passed over."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from secfed.models.data.faults import BadRow
from secfed.models.data.rows import Encoding, Row, Rows, decoded, not_in

LINE_BYTES_MAX = 1 << 20
"""A longer line is refused: a record is one note, not a file without line breaks."""


def rows(file: BinaryIO, encoding: Encoding = "utf-8", most: int = LINE_BYTES_MAX) -> Rows:
    """The objects of a file that is open for reading; a bad line comes as a `BadRow`.

    Args:
        file: at its start.
        encoding: of its text.
        most: bytes of a line.
    """
    number = 0
    while line := file.readline(most + 1):
        number += 1
        place = f"line {number}"
        if len(line) > most:
            yield BadRow(place, f"is longer than {most >> 20} MiB", "Write one record a line, as JSON lines")
            while line and not line.endswith(b"\n"):
                line = file.readline(most)  # the rest of it, a piece at a time
        elif line.strip():
            yield _row(place, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, encoding)


def _row(place: str, line: bytes, encoding: Encoding) -> Row | BadRow:
    text = decoded(line, encoding)
    if text is None:
        return not_in(place, encoding)
    # No error of json's is kept: it carries the line itself, and tracebacks get passed on.
    try:
        values = json.loads(text, object_pairs_hook=_each_once)
    except _Repeated:
        return BadRow(place, "has a key twice", "Write every key once: nobody knows which value is meant")
    except (ValueError, RecursionError):
        return BadRow(place, "is not JSON", "Write one JSON object a line, in UTF-8")
    if not isinstance(values, dict):
        return BadRow(place, "is not a JSON object", "Write one JSON object a line")
    return Row(place, values)


class _Repeated(Exception):
    """A JSON object has a key twice."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise _Repeated
    return values
