"""Rows of a data file, whatever its format: one mapping from column to value after the other, and where each stands.

One module for each format; what the file is decides which. They hold one row at a time, or one batch, so that a file
may be larger than memory. A row that cannot be read comes as a `BadRow`, and the rows after it still come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from secfed.models.data.faults import BadRow, DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the file has it; nothing about its values is checked yet."""

    place: str
    """Where it stands in the file, as in "line 12"."""
    values: Mapping[str, Any]
    """By column."""


Rows: TypeAlias = Iterator[Row | BadRow]


def read_rows(path: Path) -> Rows:
    """The rows of a file, one by one, in its order.

    Raises:
        DataError: the file cannot be read, or is of no known format.
    """
    from secfed.models.data import jsonl

    try:
        with path.open("rb") as file:
            yield from jsonl.rows(file)
    except OSError as error:
        raise DataError(
            f"the data file {path} cannot be read ({error.strerror})", "Check the path and its permissions"
        ) from error
