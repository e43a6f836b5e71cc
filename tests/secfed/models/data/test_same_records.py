"""The same 500 notes through FHIR, CSV, Parquet and JSON lines are the same to a study, token for token."""

from __future__ import annotations

import base64
import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet

from secfed.models.data import Columns, Record, read_patients, tokenise
from secfed.models.data.importing import import_records
from secfed.models.data.task_file import read_task_file
from secfed.models.model import load_tokenizer
from tests.tiny import LABELS, VOCABULARY, WORDS, classifying, make_tiny_base

NAMES = ["patient", "text", "label"]
COLUMNS = Columns("patient", "text", "label")
TASK = f"""\
[task]
labels = {json.dumps(LABELS)}
[fhir]
resource = "DocumentReference"
[fhir.columns.text]
kind = "attachments"
[fhir.columns.label]
kind = "conditions"
prefixes = {{ S = "bones", I = "organs", Z = "other" }}
"""
CODES = {"bones": "S72.0", "organs": "I50.1", "other": "Z38.0"}
JOINTS = [" ", "\n", '; "', ", ", "\t", " ä "]


def made_notes() -> list[tuple[str, str, str]]:
    draw = random.Random(5)
    return [
        (
            str(draw.randrange(10_000, 10_150)),
            draw.choice(WORDS) + "".join(draw.choice(JOINTS) + draw.choice(WORDS) for _ in range(draw.randrange(1, 9))),
            draw.choice(LABELS),
        )
        for _ in range(500)
    ]


NOTES = made_notes()


def as_lines(folder: Path) -> Path:
    path = folder / "notes.jsonl"
    path.write_text("".join(json.dumps(dict(zip(NAMES, note, strict=True))) + "\n" for note in NOTES))
    return path


def as_csv(folder: Path) -> Path:
    path = folder / "notes.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([NAMES, *NOTES])
    return path


def as_parquet(folder: Path) -> Path:
    path = folder / "notes.parquet"
    patients, texts, labels = zip(*NOTES, strict=True)
    table = {"patient": [int(each) for each in patients], "text": texts, "label": labels}
    parquet.write_table(pyarrow.table(table), path, row_group_size=97)
    return path


def as_export(folder: Path) -> Path:
    export = folder / "export"
    export.mkdir()
    patients = [{"resourceType": "Patient", "id": name} for name in sorted({note[0] for note in NOTES})]
    conditions = [
        {
            "resourceType": "Condition",
            "subject": {"reference": f"Patient/{patient}"},
            "encounter": {"reference": f"Encounter/{number}"},
            "code": {"coding": [{"code": CODES[label]}]},
        }
        for number, (patient, _, label) in enumerate(NOTES)
    ]
    documents = [
        {
            "resourceType": "DocumentReference",
            "id": str(number),
            "subject": {"reference": f"Patient/{patient}"},
            "context": {"encounter": [{"reference": f"Encounter/{number}"}]},
            "content": [
                {"attachment": {"contentType": "text/plain", "data": base64.b64encode(text.encode()).decode()}}
            ],
        }
        for number, (patient, text, _) in enumerate(NOTES)
    ]
    for name, resources in (("Patient", patients), ("Condition", conditions), ("DocumentReference", documents)):
        (export / f"{name}.ndjson").write_text("".join(json.dumps(each) + "\n" for each in resources))
    return export


def read(path: Path) -> dict[str, list[Record]]:
    return read_patients(path, classifying(labels=LABELS), "harbour-clinic")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    return read(as_lines(tmp_path_factory.mktemp("lines")))


@pytest.mark.parametrize("written", [as_csv, as_parquet, as_lines, as_export])
def test_an_import_makes_the_same_records_of_every_source(
    tmp_path: Path, written: Callable[[Path], Path], expected: dict[str, list[Record]]
) -> None:
    (tmp_path / "task.toml").write_text(TASK)
    found = import_records(written(tmp_path), read_task_file(tmp_path / "task.toml"), tmp_path / "records.jsonl")
    assert (found.records, found.patients) == (500, len(expected))
    assert read(tmp_path / "records.jsonl") == expected


@pytest.mark.parametrize("written", [as_csv, as_parquet])
def test_a_node_reads_the_same_tensors_in_the_same_order_from_every_file(
    tmp_path: Path, written: Callable[[Path], Path], expected: dict[str, list[Record]]
) -> None:
    """Drawing goes by patients' ids, training by these tensors: with the same secret, uploads are the same bytes."""
    tokenizer = load_tokenizer(make_tiny_base(tmp_path / "base"), VOCABULARY)
    first, second = (tokenise(each, tokenizer, classifying()) for each in (expected, read(written(tmp_path))))
    assert list(first.rows.items()) == list(second.rows.items())
    assert torch.equal(first.labels, second.labels)
    for name, tensor in first.inputs.items():
        assert torch.equal(tensor, second.inputs[name])
