"""Claims about a node's faults in a run's folder: who complained is checked, and the page shows claims as claims."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from protocols import sharing
from protocols.complaints import Complaint
from protocols.errors import FaultKind
from secfed.files.whole import json_text
from secfed.reports import folder as run_folder
from secfed.reports.html import render_report, write_report
from secfed.reports.privacy import build_report
from secfed.study.manifest import load_study
from secfed.verify.folder import verify_folder
from tests.protocols.dealers import dealing, other_sealed_share
from tests.secfed.federation import identities
from tests.secfed.run_folders import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which node 1 complains of node 4 in every round."""
    folder = tmp_path_factory.mktemp("claims")
    with dealing(4, sharing, "_seal", other_sealed_share(1)):
        write_run(folder / "out", folder / "work")
    return folder / "out"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "out")
    return tmp_path / "out"


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any]) -> tuple[str, str] | None:
    """Change round 1 in the summary, and say what the verifier finds."""
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    change(summary["rounds"][0])
    (folder / run_folder.SUMMARY).write_text(json_text(summary))
    problem = verify_folder(folder).problem
    return None if problem is None else (problem.place, problem.reason)


def report_again(folder: Path, claims: list[dict[str, str]]) -> None:
    """Write the report of a round 1 with these claims, as whoever adds one to the summary would."""
    report = json.loads((folder / run_folder.REPORT).read_text())
    report["rounds"][0]["faults"] = claims
    (folder / run_folder.REPORT).write_text(json_text(report))
    (folder / run_folder.REPORT_PAGE).write_text(render_report(report))


def signature_by(folder: Path, by: int, accused: int, kind: FaultKind, number: int = 1) -> str:
    study = load_study(folder / run_folder.STUDY).digest
    return sharing.sign(Complaint(study, number, by, accused, int(kind), b""), identities(5)[by]).signature.hex()


def test_a_run_with_complaints_holds(run: Path) -> None:
    assert verify_folder(run).problem is None
    for each in json.loads((run / run_folder.SUMMARY).read_text())["rounds"]:
        (told,) = each["faults"]
        assert (told["accused"], told["by"], told["kind"]) == ("hospital-4", "hospital-1", "share")
        assert told["signature"] == signature_by(run, 1, 4, FaultKind.SHARE, each["number"])


@pytest.mark.parametrize(
    "change",
    [
        {"signature": "00" * 64},
        {"signature": ""},
        {"signature": "not hexadecimal"},
        {"accused": "hospital-3"},
        {"accused": "hospital-1"},
        {"kind": "envelope"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_complaint_that_its_node_did_not_sign_is_found(folder: Path, change: dict[str, str]) -> None:
    assert rewritten(folder, lambda each: each["faults"][0].update(change)) == (
        "summary.json",
        f"round 1: the complaint of hospital-1 about {change.get('accused', 'hospital-4')} is not signed by hospital-1",
    )


def test_a_signature_has_one_form(folder: Path) -> None:
    problem = rewritten(folder, lambda each: each["faults"][0].update(signature=each["faults"][0]["signature"].upper()))
    assert problem is not None
    assert problem[0] == "summary.json"


def test_a_complaint_of_another_round_is_found(folder: Path) -> None:
    other = signature_by(folder, 1, 4, FaultKind.SHARE, 2)
    problem = rewritten(folder, lambda each: each["faults"][0].update(signature=other))
    assert problem is not None
    assert "is not signed by hospital-1" in problem[1]


def test_a_survivor_cannot_have_complained(folder: Path) -> None:
    signature = signature_by(folder, 2, 4, FaultKind.SHARE)
    change = {"by": "hospital-2", "signature": signature}
    assert rewritten(folder, lambda each: each["faults"][0].update(change)) == (
        "summary.json",
        "round 1: hospital-2 cannot have left it with a complaint",
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each["faults"][0].update(kind="rudeness"),
        lambda each: each["faults"][0].update(accused="\x1b[2J"),
        lambda each: each["faults"][0].update(note="more"),
        lambda each: each["faults"].append(each["faults"][0]),
    ],
    ids=["kind", "accused", "more", "twice"],
)
def test_a_claim_that_nobody_can_have_made_is_found(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    assert rewritten(folder, change) == (
        "summary.json",
        "round 1: a claim about a node's fault is not well-formed, or is made twice",
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each.pop("faults"),
        lambda each: each.update(faults=["hospital-4"]),
        lambda each: each["faults"][0].update(by=None),
        lambda each: each["faults"][0].pop("signature"),
    ],
)
def test_claims_in_another_form_are_found(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    problem = rewritten(folder, change)
    assert problem is not None
    assert problem[0] == "summary.json"


def test_the_aggregators_word_is_told_without_a_signature(folder: Path) -> None:
    word = {"accused": "hospital-3", "by": "", "kind": "malformed", "signature": ""}
    (complaint,) = json.loads((folder / run_folder.REPORT).read_text())["rounds"][0]["faults"]
    report_again(folder, [complaint, word])
    assert rewritten(folder, lambda each: each["faults"].append(dict(word))) is None
    pretended = rewritten(folder, lambda each: each["faults"][1].update(signature="00" * 64))
    assert pretended is not None
    assert pretended[0] == "summary.json"


def test_a_report_that_leaves_a_claim_out_is_found(folder: Path) -> None:
    report = json.loads((folder / run_folder.REPORT).read_text())
    report["rounds"][0]["faults"] = []
    (folder / run_folder.REPORT).write_text(json_text(report))
    problem = verify_folder(folder).problem
    assert problem is not None
    assert problem.place == "report.json"


def test_the_page_shows_claims_as_claims(folder: Path) -> None:
    study = load_study(folder / run_folder.STUDY)
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    summary["rounds"][2]["faults"].append(
        {"accused": "hospital-3", "by": "", "kind": "released-share", "signature": ""}
    )
    write_report(folder, build_report(study, summary))
    page = " ".join((folder / run_folder.REPORT_PAGE).read_text().split())
    assert page.count('<td>hospital-1 (signed)</td><td class="name">hospital-4</td>') == 4
    assert "dealt a share other than the committed one" in page
    assert (
        '<td>the aggregator</td><td class="name">hospital-3</td>'
        "<td>released a share other than the one it was dealt</td>"
    ) in page
    assert "These are claims, not findings of this report" in page
    for each in summary["rounds"]:
        each["faults"] = []
    write_report(folder, build_report(study, summary))
    assert "These are claims" not in (folder / run_folder.REPORT_PAGE).read_text()
