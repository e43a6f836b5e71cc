"""When `secfed run` does not start though its input is good, and how its errors are read; bad input has a folder of its
own, `tests/bad_inputs/`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from secfed.demo.workspace import DemoSettings, prepare_demo
from tests.command_line import exit_code
from tests.tiny import make_tiny_base

SMALL = DemoSettings(patients=400, test_records_per_chapter=3, layers=(0, 1), max_length=12, steps=2, rank=2)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = make_tiny_base(tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("pristine") / "workspace"
    prepare_demo(folder, base=base, settings=SMALL)
    return folder


@pytest.fixture
def workspace(pristine: Path, tmp_path: Path) -> Path:
    shutil.copytree(pristine, tmp_path / "workspace")
    return tmp_path / "workspace"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_sites_of_a_finished_run_take_no_other_study_in_its_folder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = workspace.parent / "out"
    assert exit_code(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out), "--yes") == 0
    assert "accuracy" in capsys.readouterr().out
    (out / "summary.json").unlink()
    shutil.rmtree(out / "receipts")
    edit(workspace / "study.toml", 'name = "icd-chapters"', 'name = "second-study"')
    before = {path: path.read_bytes() for path in out.rglob("*.sqlite")}
    assert exit_code(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out), "--yes") == 2
    complaint = capsys.readouterr().err
    assert "already holds another run" in complaint
    assert {path: path.read_bytes() for path in out.rglob("*.sqlite")} == before


def test_nothing_starts_before_somebody_has_confirmed_the_privacy_plan(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(workspace.rglob("*"))
    out = workspace.parent / "out"
    arguments = ("run", str(workspace / "study.toml"), "--out", str(out))
    assert exit_code(monkeypatch, *arguments) == 2  # nobody at a terminal
    said = capsys.readouterr()
    assert "privacy plan of icd-chapters" in said.out
    assert "add --yes" in said.err
    monkeypatch.setattr("secfed.cli.run._ask", lambda: False)
    assert exit_code(monkeypatch, *arguments) == 2
    assert "the plan was not confirmed. Nothing was started" in capsys.readouterr().err
    assert not out.exists()
    assert sorted(workspace.rglob("*")) == before


def test_a_folder_that_holds_a_run_is_not_run_over(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = workspace.parent / "out"
    out.mkdir()
    (out / "summary.json").write_text("{}")
    assert exit_code(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out), "--yes") == 2
    assert "holds another run" in capsys.readouterr().err


def test_errors_can_be_read_by_machines(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(monkeypatch, "run", str(workspace / "nowhere.toml"), "--out", "x", "--json") == 2
    captured = capsys.readouterr()
    assert captured.out.startswith('{"event": "error"')
    assert captured.err == ""
