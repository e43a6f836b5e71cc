"""`secfed data`: what is printed says what is in a file, and never what a record says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import exit_code
from tests.secfed.run_folders import study_text
from tests.tiny import make_tiny_base, write_records

TASK = '[task]\nlabels = ["bones", "organs"]\n'
SECRET = "Mrs Example"
SAMPLE = Path(__file__).parents[1] / "models" / "data" / "fhir_sample"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.toml"
    path.write_text(TASK)
    return path


@pytest.fixture
def records(tmp_path: Path) -> Path:
    rows = [("0010", "fracture of the bone", "bones")] * 3 + [
        ("10", f"pain {SECRET} " * 20, "organs"),
        ("a-1", "lung", "organs"),
        ("A1", "heart", "organs"),
    ]
    return write_records(tmp_path / "records.jsonl", rows)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    found = capsys.readouterr()
    assert SECRET not in found.out + found.err
    return found.out


def test_check_tells_figures_and_mistakes_and_no_text(
    records: Path, task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "data", "check", records, "--task", task, "--records-per-patient", 2) == 0
    text = shown(capsys)
    for line in (
        "has 6 records of 4 patients",
        "3 with 1, 1 with 3",
        "above 2       1 patients",
        "3 (50.0 %) bones",
        "2 (33.3 %) have the text of an earlier one",
        "2 patients' ids nearly equal another's",
        "line 4 and line 1",
        "line 6 and line 5",
    ):
        assert line in text
    assert "0010 " not in text.replace("such as 0010 and 10", "")


def test_check_measures_lengths_and_unknown_tokens_with_a_base(
    records: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = make_tiny_base(tmp_path / "base")
    given = ("data", "check", records, "--task", task, "--base", base, "--max-length", 8, "--json")
    assert exit_code(monkeypatch, *given) == 0
    found = json.loads(shown(capsys))
    assert found["labels"] == {"bones": 3, "organs": 3}
    assert found["near_count"] == 2
    assert found["tokens"]["records"] == 6
    assert found["tokens"]["cut"] == 1


def test_check_lists_bad_rows_and_ends_with_one(
    records: Path, task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with records.open("a") as file:
        file.write(json.dumps({"patient": "b", "text": SECRET, "label": SECRET}) + "\n{\n")
    assert exit_code(monkeypatch, "data", "check", records, "--task", task) == 1
    text = shown(capsys)
    assert "bad rows      2" in text
    assert 'line 7 has a label in "label" that the study does not list' in text
    assert "line 8 is not JSON" in text


def test_check_takes_the_task_of_a_study(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.toml"
    study.write_text(study_text())
    assert exit_code(monkeypatch, "data", "check", records, "--study", study, "--task", study) == 2
    assert "Give --study FILE, or --task FILE" in capsys.readouterr().err


def test_import_prints_what_it_understood_of_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task, out = tmp_path / "task.toml", tmp_path / "records.jsonl"
    task.write_text(
        TASK + '[fhir]\nresource = "Composition"\n[fhir.columns.text]\nkind = "sections"\n[fhir.columns.label]\n'
        'kind = "conditions"\nof = "patient"\nseveral = "first"\nprefixes = { Z = "bones", I = "organs" }\n'
    )
    assert exit_code(monkeypatch, "data", "import", SAMPLE, "--task", task, "--out", out) == 0
    text = shown(capsys)
    assert "19 Composition" in text
    assert f"has {len(out.read_text().splitlines())} records" in text
    assert exit_code(monkeypatch, "data", "import", SAMPLE, "--task", task, "--out", out, "--json") == 2
    assert "exists already" in shown(capsys)
    out.unlink()
    assert exit_code(monkeypatch, "data", "import", SAMPLE, "--task", task, "--out", out, "--json") == 0
    assert json.loads(shown(capsys))["resources"]["Patient"] == 5


def test_import_of_a_csv_tells_every_bad_line_and_writes_nothing(
    tmp_path: Path, task: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "notes.csv", tmp_path / "records.jsonl"
    source.write_text(f"patient;text;label\np1;{SECRET};bones\np2;{SECRET};{SECRET}\np3;;bones\n")
    assert exit_code(monkeypatch, "data", "import", source, "--task", task, "--out", out) == 2
    error = capsys.readouterr().err
    assert SECRET not in error
    assert "line 3 has a label" in error
    assert "line 4 has no text" in error
    assert not out.exists()
