"""Data files are read strictly, and an error never repeats what a record says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secfed.models.data import Columns, DataError, Record, read_patients, read_test_set, survey, tokenise
from secfed.models.model import load_tokenizer
from tests.tiny import VOCABULARY, classifying, make_tiny_base, write_records

COLUMNS = Columns("patient", "text", "label")
LABELS = ("bones", "organs")
SECRET_TEXT = "Mrs Example of Example Street"
GOOD = b'{"patient": "p1", "text": "fracture of the bone", "label": "bones"}\n'


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    return load_tokenizer(make_tiny_base(tmp_path / "base"), VOCABULARY)


def read(path: Path) -> dict[str, list[Record]]:
    return read_patients(path, classifying(), "harbour-clinic")


def test_records_are_grouped_by_patient_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write_records(
        tmp_path / "p.jsonl", [("b", "lung", "organs"), ("a", "bone", "bones"), ("b", "heart", "organs")]
    )
    found = read(path)
    assert found == {"b": [Record("lung", 1), Record("heart", 1)], "a": [Record("bone", 0)]}
    assert list(found) == ["b", "a"]
    assert read_test_set(path, classifying()) == found


def test_the_study_names_the_columns_and_others_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"mrn": "p1", "note": "bone", "chapter": "bones", "ward": 3}\n\n')
    found = read_patients(
        path, classifying(patient_column="mrn", text_column="note", label_column="chapter"), "harbour-clinic"
    )
    assert found == {"p1": [Record("bone", 0)]}


BAD_LINES = {
    "is not JSON": f'{{"patient": "{SECRET_TEXT}'.encode(),
    "is not in UTF-8": b"\xff\xfe\x01\n",
    "is not JSON  ": b"[" * 200_000,
    "is not a JSON object": f'["{SECRET_TEXT}"]'.encode(),
    'has no column "patient"': f'{{"text": "{SECRET_TEXT}", "label": "bones"}}'.encode(),
    'has no column "label"': f'{{"text": "{SECRET_TEXT}", "patient": "p1"}}'.encode(),
    'has no text in column "patient"': f'{{"text": "{SECRET_TEXT}", "patient": 7, "label": "bones"}}'.encode(),
    'has no text in column "text"': f'{{"text": "", "patient": "{SECRET_TEXT}", "label": "bones"}}'.encode(),
    'has no text in column "text" ': f'{{"text": " \\t\\n", "patient": "{SECRET_TEXT}", "label": "bones"}}'.encode(),
    'has no text in column "patient" ': f'{{"text": "{SECRET_TEXT}", "patient": "  ", "label": "bones"}}'.encode(),
    "has a key twice": f'{{"text": "a", "patient": "p", "label": "bones", "text": "{SECRET_TEXT}"}}'.encode(),
    "has a key twice ": f'{{"text": "a", "x": {{"{SECRET_TEXT}": 1, "{SECRET_TEXT}": 2}}}}'.encode(),
    'has a label in "label" that the study does not list': (
        f'{{"text": "x", "patient": "p", "label": "{SECRET_TEXT}"}}'.encode()
    ),
    "is longer than 1 MiB": b'{"text": "' + b"x" * (1 << 20) + b'"}',
}


@pytest.mark.parametrize("problem", BAD_LINES)
def test_a_bad_line_is_named_by_number_and_problem_alone(tmp_path: Path, problem: str) -> None:
    path = tmp_path / "patients.jsonl"
    path.write_bytes(GOOD + BAD_LINES[problem] + b"\n")
    with pytest.raises(DataError) as refused:
        read(path)
    text = str(refused.value)
    assert f"patients.jsonl, line 2 {problem.strip()}" in text
    assert refused.value.next_step
    assert "\n" not in text
    assert SECRET_TEXT not in text
    # A decoding error holds the line itself; it must not travel along as the cause.
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    "other", ["10001.0", "10001 ", "\t10001", "10001,00", "１０００１", "10001\u200b", "\ufeff10001"]
)
def test_one_patient_in_two_spellings_is_refused_with_both_lines_and_without_the_id(tmp_path: Path, other: str) -> None:
    """As three patients the same person would be drawn, clipped and paid for three times."""
    path = write_records(
        tmp_path / "p.jsonl", [("10001", "bone", "bones"), ("10002", "bone", "bones"), (other, "lung", "organs")]
    )
    for look in (read, lambda path: survey(path, COLUMNS)):
        with pytest.raises(DataError, match=r"line 3 has the same patient in \"patient\" as line 1") as refused:
            look(path)  # type: ignore[operator]
        assert "10001" not in str(refused.value)


def test_ids_that_differ_otherwise_are_different_patients(tmp_path: Path) -> None:
    ids = ["10001", "010001", "10001.5", "1.0.0", "a 1", "a1", "A1", "10001-0"]
    path = write_records(tmp_path / "p.jsonl", [(name, "bone", "bones") for name in ids])
    assert list(read(path)) == ids


def test_what_looks_like_a_special_token_in_a_note_is_text(tiny: Any) -> None:
    ids = tokenise({"a": [Record("acute [SEP] pain [PAD]", 0)]}, tiny, classifying(16))
    tokens = tiny.convert_ids_to_tokens(ids.inputs["input_ids"][0].tolist())
    assert tokens.count("[SEP]") == 1  # the tokenizer's own
    assert tokens.index("[SEP]") == int(ids.inputs["attention_mask"].sum()) - 1
    assert "[PAD]" not in tokens[: tokens.index("[SEP]")]
    assert len(set(tokens[: tokens.index("[SEP]")])) > 4


def test_padding_comes_after_the_text_whatever_the_tokenizers_files_say(tiny: Any) -> None:
    """With absolute positions a model reads a text elsewhere if it is moved."""
    expected = tokenise({"a": [Record("bone", 0)]}, tiny, classifying(6)).inputs["input_ids"].tolist()
    tiny.padding_side = "left"
    found = tokenise({"a": [Record("bone", 0)]}, tiny, classifying(6))
    assert found.inputs["input_ids"].tolist() == expected
    assert found.inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0]]


def test_an_empty_hospital_is_named(tmp_path: Path) -> None:
    path = tmp_path / "patients.jsonl"
    path.write_text("\n\n")
    with pytest.raises(DataError, match="harbour-clinic has no patients"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl cannot be read \(No such file"):
        read(tmp_path / "gone.jsonl")


def test_every_record_becomes_a_row_of_the_same_length(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tiny_base(tmp_path / "base"), VOCABULARY)
    records = {
        "a": [Record("fracture of the left lung and of the right heart with pain", 1)],
        "b": [Record("bone", 0), Record("acute pain", 1)],
    }
    patients = tokenise(records, tokenizer, classifying(6))
    assert patients.inputs["input_ids"].shape == patients.inputs["attention_mask"].shape == (3, 6)
    assert patients.inputs["attention_mask"].sum(dim=1).tolist() == [6, 3, 4]
    assert patients.labels.tolist() == [1, 0, 1]
    assert {name: list(rows) for name, rows in patients.rows.items()} == {"a": [0], "b": [1, 2]}


def test_a_records_tokens_do_not_depend_on_other_records(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_tiny_base(tmp_path / "base"), VOCABULARY)
    long, short = Record("acute chronic viral infection of the lung", 1), Record("bone", 0)
    alone = tokenise({"b": [short]}, tokenizer, classifying(8))
    together = tokenise({"a": [long], "b": [short]}, tokenizer, classifying(8))
    for name, tensor in alone.inputs.items():
        assert tensor[0].tolist() == together.inputs[name][1].tolist()


def test_reading_data_needs_no_torch() -> None:
    code = "import sys, secfed.models.data; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
