"""Patients and their records: read from a site's files, checked strictly, turned into tensors of fixed shape.

    a file -> rows.py (and a module for each format) -> records.py -> patients.py -> tokens.py -> tensors

Nothing about a record depends on other records: labels, vocabulary and length come from the study.
"""

from secfed.models.data.faults import BadRow, DataError
from secfed.models.data.jsonl import LINE_BYTES_MAX
from secfed.models.data.patients import Survey, read_patients, read_test_set, survey
from secfed.models.data.records import Columns, Record, list_of, text_of
from secfed.models.data.rows import ENCODINGS, Encoding, Row, read_rows
from secfed.models.data.tokens import encode, tokenise

__all__ = [
    "ENCODINGS",
    "LINE_BYTES_MAX",
    "BadRow",
    "Columns",
    "DataError",
    "Encoding",
    "Record",
    "Row",
    "Survey",
    "encode",
    "list_of",
    "read_patients",
    "read_rows",
    "read_test_set",
    "survey",
    "text_of",
    "tokenise",
]
