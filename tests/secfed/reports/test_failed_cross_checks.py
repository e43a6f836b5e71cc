"""An accountant that fails when the budget is spent costs neither the report nor the verdict, and both say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dp import accounting
from secfed.reports import folder as run_folder
from secfed.reports.html import render_report, write_report
from secfed.reports.privacy import build_report
from secfed.study.account import check_noise
from secfed.study.manifest import load_study
from secfed.verify.folder import verify_folder
from tests.secfed.reports.test_report_sentences import _summary, study_of, text_of
from tests.secfed.run_folders import write_run

ACCOUNTANTS = {"rdp_epsilon": "Rényi differential privacy", "prv_epsilon": "privacy random variables"}


class Overwhelmed(ArithmeticError):
    """What no list of errors has."""


def failing(*_: object) -> float:
    raise Overwhelmed("a text of the library's")


def endless(*_: object) -> float:
    return float("inf")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    write_run(folder / "out", folder / "work")
    return folder / "out"


def reported_again(folder: Path) -> dict[str, Any]:
    """The report, made as the run makes it."""
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    report = build_report(load_study(folder / run_folder.STUDY), summary)
    write_report(folder, report)
    return report


@pytest.mark.parametrize("name", ACCOUNTANTS)
@pytest.mark.parametrize("accountant", [failing, endless])
def test_the_report_is_written_and_verify_says_which_cross_check_failed(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str, accountant: Callable[..., float]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(accounting, name, accountant)
        report = reported_again(run)
    reason = "the accountant ended with Overwhelmed" if accountant is failing else "gave no number"
    failed = report["accounting"]["cross_checks"][list(ACCOUNTANTS).index(name)]
    assert (failed["epsilon"], failed["passed"], failed["problem"]) == (None, None, reason)
    assert f"Cross-check FAILED : cross-check failed: {reason}, by {failed['by']}" in text_of(render_report(report))
    verdict = verify_folder(run)
    assert verdict.problem is None
    told = verdict.checked[-1]
    assert f"its cross-check by {ACCOUNTANTS[name]} failed: {reason}" in told.text
    assert told.counts["cross_checks_failed"] == 1


def test_verify_goes_on_where_its_own_accountant_fails(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported_again(run)
    monkeypatch.setattr(accounting, "rdp_epsilon", failing)
    verdict = verify_folder(run)
    assert verdict.problem is None
    assert verdict.checked[-1].counts["cross_checks_failed"] == 0


@pytest.mark.parametrize(
    "row",
    [
        {"epsilon": None, "passed": None, "problem": "none: all of it is proved"},
        {"epsilon": None, "passed": None, "problem": ""},
        {"problem": "gave no number"},
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_failure_that_is_none_is_found(run: Path, place: int, row: dict[str, Any]) -> None:
    report = reported_again(run)
    report["accounting"]["cross_checks"][place].update(row)
    write_report(run, report)
    problem = verify_folder(run).problem
    assert problem is not None
    assert problem.place == run_folder.REPORT


@pytest.mark.sweep
def test_a_delta_that_is_enough_for_the_promise_is_enough_for_the_report() -> None:
    """At 8 steps, padded batches take less than 1 % of this delta, and three times as much of it where a patient is at
    three hospitals: that figure is told beside the promise, and stops nothing."""
    study = study_of(privacy={**study_of().privacy.model_dump(), "delta": 1e-9, "noise_multiplier": 1.0})
    check_noise(study)
    report = build_report(study, _summary(study))
    figures = [each["epsilon"] for each in report["risk"]["patient_at_several_hospitals"]]
    assert figures == sorted(figures)
    assert len(set(figures)) == 3
