"""All bad rows of a file are told at once, by where they stand, and never by what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secfed.errors import Problems
from secfed.models.data import LINE_BYTES_MAX, Columns, DataError, read_patients, survey
from secfed.models.data.importing import import_records
from secfed.models.data.task_file import read_task_file
from tests.tiny import classifying

COLUMNS = Columns("patient", "text", "label")
SECRET = "Mrs Example of Example Street"
GOOD = json.dumps({"patient": "p1", "text": SECRET, "label": "bones"})


def refused(path: Path) -> DataError:
    with pytest.raises(DataError) as error:
        read_patients(path, classifying(labels=("bones", "organs")), "harbour-clinic")
    assert SECRET not in str(error.value)
    assert "p1" not in str(error.value)
    return error.value


def test_every_bad_row_is_told_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    unlisted = json.dumps({"patient": "p1", "text": SECRET, "label": SECRET})
    path.write_text("\n".join([GOOD, "{", GOOD, unlisted, '{"patient": "p1"}', GOOD]))
    error = refused(path)
    assert isinstance(error, Problems)
    assert error.problems == (
        "line 2 is not JSON",
        'line 4 has a label in "label" that the study does not list',
        'line 5 has no column "text"',
    )
    for step in ("Write one JSON object a line", "use the labels of task.labels", "name the columns in the study"):
        assert step in error.next_step


def test_an_import_refuses_the_rows_that_a_node_would_refuse_and_writes_none(tmp_path: Path) -> None:
    path, out = tmp_path / "p.jsonl", tmp_path / "out" / "records.jsonl"
    path.write_text("\n".join([GOOD, json.dumps({"patient": "p1", "text": SECRET, "label": SECRET}), GOOD]))
    (tmp_path / "task.toml").write_text('[task]\nlabels = ["bones", "organs"]\n')
    out.parent.mkdir()
    with pytest.raises(DataError) as error:
        import_records(path, read_task_file(tmp_path / "task.toml"), out)
    assert 'line 2 has a label in "label" that the study does not list' in str(error.value)
    assert SECRET not in str(error.value)
    assert list(out.parent.iterdir()) == []


def test_a_file_of_bad_rows_alone_gets_a_short_list_and_the_count_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("{\n" * 1234)
    error = refused(path)
    assert isinstance(error, Problems)
    assert len(error.problems) == 21
    assert error.problems[19:] == ("line 20 is not JSON", "and 1214 more")
    with pytest.raises(DataError, match="and 1214 more"):
        survey(path, COLUMNS)


def test_lines_after_one_that_is_too_long_keep_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join([GOOD, "x" * (3 * LINE_BYTES_MAX), GOOD, "{"]))
    error = refused(path)
    assert isinstance(error, Problems)
    assert error.problems == ("line 2 is longer than 1 MiB", "line 4 is not JSON")


def test_a_patient_in_another_spelling_is_told_beside_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join([GOOD, "{", GOOD.replace("p1", "p1 ")]))
    error = refused(path)
    assert isinstance(error, Problems)
    assert "line 3 has the same patient" in error.problems[1]
    assert "line 1" in error.problems[1]
