"""The doctor at the aggregator: each planted fault is found and named, with how to mend it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.doctor.checkup import examine_aggregator
from secfed.engines.flare.progress import RunLog
from secfed.rounds.events import RoundClosed, RoundOpened
from tests.homes import Hospitals
from tests.secfed.doctor.findings import failed, states


@pytest.fixture
def aggregator(hospitals: Hospitals, tmp_path: Path) -> Path:
    folder = tmp_path / "aggregator"
    study = folder / "studies" / hospitals.study.digest.hex()
    study.mkdir(parents=True)
    shutil.copy(hospitals.study_path, study / "study.toml")
    shutil.copytree(hospitals.homes[0].path / "models", folder / "models")
    return folder


def test_a_healthy_aggregator_has_no_finding_that_failed(aggregator: Path) -> None:
    assert states(examine_aggregator(aggregator, None)) == set()


def wrong_folder(aggregator: Path) -> None:
    (study,) = (aggregator / "studies").iterdir()
    study.rename(study.with_name("0" * 64))


def no_base(aggregator: Path) -> None:
    shutil.rmtree(aggregator / "models")


def open_folder(aggregator: Path) -> None:
    aggregator.chmod(0o777)


def no_study(aggregator: Path) -> None:
    (study,) = (aggregator / "studies").iterdir()
    (study / "study.toml").write_text("format = 2\n")


def false_signatures(aggregator: Path) -> None:
    (study,) = (aggregator / "studies").iterdir()
    (study / "signatures.json").write_text('{"signatures": {}}')


def file_from_tomorrow(aggregator: Path) -> None:
    os.utime(aggregator / "models" / "model" / "config.json", (time.time() + 86_400,) * 2)


@pytest.mark.parametrize(
    ("plant", "check", "text", "fix"),
    [
        (wrong_folder, "study", "has another digest than its folder's name", "named by the digest"),
        (no_base, "base of", "none of 0 base models", "copy its folder"),
        (open_folder, "folder", "mode 0777", "chmod go-w"),
        (no_study, "study", "study.toml", "Mend it"),
        (false_signatures, "study", "not the study that the nodes signed", "secfed study sign"),
        (file_from_tomorrow, "clock", "config.json was written here at", "NTP"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_at_the_aggregator_is_found_with_its_fix(
    aggregator: Path, plant: Callable[[Path], None], check: str, text: str, fix: str
) -> None:
    plant(aggregator)
    found = [each for each in failed(examine_aggregator(aggregator, None)) if each.check.startswith(check)]
    assert any(text in each.text and fix in each.fix for each in found), found


def run_in_progress(aggregator: Path) -> RunLog:
    """A run of the study that has completed two rounds, and asks for the third."""
    (study,) = (aggregator / "studies").iterdir()
    run = aggregator / "runs" / study.name
    run.mkdir(parents=True)
    log = RunLog(run)
    log.start("job")
    log.show(RoundOpened(2, 8))
    log.show(RoundClosed(2, 5, 5, 1.0, 1.0))
    log.asks(["quiet-hospital"], 3, "share", 60.0)
    return log


def test_a_run_in_progress_gets_no_advice(aggregator: Path) -> None:
    run_in_progress(aggregator)
    findings = {each.check.split()[0]: each for each in examine_aggregator(aggregator, None)}
    run, study = findings["run"], findings["study"]
    assert (run.state, run.text, run.fix) == ("ok", "2 of 8 rounds, not ended; waiting for quiet-hospital", "")
    assert (study.state, study.fix) == ("not checked", "")
    assert "its run collects the signatures at its end" in study.text


def test_a_run_that_stopped_says_why_and_what_to_do_and_one_that_was_aborted_is_nobodys_fault(aggregator: Path) -> None:
    log = run_in_progress(aggregator)
    log.end("stopped", "quiet-hospital did not hand over its ledger.")
    (run,) = (each for each in examine_aggregator(aggregator, None) if each.check.startswith("run"))
    assert (run.state, "did not hand over" in run.text, "submit the study again" in run.fix) == ("warning", True, True)
    log.end("aborted", "the job was aborted")
    (run,) = (each for each in examine_aggregator(aggregator, None) if each.check.startswith("run"))
    assert (run.state, run.fix) == ("ok", "")


def test_files_that_a_run_replaces_while_they_are_looked_at_are_no_fault(
    aggregator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = aggregator / "runs.state.json.4711"
    gone.touch()
    stat, is_file = Path.stat, Path.is_file

    def vanished(path: Path, **options: bool) -> os.stat_result:
        if path == gone:
            raise FileNotFoundError(path)
        return stat(path, **options)

    monkeypatch.setattr(Path, "is_file", lambda path: path == gone or is_file(path))
    monkeypatch.setattr(Path, "stat", vanished)
    assert states(examine_aggregator(aggregator, None)) == set()
