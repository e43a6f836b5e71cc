"""A FHIR export becomes records: the patient reference is the unit, and nothing about it is guessed."""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from secfed.errors import Problems, UserError
from secfed.models.data import DataError
from secfed.models.data.fhir import export
from secfed.models.data.fhir.texts import plain_text
from secfed.models.data.importing import Imported, import_records
from secfed.models.data.jsonl import LINE_BYTES_MAX
from secfed.models.data.task_file import read_task_file

SAMPLE = Path(__file__).parent / "fhir_sample"
SECRET = "Mrs Example of Example Street"
TASK = """\
[task]
labels = ["circulatory", "respiratory", "pneumonia"]
"""
LABELS = """
[fhir.columns.label]
kind = "conditions"
prefixes = { I = "circulatory", J = "respiratory", J18 = "pneumonia" }
"""
ATTACHMENTS = """
[fhir]
resource = "DocumentReference"
[fhir.columns.text]
kind = "attachments"
"""
SECTIONS = """
[fhir]
resource = "Composition"
[fhir.columns.text]
kind = "sections"
"""


def attachment(data: bytes | None, kind: str = "text/plain") -> dict[str, Any]:
    encoded = {} if data is None else {"data": base64.b64encode(data).decode()}
    return {"attachment": {"contentType": kind, **encoded}}


def document(
    name: str, patient: str = "a", encounter: str = "e1", *content: dict[str, Any], **more: Any
) -> dict[str, Any]:
    return {
        "resourceType": "DocumentReference",
        "id": name,
        "status": "current",
        "subject": {"reference": f"Patient/{patient}"},
        "context": {"encounter": [{"reference": f"Encounter/{encounter}"}]},
        "content": list(content) or [attachment(b"a note")],
        **more,
    }


def condition(code: str, patient: str = "a", encounter: str = "e1", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Condition",
        "subject": {"reference": f"Patient/{patient}"},
        "encounter": {"reference": f"Encounter/{encounter}"},
        "code": {"coding": [{"system": "icd", "code": code}]},
        **more,
    }


def person(name: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, **more}


