"""Parquet, read by pyarrow in batches: the columns that are needed, and of them text and whole numbers alone.

A whole number has one spelling, its digits. One of floating point has several, and as an id it would have lost digits
from 2^53 on; a date has many. They are refused, and whoever writes the file decides how they are spelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from secfed.errors import UserError
from secfed.models.data.faults import DataError
from secfed.models.data.rows import Row, Rows
from secfed.models.libraries import how_to_add

MAGIC = b"PAR1"
GROUP_BYTES_MAX = 1 << 31
"""Of one row group, unpacked: a file that says more is refused before it is unpacked."""
_BATCH = 1024
_METADATA_BYTES_MAX = 1 << 26
_NOT_WHOLE = "is no whole Parquet file", "Copy it again, and compare its size with the original's"


def rows(path: Path, file: BinaryIO, needed: Sequence[str]) -> Rows:
    """The rows of a file that is open for reading.

    Args:
        path: the file's, for errors.
        file: at its start.
        needed: the columns that are read.

    Raises:
        DataError: the file is damaged, lacks a column, or has one of another type.
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: F401 - whether it is there
    except ImportError as error:
        raise UserError(
            f"{path} is Parquet, and pyarrow is not installed here", f"Install it: {how_to_add('parquet')}"
        ) from error
    number = 0
    try:
        for batch in _batches(path, file, needed):
            for values in zip(*batch, strict=True):
                number += 1
                texts = (None if value is None else str(value) for value in values)
                yield Row(f"row {number}", dict(zip(needed, texts, strict=True)))
    except UserError:
        raise
    except Exception as error:  # a library's, of which nobody has a list
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's
        # It is not kept as the cause: it may say what the file holds.
        raise DataError(f"{path} {_NOT_WHOLE[0]}", _NOT_WHOLE[1]) from None


def _batches(path: Path, file: BinaryIO, needed: Sequence[str]) -> Iterator[list[list[Any]]]:
    from pyarrow.parquet import ParquetFile

    opened = ParquetFile(
        file,
        buffer_size=1 << 20,
        pre_buffer=False,
        thrift_string_size_limit=_METADATA_BYTES_MAX,
        thrift_container_size_limit=1 << 20,
    )
    schema = opened.schema_arrow
    for name in needed:
        _check_column(path, schema, name)
    _check_sizes(path, opened.metadata)
    for batch in opened.iter_batches(_BATCH, columns=list(needed), use_threads=False):
        yield [batch.column(name).to_pylist() for name in needed]


def _check_column(path: Path, schema: Any, name: str) -> None:
    from pyarrow import types

    places = schema.get_all_field_indices(name)
    if not places:
        raise DataError(f'{path} has no column "{name}"', "Name the columns in the study as in the file")
    if len(places) > 1:
        raise DataError(f'{path} has the column "{name}" twice', "Give every column a name of its own")
    kind = schema.field(places[0]).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (
        types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_integer(kind)
    ):
        raise DataError(
            f'{path} has neither text nor whole numbers in column "{name}", but {kind}',
            "Write that column as text: an id, above all, in one spelling",
        )


def _check_sizes(path: Path, metadata: Any) -> None:
    """Only what row groups say of themselves: pyarrow ends the process where a column's own metadata is damaged."""
    for group in range(metadata.num_row_groups):
        if metadata.row_group(group).total_byte_size > GROUP_BYTES_MAX:
            raise DataError(
                f"{path} has a row group of more than 2 GiB", "Write it with smaller row groups, such as 100,000 rows"
            )
