"""Whatever happens, who runs a command reads a line: the last resort for what nobody has thought of."""

from __future__ import annotations

import errno
import sqlite3
import tempfile
from pathlib import Path

import pytest

from tests.command_line import exit_code


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("secfed.study.approvals.StudyFile.read", fail)


def test_an_error_that_nobody_foresaw_is_a_line_and_its_trace_a_file_for_this_user_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fail_with(monkeypatch, ZeroDivisionError("what \ud800 it said"))
    assert exit_code(monkeypatch, "study", "diff", "a", "b") == 3
    (written,) = tmp_path.iterdir()
    said = capsys.readouterr().err
    assert said.startswith("secfed: this is a bug in secfed")
    assert str(written) in said
    assert said.count("\n") == 1
    assert "ZeroDivisionError: what" in written.read_text()
    assert written.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device", "sums/1"), sqlite3.OperationalError("disk is full")]
)
def test_what_a_disk_says_is_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    fail_with(monkeypatch, error)
    assert exit_code(monkeypatch, "study", "diff", "a", "b") == 2
    said = capsys.readouterr().err
    assert "disk" in said
    assert said.count("\n") == 1
