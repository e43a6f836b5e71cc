"""What a run leaves tells by no file's time when a round was."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secfed.aggregator.results import write_results
from secfed.reports import folder as run_folder
from secfed.study.manifest import load_study
from secfed.verify.folder import verify_folder
from tests.secfed.run_folders import write_run

ROUND = datetime(2030, 1, 1, 12, 34, 56, 789_000, UTC).timestamp()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path / "out", tmp_path / "work")
    return tmp_path / "out"


@pytest.mark.sweep
def test_no_files_time_in_a_runs_folder_is_finer_than_a_minute_or_that_of_its_round(folder: Path) -> None:
    (folder / run_folder.JOURNAL).write_text("")
    (folder / "test.jsonl").write_text("")  # beside a study, and not of the run
    paths = [*folder.rglob("*"), folder]
    for path in paths:
        os.utime(path, (ROUND, ROUND))
    summary = json.loads((folder / run_folder.SUMMARY).read_text())
    write_results(folder, load_study(folder / run_folder.STUDY), summary, [])
    times = {str(path.relative_to(folder)): path.stat().st_mtime for path in paths}
    assert times.pop("test.jsonl") == ROUND
    assert times.pop(run_folder.STUDY) == datetime(2030, 1, 1, 12, 34, tzinfo=UTC).timestamp()
    assert set(times.values()) == {datetime.fromisoformat(summary["finished"]).timestamp()}
    assert verify_folder(folder).problem is None
