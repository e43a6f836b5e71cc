"""What a run's folder claims of privacy is computed again: a promise that study and rounds do not give is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import secfed
from secfed.files.whole import json_text
from secfed.reports import folder as run_folder
from secfed.reports.html import render_report, write_report
from secfed.reports.privacy import build_report
from secfed.study.manifest import load_study
from secfed.verify.folder import verify_folder
from tests.secfed.run_folders import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    write_run(folder / "out", folder / "work")
    return folder / "out"


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "out")
    return tmp_path / "out"


def problem_in(folder: Path) -> tuple[str, str]:
    problem = verify_folder(folder).problem
    assert problem is not None
    return problem.place, problem.reason


def forge_report(folder: Path, change: Callable[[dict[str, Any]], Any]) -> tuple[str, str]:
    """Change the report, and write the page that it would have: all that a dishonest author can make agree."""
    report = json.loads((folder / run_folder.REPORT).read_text())
    change(report)
    (folder / run_folder.REPORT).write_text(json_text(report))
    (folder / run_folder.REPORT_PAGE).write_text(render_report(report))
    return problem_in(folder)


def forge_summary(folder: Path, change: Callable[[dict[str, Any]], Any]) -> tuple[str, str]:
    """Change the summary, and write report and page anew from it."""
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    change(summary)
    (folder / run_folder.SUMMARY).write_text(json_text(summary))
    write_report(folder, build_report(load_study(folder / run_folder.STUDY), summary))
    return problem_in(folder)


def test_an_honest_run_holds(run: Path) -> None:
    assert verify_folder(run).problem is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "distributed"),
        ("unit", "node"),
        ("against", "against absolutely everybody"),
        ("engine", "many machines"),
    ],
)
def test_a_summary_that_claims_another_promise_is_found_though_the_report_agrees(
    folder: Path, name: str, value: str
) -> None:
    assert forge_summary(folder, lambda summary: summary.update({name: value}))[0] == "summary.json"


def test_less_epsilon_than_was_spent_is_found(folder: Path) -> None:
    place, reason = forge_summary(folder, lambda summary: [each.update(epsilon=0.001) for each in summary["hospitals"]])
    assert (place, reason.split(" is ")[0]) == ("summary.json", "epsilon")


def test_less_epsilon_after_a_round_is_found(folder: Path) -> None:
    place, reason = forge_summary(
        folder, lambda summary: summary["hospitals"][1]["epsilon_by_round"].__setitem__(0, 0.1)
    )
    assert (place, reason.split(" is ")[0]) == ("summary.json", "epsilon_by_round.0")


def test_what_two_accountants_may_differ_by_is_no_lie(folder: Path) -> None:
    report = json.loads((folder / run_folder.REPORT).read_text())
    report["guarantee"]["epsilon_accounted"] *= 1 + 1e-6
    (folder / run_folder.REPORT).write_text(json_text(report))
    (folder / run_folder.REPORT_PAGE).write_text(render_report(report))
    assert verify_folder(folder).problem is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("guarantee", "sentence"), "Nothing can ever leak."),
        (("guarantee", "epsilon_accounted"), 0.001),
        (("guarantee", "epsilon_allowed"), 1.0),
        (("guarantee", "note"), ""),
        (("guarantee", "against"), "everybody"),
        (("risk", "membership", 0, "true_positive_rate_at_most"), 0.0),
        (("risk", "patient_at_several_hospitals", 1, "epsilon"), 1.0),
        (("accounting", "cross_checks", 0, "epsilon"), 1.0),
        (("accounting", "cross_checks", 1, "epsilon"), 1.0),
        (("accounting", "rests_on"), []),
        (("not_protected"), []),
        (("parameters", 1, "value"), "0.5"),
        (("parties", "colluders"), 4),
        (("study", "digest"), "00" * 32),
        (("study", "purpose"), "Another"),
        (("rounds", 0, "receipt_digest"), "00" * 32),
        (("hospitals", 1, "epsilon"), 1.0),
        (("hospitals", 1, "left_epsilon"), 8.0),
        (("utility", "accuracy_after"), 0.99),
        (("evidence", 2, "digest"), "00" * 32),
        (("versions", "secfed"), "9.9.9"),
    ],
)
def test_a_report_that_says_something_else_is_found_though_its_page_agrees(
    folder: Path, path: tuple[str | int, ...] | str, value: object
) -> None:
    *parents, last = (path,) if isinstance(path, str) else path

    def change(report: Any) -> None:
        for part in parents:
            report = report[part]
        assert report[last] != value
        report[last] = value

    assert forge_report(folder, change)[0] == "report.json"


def edited(folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """The place that is named when the report changes and the page does not."""
    report = json.loads((folder / run_folder.REPORT).read_text())
    change(report)
    (folder / run_folder.REPORT).write_text(json_text(report))
    return problem_in(folder)[0]


@pytest.mark.parametrize("part", ["rounds", "evidence", "guarantee", "accounting", "hospitals"])
@pytest.mark.parametrize("value", [None, [], {}, [{}], "none"])
def test_a_part_in_another_form_is_found(folder: Path, part: str, value: object) -> None:
    assert edited(folder, lambda report: report.update({part: value})) == "report.json"


def test_more_than_a_report_holds_is_found(folder: Path) -> None:
    assert edited(folder, lambda report: report.update(verdict="compliant")) == "report.json"


def test_a_page_that_shows_something_else_is_found(folder: Path) -> None:
    page = (folder / run_folder.REPORT_PAGE).read_text()
    for old, new in (("differentially private", "perfectly private"), ("</main>", "<p>No risk.</p></main>")):
        assert old in page
        (folder / run_folder.REPORT_PAGE).write_text(page.replace(old, new, 1))
        place, reason = problem_in(folder)
        assert place == "report.html"
        assert "not the page of report.json" in reason


@pytest.mark.parametrize(("made_by", "told"), [("0.1.0", True), (secfed.__version__, False)])
def test_another_versions_words_are_not_those_of_this_one_and_its_number_is_named(
    folder: Path, made_by: str, told: bool
) -> None:
    """Texts are compared exactly, whoever is said to have written them; but a version has words of its own."""

    def of(summary: dict[str, Any]) -> None:
        summary["versions"]["secfed"] = made_by

    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    of(summary)
    (folder / run_folder.SUMMARY).write_text(json_text(summary))

    def worded(report: dict[str, Any]) -> None:
        of(report)
        report["guarantee"]["unit"] = "one patient, in other words"

    place, reason = forge_report(folder, worded)
    assert place == "report.json"
    assert f"by secfed {secfed.__version__}" in reason
    assert ('the run is said to be of "0.1.0": verify it with that version, too' in reason) == told
