"""A run that calls itself more than it was, with a summary and a report that the project's own functions made anew."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secfed.engines.flare.settings import ENGINE as FLARE_ENGINE
from secfed.files.whole import json_text
from secfed.node.parts import NodeParts
from secfed.reports import folder as run_folder
from secfed.reports.html import write_report
from secfed.reports.privacy import build_report
from secfed.rounds.run_facts import FLARE, RunFacts, RunKind, against_in_short, facts_here, how_it_ran
from secfed.study.manifest import Study, load_study
from secfed.study.vouchers import Voucher
from secfed.verify.folder import verify_folder
from tests.secfed.run_folders import write_run


def relabelled(folder: Path, change: Callable[[dict[str, Any]], None]) -> str | None:
    """Change the summary, make the report from it anew, and say what the verifier finds."""
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    change(summary)
    (folder / run_folder.SUMMARY).write_text(json_text(summary))
    write_report(folder, build_report(load_study(folder / run_folder.STUDY), summary))
    problem = verify_folder(folder).problem
    return None if problem is None else f"{problem.place}: {problem.reason}"


def test_a_simulation_that_names_another_engine_is_refused(folder: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        summary["engine"] = FLARE_ENGINE

    found = relabelled(folder, change)
    assert found is not None
    assert found.startswith("summary.json: engine is")
    assert found.endswith("hospital-0 signed that its engine was embedded")


def test_a_simulation_that_says_it_was_a_federation_in_every_word_is_refused(folder: Path) -> None:
    def change(summary: dict[str, Any]) -> None:
        names = [each["name"] for each in summary["hospitals"]]
        apart = [[RunFacts(FLARE, f"{n}", f"h{n}", f"m{n}", 0)] for n in range(len(names))]
        summary["how_it_ran"] = how_it_ran(names, apart)
        summary["against"] = against_in_short(load_study(folder / run_folder.STUDY), RunKind.FEDERATION)

    found = relabelled(folder, change)
    assert found == 'summary.json: how_it_ran.kind is "federation", but the evidence gives "simulation"'


def test_accuracy_and_seconds_are_marked_as_the_coordinators_word(folder: Path) -> None:
    """Nothing can refute them: so the page does not vouch for them."""

    def change(summary: dict[str, Any]) -> None:
        summary["accuracy_after"], summary["seconds"] = 0.97, 9999

    assert relabelled(folder, change) is None
    report = json.loads((folder / run_folder.REPORT).read_text())
    rests_on = report["accounting"]["rests_on"]
    words = [each["statement"] for each in rests_on if each["vouched_by"] == Voucher.COORDINATOR]
    assert any("Accuracy" in each for each in words)
    assert any("how long" in each for each in words)
    page = " ".join((folder / run_folder.REPORT_PAGE).read_text().split())
    assert "word of the coordinator" in page or "coordinator's word" in page


def test_what_the_coordinator_vouches_for_cannot_be_left_out(folder: Path) -> None:
    found = relabelled(folder, lambda summary: summary["coordinators_word"].remove("accuracy_after"))
    assert found is not None
    assert found.startswith("summary.json: coordinators_word")


def test_a_run_of_several_processes_on_one_machine_is_a_demonstration_by_its_nodes_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the process is changed here; the machine is the one that all of them are on."""

    def say(study: Study, parts: NodeParts) -> None:
        facts = facts_here(study.digest, FLARE, parts.ledger.path.parent, 0)
        process = hashlib.sha256(parts.name.encode()).hexdigest()
        parts.ledger.run(study.digest, replace(facts, process=process).body())

    monkeypatch.setattr("secfed.node.books._say_how_it_runs", say)
    monkeypatch.setattr("tests.secfed.run_folders.ENGINE", FLARE_ENGINE)
    write_run(tmp_path / "out", tmp_path / "work")
    assert verify_folder(tmp_path / "out").problem is None
    summary = json.loads((tmp_path / "out" / run_folder.SUMMARY).read_text())
    assert summary["how_it_ran"]["kind"] == "demonstration"
    page = " ".join((tmp_path / "out" / run_folder.REPORT_PAGE).read_text().split())
    assert "DEMONSTRATION" in page

    def federation(summary: dict[str, Any]) -> None:
        summary["how_it_ran"] |= {"kind": "federation", "on_one_machine": []}

    assert relabelled(tmp_path / "out", federation) is not None


def test_a_summary_that_lacks_a_value_which_may_be_none_is_refused_in_words(folder: Path) -> None:
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    assert summary.pop("clip") is None
    (folder / run_folder.SUMMARY).write_text(json_text(summary))
    problem = verify_folder(folder).problem
    assert problem is not None
    assert problem.reason == "clip is missing, or has the wrong type"