def written(folder: Path, **files: Iterable[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, resources in files.items():
        (folder / f"{name}.ndjson").write_text("".join(json.dumps(each) + "\n" for each in resources))
    return folder


def imported(source: Path, task: str, out: Path) -> tuple[Imported, list[dict[str, str]]]:
    path = out.with_name("task.toml")
    path.write_text(task)
    found = import_records(source, read_task_file(path), out)
    return found, [json.loads(line) for line in out.read_text().splitlines()]


def refused(source: Path, task: str, out: Path) -> UserError:
    with pytest.raises(UserError) as error:
        imported(source, task, out)
    assert SECRET not in str(error.value)
    assert not out.exists()
    assert {path.name for path in out.parent.iterdir()} <= {"task.toml", source.name}
    return error.value


def test_documents_become_records_of_their_patients_with_the_label_of_their_encounter(tmp_path: Path) -> None:
    source = written(
        tmp_path / "export",
        Patient=[person("a"), person("b"), person("c")],
        Condition=[condition("I21.9"), condition("J18.1", "a", "e2"), condition("J45", "b", "e1")],
        DocumentReference=[
            document(
                "1", "a", "e1", attachment("Herz: Schwäche".encode()), attachment(b"<p>two<br>lines</p>", "text/html")
            ),
            document("2", "b", "e1", attachment("Lunge: schwäche".encode("latin-1"), "text/plain; charset=ISO-8859-1")),
            document("3", "a", "e2"),
        ],
    )
    found, records = imported(source, TASK + ATTACHMENTS + LABELS, tmp_path / "r.jsonl")
    assert records == [
        {"patient": "a", "text": "Herz: Schwäche\n\ntwo\nlines", "label": "circulatory"},
        {"patient": "b", "text": "Lunge: schwäche", "label": "respiratory"},
        {"patient": "a", "text": "a note", "label": "pneumonia"},
    ]
    assert (found.patients, found.patients_in_source, found.records, found.most_records) == (2, 3, 3, 2)
    assert found.resources == {"Patient": 3, "Condition": 3, "DocumentReference": 3}
    assert (tmp_path / "r.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_becomes_no_record_is_counted_by_why(tmp_path: Path) -> None:
    refuted = {"verificationStatus": {"coding": [{"code": "refuted"}]}}
    source = written(
        tmp_path / "export",
        Patient=[person("a")],
        Condition=[
            condition("I10"),
            condition("J45", "a", "e2", **refuted),
            condition("I10", "a", "e3"),
            condition("J1", "a", "e3"),
        ],
        DocumentReference=[
            document("1", "a", "e1", attachment(b"%PDF", "application/pdf"), attachment(b"a note")),
            document("2", "a", "e1", attachment(b"%PDF", "application/pdf")),
            document("3", "a", "e1", attachment(None)),
            document("4", "a", "e2"),
            document("5", "a", "e3"),
            document("6", "a", "e1", status="entered-in-error"),
        ],
    )
    found, records = imported(source, TASK + ATTACHMENTS + LABELS, tmp_path / "r.jsonl")
    assert [record["text"] for record in records] == ["a note"]
    assert found.left_out == {
        'there is no text for the column "text"': 2,
        "no condition of the encounter has a code with a label": 1,
        "conditions of the encounter have several labels": 1,
        "it was withdrawn or replaced (status)": 1,
    }
    assert found.not_read == {
        "an attachment of type application/pdf": 2,
        "an attachment whose data is not in the export": 1,
    }


def test_a_patient_that_is_missing_or_dangling_is_told_with_every_other_fault_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    source = written(
        tmp_path / "export",
        Patient=[person("a"), {"resourceType": "Patient"}],
        Condition=[condition("I21", SECRET), condition("I21")],
        DocumentReference=[
            document("1"),
            document("2", "gone"),
            document("3", subject={"identifier": {"value": SECRET}}),
            document("4", subject={"reference": f"https://elsewhere.example/Patient/a#{SECRET}"}),
            document("5", "a", "e1", {"attachment": {"contentType": "text/plain", "data": SECRET}}),
            document("1"),
            {"resourceType": "Observation", "note": SECRET},
        ],
    )
    error = refused(source, TASK + ATTACHMENTS + LABELS, tmp_path / "r.jsonl")
    assert isinstance(error, Problems)
    assert error.problems == (
        "Patient.ndjson, line 2 has no id as FHIR has them",
        "Condition.ndjson, line 1 has no subject.reference of the form Patient/ID",
        "DocumentReference.ndjson, line 2 is about a Patient that the export does not have",
        "DocumentReference.ndjson, line 3 has no subject.reference of the form Patient/ID",
        "DocumentReference.ndjson, line 4 has no subject.reference of the form Patient/ID",
        "DocumentReference.ndjson, line 5 has an attachment that is not in Base64, or not in utf-8",
        "DocumentReference.ndjson, line 6 has the id of an earlier one",
        "DocumentReference.ndjson, line 7 is no DocumentReference",
    )


def test_two_resources_of_one_person_are_one_patient(tmp_path: Path) -> None:
    """As two they would be drawn and clipped twice, and the person kept half of what is promised."""
    merged = {"link": [{"other": {"reference": "Patient/c"}, "type": "replaced-by"}]}
    source = written(
        tmp_path / "export",
        Patient=[person("a", **merged), person("b"), person("c", link=[{"other": {"reference": "RelatedPerson/9"}}])],
        Condition=[condition("I1", name) for name in "abc"],
        DocumentReference=[document(name, name) for name in "abc"],
    )
    found, records = imported(source, TASK + ATTACHMENTS + LABELS, tmp_path / "r.jsonl")
    assert [record["patient"] for record in records] == ["c", "b", "c"]
    assert (found.patients, found.patients_in_source) == (2, 2)


def test_sections_are_chosen_by_title_or_code_with_what_is_inside_them(tmp_path: Path) -> None:
    def section(title: str, text: str, code: str = "", *inside: dict[str, Any]) -> dict[str, Any]:
        div = f"<div xmlns='http://www.w3.org/1999/xhtml'>{text}</div>"
        concept = {"code": {"coding": [{"system": "http://loinc.org", "code": code}]}} if code else {}
        return {"title": title, "text": {"div": div}, "section": list(inside), **concept}

    note = {
        "resourceType": "Composition",
        "id": "1",
        "subject": {"reference": "Patient/a"},
        "encounter": {"reference": "Encounter/e1"},
        "section": [
            section("Plan", "rest"),
            section("Findings", "pain &amp; fever", "8716-3", section("Blood", "CRP &lt; 5")),
            section("Assessment", "flu"),
        ],
    }
    source = written(tmp_path / "export", Patient=[person("a")], Condition=[condition("J1")], Composition=[note])
    for choice, text in {
        "": "rest\n\npain & fever\n\nCRP < 5\n\nflu",
        'sections = ["8716-3", "Assessment"]': "pain & fever\n\nCRP < 5\n\nflu",
        'sections = ["Blood"]': "CRP < 5",
    }.items():
        out = tmp_path / f"{len(choice)}.jsonl"
        assert imported(source, TASK + SECTIONS + choice + LABELS, out)[1][0]["text"] == text


def test_markup_becomes_the_text_that_a_person_reads() -> None:
    markup = (
        "<html><head><title>x</title><style>p {color: red}</style></head><body><p>Bone  <b>broken</b>&nbsp;left.</p>"
        "<script>alert(1)</script><table><tr><td>CRP</td><td>5</td></tr></table><!-- no --><ul><li>one<li>two"
    )
    assert [line for line in plain_text(markup).splitlines() if line] == ["Bone broken left.", "CRP 5", "one", "two"]
    assert plain_text("a < b, and 2 > 1") == "a < b, and 2 > 1"
    assert plain_text("<p><![if !supportLists]>1.<![endif]> Word's own</p>") == "1. Word's own"
    assert plain_text("two<br/>lines<hr>three") == "two\nlines\nthree"
    assert plain_text("<div><style/>seen</div><script>if (a < b) hidden</script>") == "seen"
    assert plain_text("") == plain_text("<!-- no text -->") == ""


@pytest.mark.parametrize("piece", ["<a ", "<!--", "<a b='x' ", '<a b="', "<![CDATA[", "</", "<?", "<div>"])
def test_no_markup_takes_more_than_a_moment_to_read(piece: str) -> None:
    """Python's own parser would take a day over each: its time grows with the square of what is left open."""
    assert plain_text(f"{piece * 1_000_000}") == ""


def test_an_export_in_several_packed_files_is_read(tmp_path: Path) -> None:
    source = written(tmp_path / "export", Condition=[condition("I1")], Observation=[{"not": "read"}])
    (source / "Patient.000.ndjson").write_text(json.dumps(person("a")))
    (source / "Patient.001.ndjson").write_text(json.dumps(person("b")))
    for number in ("1", "2"):
        with gzip.open(source / f"{number}.DocumentReference.ndjson.gz", "wt") as file:
            file.write(json.dumps(document(number)))
    found, _ = imported(source, TASK + ATTACHMENTS + LABELS, tmp_path / "r.jsonl")
    assert (found.records, found.patients_in_source) == (2, 2)
    cut = source / "2.DocumentReference.ndjson.gz"
    cut.write_bytes(cut.read_bytes()[:-9])
    (tmp_path / "r.jsonl").unlink()
    assert "is no whole gzip file" in str(refused(source, TASK + ATTACHMENTS + LABELS, tmp_path / "r.jsonl"))


def test_a_resource_that_is_too_long_is_told_and_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "RESOURCE_BYTES_MAX", 2 << 20)
    source = written(
        tmp_path / "export",
        Patient=[person("a")],
        Condition=[condition("I1")],
        DocumentReference=[
            document("1", "a", "e1", attachment(b"x" * (3 << 20))),
            document("2", "a", "e1", attachment(b"x" * LINE_BYTES_MAX)),
        ],
    )
    error = refused(source, TASK + ATTACHMENTS + LABELS, tmp_path / "r.jsonl")
    assert isinstance(error, Problems)
    assert error.problems == (
        "DocumentReference.ndjson, line 1 is longer than 2 MiB",
        "DocumentReference.ndjson, line 2 makes a record of more than 1 MiB",
    )


WRONG_TASKS = {
    "a Composition has no attachments": TASK + ATTACHMENTS.replace("DocumentReference", "Composition") + LABELS,
    "fhir.columns lacks what the task needs: label": TASK + ATTACHMENTS,
    "fhir.columns.label gives labels that task.labels does not list": TASK
    + ATTACHMENTS
    + LABELS.replace("circulatory", "x"),
    "fhir.columns.patient is filled with the patient's id": (
        TASK + ATTACHMENTS + LABELS + '[fhir.columns.patient]\nkind = "attachments"\n'
    ),
    "this key is unknown": TASK + ATTACHMENTS + "section = []\n" + LABELS,
}


@pytest.mark.parametrize("problem", WRONG_TASKS)
def test_a_task_that_does_not_fit_is_refused_before_anything_is_read(tmp_path: Path, problem: str) -> None:
    assert problem in str(refused(tmp_path / "nowhere", WRONG_TASKS[problem], tmp_path / "r.jsonl"))


def test_a_simulated_hospitals_export_is_understood(tmp_path: Path) -> None:
    """By clinosim: see fhir_sample/README.md."""
    labels = LABELS.replace("prefixes = {", 'of = "patient"\nseveral = "first"\nprefixes = { Z = "circulatory",')
    found, records = imported(SAMPLE, TASK + SECTIONS + labels, tmp_path / "r.jsonl")
    lines = {name: len((SAMPLE / f"{name}.ndjson").read_text().splitlines()) for name in found.resources}
    assert found.resources == lines
    assert found.records + sum(found.left_out.values()) == lines["Composition"]
    assert len(records) == found.records > 5
    assert all("<div" not in record["text"] for record in records)


def test_an_import_replaces_no_file_and_leaves_none_of_its_own_where_there_is_no_record(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        imported(SAMPLE, TASK + SECTIONS + LABELS, out)
    assert out.read_text() == "mine"
    out.unlink()
    nothing = shutil.copytree(SAMPLE, tmp_path / "export")
    (nothing / "Composition.ndjson").write_text("")
    error = refused(nothing, TASK + SECTIONS + LABELS, out)
    assert isinstance(error, DataError)
    assert "holds no record" in str(error)
