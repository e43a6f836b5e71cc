"""Targets that are data files: what a site exports may have been made by anybody's program.

Parquet is left to pyarrow's own fuzzing: what reads it is C++, which nothing here guides.

The promise is that of every reader: records, or an error that a person understands, with no word of what a record says.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from secfed.errors import UserError
from secfed.models.data import read_patients
from secfed.models.data.fhir.texts import plain_text
from secfed.models.data.importing import import_records
from secfed.models.data.task_file import TaskFile
from secfed.models.tasks import kind_for
from tests.fuzz.mutators import mutate_bytes
from tests.fuzz.target import LARGE, Target, check_text, need

_LABELS = ("bones", "organs")
_SECRET = "Quzkwj"
_NOTES = [("p1", f"{_SECRET} fracture", "bones"), ("p2", f"heart;\n{_SECRET}", "organs"), ("p1", "lung", "organs")]
_TASK = TaskFile.model_validate_json(
    json.dumps(
        {
            "task": {"labels": _LABELS},
            "fhir": {
                "resource": "DocumentReference",
                "columns": {
                    "text": {"kind": "attachments"},
                    "label": {"kind": "conditions", "prefixes": {"S": "bones", "I": "organs"}},
                },
            },
        }
    )
)


def data_targets(base: Path) -> Iterator[Target]:
    """One for each format, and for the parts of a FHIR export."""
    for name, seed in (("jsonl", _jsonl()), ("csv", _csv())):
        yield _target(base, f"data/{name}", f"notes.{name}", (seed,), _read)
    export = {name: _lines(resources) for name, resources in _export().items()}
    for name, seed in export.items():
        yield _target(base, f"data/fhir/{name}", f"{name}.ndjson", (seed,), _import, export)
    packed = gzip.compress(export.pop("Patient"), mtime=0)
    yield _target(base, "data/fhir/packed", "Patient.ndjson.gz", (packed,), _import, export)

    def markup(data: bytes) -> None:
        text = plain_text(data.decode("latin-1"))
        need("  " not in text, "blanks are not made one")

    page = b"<html><head><style>x</style></head><p>a &amp; b<table><tr><td>c</td></tr></table><!-- d --><![CDATA[e]]>"
    yield Target("data/markup", "text", markup, (page,), mutate_bytes)


def _target(
    base: Path,
    name: str,
    file: str,
    seeds: tuple[bytes, ...],
    read: Callable[[Path], object],
    around: dict[str, bytes] | None = None,
) -> Target:
    folder = base / name.replace("/", " ")
    folder.mkdir()
    for other, data in (around or {}).items():
        (folder / f"{other}.ndjson").write_bytes(data)

    def check(data: bytes) -> None:
        (folder / file).write_bytes(data)
        try:
            read(folder if around else folder / file)
        except UserError as error:
            check_text(error)
            need(_SECRET not in str(error), "an error says what a record says")

    return Target(name, "records, or an error without a word of theirs", check, seeds, mutate_bytes, LARGE)


def _read(path: Path) -> object:
    return read_patients(path, kind_for(_TASK.task, 8), "clinic")


def _import(folder: Path) -> object:
    out = folder.with_name(f"{folder.name} records.jsonl")
    try:
        return import_records(folder, _TASK, out)
    finally:
        out.unlink(missing_ok=True)


def _lines(values: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in values).encode()


def _jsonl() -> bytes:
    return _lines([{"patient": patient, "text": text, "label": label} for patient, text, label in _NOTES])


def _csv() -> bytes:
    return (
        "patient;text;label\n" + "".join(f'{patient};"{text}";{label}\n' for patient, text, label in _NOTES)
    ).encode()


def _export() -> dict[str, list[dict[str, object]]]:
    documents: list[dict[str, object]] = []
    for number, (patient, text, _) in enumerate(_NOTES):
        content = {"contentType": "text/plain", "data": base64.b64encode(text.encode()).decode()}
        documents.append(
            {
                "resourceType": "DocumentReference",
                "id": str(number),
                "subject": {"reference": f"Patient/{patient}"},
                "context": {"encounter": [{"reference": f"Encounter/{number}"}]},
                "content": [{"attachment": content}],
            }
        )
    conditions: list[dict[str, object]] = [
        {
            "resourceType": "Condition",
            "subject": {"reference": f"Patient/{patient}"},
            "encounter": {"reference": f"Encounter/{number}"},
            "code": {"coding": [{"code": "S72" if label == "bones" else "I50"}]},
        }
        for number, (patient, _, label) in enumerate(_NOTES)
    ]
    patients: list[dict[str, object]] = [
        {"resourceType": "Patient", "id": "p1", "link": [{"other": {"reference": "Patient/p2"}}]},
        {"resourceType": "Patient", "id": "p2"},
    ]
    return {"Patient": patients, "Condition": conditions, "DocumentReference": documents}
