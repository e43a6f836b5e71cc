"""The same records come out of every format, as people's programs write them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from secfed.errors import Problems
from secfed.models.data import Columns, DataError, Encoding, Record, read_patients, survey
from secfed.models.data.csv_text import RECORD_BYTES_MAX
from tests.tiny import classifying

COLUMNS = Columns("patient", "text", "label")
NAMES = ["patient", "text", "label"]
NOTES = [
    ("10001", 'fracture; "open", of the left\nbone', "bones"),
    ("10002", "Herz: Schwäche, \t41 °C 🌡", "organs"),
    ("10001", '5" tube\r\n\r\nlung, heart', "organs"),
]
EXPECTED = {
    "10001": [Record(NOTES[0][1], 0), Record(NOTES[2][1], 1)],
    "10002": [Record(NOTES[1][1], 1)],
}


def read(path: Path, encoding: Encoding = "utf-8") -> dict[str, list[Record]]:
    return read_patients(path, classifying(labels=("bones", "organs")), "harbour-clinic", encoding=encoding)


def write_csv(path: Path, rows: Sequence[Sequence[str]], encoding: str = "utf-8", **dialect: object) -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, **dialect).writerows([NAMES, *rows])  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_of_any_dialect_is_read(tmp_path: Path, separator: str, quoting: int, end: str, encoding: str) -> None:
    path = tmp_path / "p.csv"
    write_csv(path, NOTES, encoding, delimiter=separator, quoting=quoting, lineterminator=end)
    assert read(path) == EXPECTED


def test_columns_may_stand_in_any_order_among_others_and_blank_rows_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('ward;label;;text;patient\r\nA, B;bones;;"bone";p1\r\n\r\n;;;;\r\n;organs;x;lung;p2')
    assert read(path) == {"p1": [Record("bone", 0)], "p2": [Record("lung", 1)]}


def test_the_line_in_which_excel_names_the_separator_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("sep=;\r\npatient;text;label\r\np1;bone;bones\r\np2;bone;no such label\r\n")
    with pytest.raises(DataError, match=r"p\.csv, line 4 has a label"):
        read(path)


def test_a_row_is_named_by_the_line_in_which_it_begins(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", [*NOTES, ("10003", "two\nlines", "no such label"), ("", "bone", "bones")])
    with pytest.raises(Problems) as refused:
        read(path)
    starts = [
        line for line, text in enumerate(path.read_bytes().split(b"\n"), 1) if text.startswith((b"10003", b",bone"))
    ]
    assert [problem.split(" has")[0] for problem in refused.value.problems] == [f"line {start}" for start in starts]


def test_rows_after_a_bad_one_are_still_read_and_told(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b'patient,text,label\np1,"a"b,bones\np2,Sch\xe4del,bones\np3,bone\np4,bone,bones\n')
    with pytest.raises(Problems) as refused:
        read(path)
    assert [problem.split(",")[0] for problem in refused.value.problems] == [
        "line 2 has a quotation mark inside a field that is between such marks",
        "line 3 is not in UTF-8",
        "line 4 has 2 fields",
    ]


def test_a_quotation_mark_that_takes_the_rest_of_a_large_file_ends_the_reading_there(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text('patient,text,label\np1,"bone,bones\n' + "p2,bone,bones\n" * (RECORD_BYTES_MAX // 10))
    with pytest.raises(DataError, match="line 2 and what belongs to it is longer than 1 MiB"):
        read(path)


def test_latin_1_is_read_where_it_is_named_and_nowhere_else(tmp_path: Path) -> None:
    rows = [("p1", "Schädel", "bones")]
    path = write_csv(tmp_path / "p.csv", rows, "latin-1")
    with pytest.raises(DataError, match="is not in UTF-8") as refused:
        read(path)
    assert "latin-1" in refused.value.next_step
    assert read(path, "latin-1") == {"p1": [Record("Schädel", 0)]}
    lines = tmp_path / "p.jsonl"
    lines.write_bytes(json.dumps(dict(zip(NAMES, rows[0], strict=True)), ensure_ascii=False).encode("latin-1"))
    assert read(lines, "latin-1") == {"p1": [Record("Schädel", 0)]}


def test_what_windows_calls_latin_1_is_told_apart(tmp_path: Path) -> None:
    """Between 80 and 9f Latin-1 has no letters: quotation marks and dashes there are Windows'."""
    path = write_csv(tmp_path / "p.csv", [("p1", "heart – „failure“", "bones")], "windows-1252")
    with pytest.raises(DataError, match="is not in Latin-1") as refused:
        read(path, "latin-1")
    assert "windows-1252" in refused.value.next_step
    assert read(path, "windows-1252") == {"p1": [Record("heart – „failure“", 0)]}


def test_json_lines_may_begin_with_a_mark_and_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / "records.txt"
    lines = "\n".join(json.dumps(dict(zip(NAMES, note, strict=True))) for note in NOTES)
    path.write_text(lines, encoding="utf-8-sig")
    assert read(path) == EXPECTED


@pytest.mark.parametrize(
    "text", [pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), "string")]
)
@pytest.mark.parametrize("number", [pyarrow.int64(), pyarrow.uint32(), pyarrow.string()])
def test_parquet_is_read_with_whole_numbers_as_their_digits(
    tmp_path: Path, text: pyarrow.DataType, number: pyarrow.DataType
) -> None:
    ids = [each[0] if number == pyarrow.string() else int(each[0]) for each in NOTES]
    columns = {
        "ward": pyarrow.array([1.5, None, 2.5]),
        "label": pyarrow.array([each[2] for each in NOTES]).cast(text),
        "text": pyarrow.array([each[1] for each in NOTES]).cast(text),
        "patient": pyarrow.array(ids, number),
    }
    path = tmp_path / "p"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    assert read(path) == EXPECTED


def test_a_parquet_row_is_named_by_its_number_across_row_groups(tmp_path: Path) -> None:
    columns = {
        "patient": list(range(5000)),
        "text": ["bone"] * 5000,
        "label": ["bones"] * 4321 + ["?"] + ["bones"] * 678,
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet", row_group_size=1000)
    with pytest.raises(DataError, match=r"p\.parquet, row 4322 has a label"):
        read(tmp_path / "p.parquet")


def test_a_parquet_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    columns = [pyarrow.array(["1"]), pyarrow.array(["bone"]), pyarrow.array(["bones"]), pyarrow.array(["organs"])]
    parquet.write_table(pyarrow.table(columns, names=[*NAMES, "label"]), tmp_path / "p.parquet")
    with pytest.raises(DataError, match='has the column "label" twice'):
        read(tmp_path / "p.parquet")


def test_a_parquet_row_group_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"patient": ["1"] * 500, "text": ["bone"] * 500, "label": ["bones"] * 500}
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet")
    size = parquet.ParquetFile(tmp_path / "p.parquet").metadata.row_group(0).total_byte_size
    monkeypatch.setattr("secfed.models.data.parquet.GROUP_BYTES_MAX", size)
    assert len(read(tmp_path / "p.parquet")["1"]) == 500
    monkeypatch.setattr("secfed.models.data.parquet.GROUP_BYTES_MAX", size - 1)
    with pytest.raises(DataError, match="a row group of more than 2 GiB"):
        read(tmp_path / "p.parquet")


def test_a_survey_reads_the_same_formats(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "p.csv", NOTES)
    found = survey(path, COLUMNS)
    assert (found.patients, found.records, found.most_records, found.labels) == (2, 3, 2, ("bones", "organs"))
