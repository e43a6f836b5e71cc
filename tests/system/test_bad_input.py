"""Bad input, as a person meets it: one line with the next step, exit code 2, nothing written."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.cli import main
from secfed.demo import DemoSettings, prepare_demo
from tests.tiny import make_tiny_base

SMALL = DemoSettings(
    patients=400, test_records_per_chapter=3, layers=(0, 1), max_length=12, rounds=2, local_steps=1, rank=2
)


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


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["secfed", *arguments])
    with pytest.raises(SystemExit) as ending:
        main()
    return int(ending.value.code or 0)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def first_site(workspace: Path) -> Path:
    return sorted((workspace / "sites").iterdir())[0]


def no_study(workspace: Path) -> None:
    (workspace / "study.toml").unlink()


def malformed_study(workspace: Path) -> None:
    edit(workspace / "study.toml", "format = 1", "format = = 1")


def unknown_key(workspace: Path) -> None:
    edit(workspace / "study.toml", "[privacy]", "[privacy]\nsigma = 0.1")


def other_base_model(workspace: Path) -> None:
    weights = workspace / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))


def no_patient_column(workspace: Path) -> None:
    path = first_site(workspace) / "patients.jsonl"
    path.write_text(path.read_text().replace('"patient"', '"person"'))


def empty_hospital(workspace: Path) -> None:
    (first_site(workspace) / "patients.jsonl").write_text("")


def too_many_dropouts(workspace: Path) -> None:
    edit(workspace / "study.toml", "tolerated_dropouts = 1", "tolerated_dropouts = 3")


def too_many_colluders(workspace: Path) -> None:
    edit(workspace / "study.toml", "colluders = 1", "colluders = 4")


def minimum_too_large(workspace: Path) -> None:
    edit(workspace / "study.toml", "minimum = 4", "minimum = 5")


def roster_too_small(workspace: Path) -> None:
    path = workspace / "study.toml"
    head, *entries = path.read_text().split("[[roster]]")
    path.write_text("[[roster]]".join([head, *entries[:2]]))


def small_budget(workspace: Path) -> None:
    edit(first_site(workspace) / "policy.toml", "epsilon = 8.0", "epsilon = 3.0")


def open_key(workspace: Path) -> None:
    (first_site(workspace) / "identity.key").chmod(0o644)


def foreign_key(workspace: Path) -> None:
    key = first_site(workspace) / "identity.key"
    key.write_text("ab" * 32 + "\n")


def missing_site(workspace: Path) -> None:
    shutil.rmtree(first_site(workspace))


def model_not_allowed(workspace: Path) -> None:
    path = first_site(workspace) / "policy.toml"
    path.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, path.read_text()))


def delta_too_large(workspace: Path) -> None:
    edit(workspace / "study.toml", "delta = 1e-05", "delta = 0.01")


def figure_of_another_strategy(workspace: Path) -> None:
    edit(workspace / "study.toml", 'strategy = "fedavg"', 'strategy = "fedavg"\nmu = 0.1')


def proximal_term_without_effect(workspace: Path) -> None:
    edit(workspace / "study.toml", 'strategy = "fedavg"', 'strategy = "fedprox"\nmu = 0.1')


CASES = [
    (no_study, "cannot be read"),
    (malformed_study, "is not TOML"),
    (unknown_key, "privacy.sigma: this key is unknown"),
    (other_base_model, "is not the one that the study pins"),
    (no_patient_column, "patient"),
    (empty_hospital, "has no patients"),
    (too_many_dropouts, "at most f = 1"),
    (too_many_colluders, "at most c = 3"),
    (minimum_too_large, "choose n_min from 3 to 4"),
    (roster_too_small, "3 to 1000 nodes"),
    (small_budget, "privacy budget"),
    (open_key, "chmod 600"),
    (foreign_key, "not the one that the study's roster pins"),
    (missing_site, "folder of"),
    (model_not_allowed, "does not allow this study's base model"),
    (delta_too_large, "above 1/(10 N)"),
    (figure_of_another_strategy, "mu has no effect with strategy fedavg"),
    (proximal_term_without_effect, "fedprox with local_steps = 1 is fedavg"),
]


@pytest.mark.parametrize(("spoil", "said"), CASES, ids=[case[0].__name__ for case in CASES])
def test_bad_input_is_one_line_exit_2_and_nothing_written(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    said: str,
) -> None:
    spoil(workspace)
    before = sorted(workspace.rglob("*"))
    out = workspace.parent / "out"
    assert run_cli(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out)) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert said in complaint
    assert complaint.startswith("secfed: ")
    assert complaint.rstrip().endswith(".")
    assert not out.exists()
    assert sorted(workspace.rglob("*")) == before


def test_a_spent_budget_refuses_before_training(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hospitals of a finished run, offered another study: their ledgers say what is left."""
    out = workspace.parent / "out"
    assert run_cli(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out)) == 0
    assert "accuracy" in capsys.readouterr().out
    (out / "summary.json").unlink()
    shutil.rmtree(out / "receipts")
    edit(workspace / "study.toml", 'name = "icd-chapters"', 'name = "second-study"')
    before = {path: path.read_bytes() for path in out.rglob("*.sqlite")}
    assert run_cli(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out)) == 2
    complaint = capsys.readouterr().err
    assert "privacy budget" in complaint
    assert "secfed: " in complaint
    assert {path: path.read_bytes() for path in out.rglob("*.sqlite")} == before


def test_a_folder_that_holds_a_run_is_not_run_over(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = workspace.parent / "out"
    out.mkdir()
    (out / "summary.json").write_text("{}")
    assert run_cli(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out)) == 2
    assert "holds another run" in capsys.readouterr().err


def test_errors_can_be_read_by_machines(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(monkeypatch, "run", str(workspace / "nowhere.toml"), "--out", "x", "--json") == 2
    captured = capsys.readouterr()
    assert captured.out.startswith('{"event": "error"')
    assert captured.err == ""
