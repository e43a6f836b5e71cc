"""Bad input, as a person meets it: one line with the next step, exit code 2, nothing written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from secfed.demo import DemoSettings, prepare_demo
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
    edit(workspace / "study.toml", 'strategy = "fedopt-adam"', 'strategy = "fedopt-adam"\nmu = 0.1')


def proximal_term_without_effect(workspace: Path) -> None:
    to_local_mode(workspace)
    edit(workspace / "study.toml", 'strategy = "fedavg"', 'strategy = "fedprox"\nmu = 0.1')


def to_local_mode(workspace: Path) -> None:
    """The same workspace with a study in local mode, of one step a round."""
    path = workspace / "study.toml"
    text = path.read_text()
    for line in ("server_learning_rate", "tau", "unit", "records_per_patient"):
        text = re.sub(rf"\n{line} = .*", "", text)
    text = text.replace('strategy = "fedopt-adam"', 'strategy = "fedavg"\nlocal = { steps = 1, learning_rate = 0.06 }')
    path.write_text(text.replace('mode = "distributed"', 'mode = "local"'))


def averaging_in_distributed_mode(workspace: Path) -> None:
    path = workspace / "study.toml"
    text = re.sub(r"\n(server_learning_rate|tau) = .*", "", path.read_text())
    path.write_text(text.replace('"fedopt-adam"', '"fedavg"\nlocal = { steps = 1, learning_rate = 0.06 }'))


def local_training_in_distributed_mode(workspace: Path) -> None:
    edit(workspace / "study.toml", "\ntau =", "\nlocal = { steps = 1, learning_rate = 0.06 }\ntau =")


def no_local_training_in_local_mode(workspace: Path) -> None:
    to_local_mode(workspace)
    path = workspace / "study.toml"
    path.write_text(
        re.sub(
            r'strategy = "fedavg"\nlocal = .*', 'strategy = "fedopt-sgd"\nserver_learning_rate = 1.0', path.read_text()
        )
    )


def grid_in_local_mode(workspace: Path) -> None:
    to_local_mode(workspace)
    edit(workspace / "study.toml", 'mode = "local"', 'mode = "local"\ngrid = 1024')


def another_rate_at_one_hospital(workspace: Path) -> None:
    edit(workspace / "study.toml", "\n[[roster]]", "\n[[roster]]\nsampling_rate = 0.5")


def more_patients_than_the_roster_says(workspace: Path) -> None:
    path = first_site(workspace) / "patients.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines + [line.replace('"patient": "', '"patient": "other-') for line in lines]))


def epsilon_out_of_range(workspace: Path) -> None:
    edit(workspace / "study.toml", "epsilon = 8.0", "epsilon = 0")


def delta_out_of_range(workspace: Path) -> None:
    edit(workspace / "study.toml", "delta = 1e-05", "delta = 1.0")


def no_colluders_in_distributed_mode(workspace: Path) -> None:
    edit(workspace / "study.toml", "colluders = 1", "colluders = 0")


def no_records_per_patient(workspace: Path) -> None:
    edit(workspace / "study.toml", "records_per_patient = 1", "records_per_patient = 0")


def records_of_a_record(workspace: Path) -> None:
    edit(workspace / "study.toml", 'unit = "patient"', 'unit = "record"')


def single_records_of_patients_with_several(workspace: Path) -> None:
    edit(workspace / "study.toml", 'unit = "patient"', 'unit = "record"')
    edit(workspace / "study.toml", "records_per_patient = 1\n", "")


def adapter_that_no_hook_follows_in_local_mode(workspace: Path) -> None:
    to_local_mode(workspace)
    path = workspace / "study.toml"
    text = re.sub(r"targets = .*\nlayers = .*", 'targets = ["word_embeddings", "query"]', path.read_text())
    path.write_text(text)


def records_that_the_model_cannot_read(workspace: Path) -> None:
    path = first_site(workspace) / "patients.jsonl"
    records = [json.loads(line) | {"text": "перелом левой кости"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def records_longer_than_the_policy_wants(workspace: Path) -> None:
    with (first_site(workspace) / "policy.toml").open("a") as file:
        file.write("\n[texts]\ncut_at_most = 0.01\n")


def grid_too_coarse(workspace: Path) -> None:
    edit(workspace / "study.toml", 'mode = "distributed"', 'mode = "distributed"\ngrid = 2')


def ring_that_would_wrap(workspace: Path) -> None:
    to_local_mode(workspace)
    edit(workspace / "study.toml", "clip = 1.0", "clip = 1.0\nbound = 1024.0\nfraction_bits = 40")


def too_little_noise(workspace: Path) -> None:
    path = workspace / "study.toml"
    path.write_text(re.sub(r"noise_multiplier = .*", "noise_multiplier = 0.2", path.read_text()))


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
    (figure_of_another_strategy, "mu has no effect with strategy fedopt-adam"),
    (proximal_term_without_effect, "fedprox with local.steps = 1 is fedavg"),
    (averaging_in_distributed_mode, "fedavg averages local training"),
    (local_training_in_distributed_mode, "[algorithm.local] has no effect in distributed mode"),
    (no_local_training_in_local_mode, "add [algorithm.local]"),
    (grid_in_local_mode, "grid has no effect in local mode"),
    (another_rate_at_one_hospital, "roster.0.sampling_rate: this key is unknown"),
    (more_patients_than_the_roster_says, "patients, and the study's roster says"),
    (epsilon_out_of_range, "privacy.epsilon"),
    (delta_out_of_range, "privacy.delta"),
    (no_colluders_in_distributed_mode, "shared noise needs at least 1 colluder"),
    (no_records_per_patient, "privacy.records_per_patient"),
    (records_of_a_record, "records_per_patient has no effect"),
    (single_records_of_patients_with_several, "the study protects single records"),
    (adapter_that_no_hook_follows_in_local_mode, "Opacus cannot follow LoRA on embeddings"),
    (records_that_the_model_cannot_read, "tokens are unknown to the study's base model, and its policy allows 10.0 %"),
    (records_longer_than_the_policy_wants, "raise texts.cut_at_most"),
    (grid_too_coarse, "a grid of 2 steps in one clipping norm is too coarse"),
    (ring_that_would_wrap, "at most 60 are allowed"),
    (too_little_noise, "Set privacy.noise_multiplier to"),
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
    assert exit_code(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out), "--yes") == 2
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
    assert exit_code(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out), "--yes") == 0
    assert "accuracy" in capsys.readouterr().out
    (out / "summary.json").unlink()
    shutil.rmtree(out / "receipts")
    edit(workspace / "study.toml", 'name = "icd-chapters"', 'name = "second-study"')
    before = {path: path.read_bytes() for path in out.rglob("*.sqlite")}
    assert exit_code(monkeypatch, "run", str(workspace / "study.toml"), "--out", str(out), "--yes") == 2
    complaint = capsys.readouterr().err
    assert "privacy budget" in complaint
    assert "secfed: " in complaint
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
    assert "give --yes" in said.err
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
