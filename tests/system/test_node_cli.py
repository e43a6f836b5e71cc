"""From a key to signatures.json, as hospitals and an organiser type it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secfed.cli import main
from secfed.demo.workspace import prepare_demo
from secfed.node.home import Home
from secfed.node.store import NodeStore
from secfed.study.approvals import study_file_digest
from secfed.study.manifest import load_study
from secfed.study.signing import APPROVAL_LABEL
from tests.homes import SMALL, Hospitals, make_hospitals

POPULATION = ["--population", "patients of the clinic", "--patients", "3", "--epsilon", "8", "--delta", "1e-5"]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command as its user does: exit code, output, error output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["secfed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        return int(ending.value.code or 0), captured.out, captured.err

    return run


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "workspace"
    prepare_demo(folder, base=base, settings=SMALL)
    return folder


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Hospitals:
    return make_hospitals(tmp_path_factory.mktemp("hospitals"), base)


def records(path: Path, patients: int = 3, label: str = "no") -> Path:
    lines = [{"patient": f"p{number}", "text": "acute fracture", "label": label} for number in range(patients)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_new_node_has_a_key_of_its_own_and_allows_nothing(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("node", "init", "clinic", "--home", tmp_path / "home")
    home = Home.open(tmp_path / "home")
    assert code == 0
    assert home.identity.public.raw.hex() in out
    assert re.search(r"fingerprint +((?:[0-9a-f]{4} ){9}[0-9a-f]{4})$", out, re.MULTILINE)
    assert home.identity.public.fingerprint() in out
    assert (home.path / "identity.key").stat().st_mode & 0o777 == 0o600
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert home.identity.seed().hex() not in out
    allow = home.policy().allow
    assert (allow.base_models, allow.tasks, allow.members) == ((), (), ())


def test_a_second_node_in_the_same_folder_is_refused_and_the_key_stays(cli: Cli, tmp_path: Path) -> None:
    cli("node", "init", "clinic", "--home", tmp_path / "home")
    key = (tmp_path / "home" / "identity.key").read_bytes()
    code, _, error = cli("node", "init", "clinic", "--home", tmp_path / "home")
    assert code == 2
    assert "exists and is not empty" in error
    assert (tmp_path / "home" / "identity.key").read_bytes() == key


def test_the_home_may_be_named_by_the_environment(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECFED_HOME", str(tmp_path / "named"))
    cli("node", "init", "clinic")
    assert json.loads(cli("node", "status", "--json")[1])["name"] == "clinic"


def test_registered_data_gets_a_budget_and_every_comment_of_the_policy_stays(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    cli("node", "init", "clinic", "--home", home)
    before = (home / "policy.toml").read_text()
    code, out, _ = cli("node", "data", "add", records(tmp_path / "letters.jsonl"), *POPULATION, "--home", home)
    assert code == 0
    assert "3, with 3 records; at most 1 per patient" in out
    assert (home / "policy.toml").read_text().startswith(before.rstrip("\n"))
    budget = Home.open(home).policy().budget_of("patients of the clinic")
    assert budget is not None
    assert (budget.epsilon, budget.delta, budget.patients) == (8.0, 1e-5, 3)
    second = records(tmp_path / "notes.jsonl")
    assert cli("node", "data", "add", second, *POPULATION[:2], "--home", home)[0] == 0
    assert [each.name for each in Home.open(home).node.data] == ["letters", "notes"]
    assert len(Home.open(home).policy().budget) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": "no json\n"}, "line 1 is not JSON"),
        ({"content": ""}, "holds no record"),
        ({"content": '{"patient": "a", "text": "b"}\n'}, 'has no column "label"'),
        ({"missing": True}, "cannot be read"),
        ({"patients": 9}, "holds 9 patients, but the budget of patients of the clinic is for 3"),
        ({"options": POPULATION[:2]}, "has no budget in policy.toml yet"),
        ({"options": [*POPULATION[:-1], "0.5"]}, "invalid budget"),
        ({"options": [*POPULATION, "--name", "No Name"]}, "cannot be registered"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_that_cannot_be_registered_leaves_no_trace(
    cli: Cli, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    home, path = tmp_path / "home", tmp_path / "letters.jsonl"
    cli("node", "init", "clinic", "--home", home)
    before = {file.name: file.read_bytes() for file in home.iterdir() if file.is_file()}
    records(path, change.get("patients", 3))
    if "content" in change:
        path.write_text(change["content"])
    if "missing" in change:
        path.unlink()
    code, _, error = cli("node", "data", "add", path, *change.get("options", POPULATION), "--home", home)
    assert code == 2
    assert reason in error
    assert error.count("\n") == 1
    assert {file.name: file.read_bytes() for file in home.iterdir() if file.is_file()} == before


def test_a_second_population_needs_the_owners_word(cli: Cli, tmp_path: Path) -> None:
    home, file = tmp_path / "home", records(tmp_path / "letters.jsonl")
    cli("node", "init", "clinic", "--home", home)
    cli("node", "data", "add", file, *POPULATION, "--home", home)
    other = ["--population", "children", *POPULATION[2:], "--name", "children", "--home", home]
    code, _, error = cli("node", "data", "add", file, *other)
    assert code == 2
    assert "--disjoint" in error
    assert cli("node", "data", "add", file, *other, "--disjoint", "Another register")[0] == 0
    assert [budget.population for budget in Home.open(home).policy().budget] == ["patients of the clinic", "children"]


def test_a_patients_words_do_not_reach_the_terminal_with_control_characters(cli: Cli, tmp_path: Path) -> None:
    home = tmp_path / "home"
    cli("node", "init", "clinic", "--home", home)
    file = records(tmp_path / "letters.jsonl", label="\x1b[2J")
    _, out, _ = cli("node", "data", "add", file, *POPULATION, "--home", home)
    assert "\x1b" not in out


def test_a_hospital_approves_step_by_step_what_its_policy_refuses_at_first(
    cli: Cli, tmp_path: Path, workspace: Path
) -> None:
    """Each refusal says which line to change; changing it gets one step further."""
    home, study = tmp_path / "home", tmp_path / "study.toml"
    cli("node", "init", "harbour-clinic", "--home", home)
    loaded = load_study(workspace / "study.toml")
    entry = loaded.roster[0]
    own = Home.open(home).identity.public.raw.hex()
    study.write_text((workspace / "study.toml").read_text().replace(entry.identity, own))
    data = workspace / "sites" / entry.name / "patients.jsonl"
    figures = ["--patients", entry.patients, "--epsilon", "16", "--delta", "1e-4"]
    cli("node", "data", "add", data, "--population", "adults", *figures, "--home", home)
    approve = ["node", "approve", study, "--home", home, "--yes"]
    policy = home / "policy.toml"

    def refused(reason: str) -> str:
        code, out, error = cli(*approve)
        assert code == 2
        assert reason in error
        assert out == ""
        return error

    assert loaded.model.digest in refused("does not allow this study's base model")
    edit(policy, "base_models = []", f'base_models = ["{loaded.model.digest}"]')
    refused("does not allow this study's task")
    task = re.search(r"\[task\]\n(.*?)\n\[", study.read_text(), re.DOTALL)
    assert task is not None
    edit(policy, "tasks = []\n", "")
    policy.write_text(policy.read_text() + f"\n[[allow.tasks]]\n{task[1]}\n")
    refused("does not allow harbour-clinic (and 4 more) on a roster")
    code, shown, _ = cli("study", "show", study)
    assert code == 0
    members = re.findall(r"identity +([0-9a-f]{64})", shown)
    edit(policy, "members = []", f"members = {json.dumps(members)}")
    refused("none of 0 base models")
    (home / "models" / "minilm").symlink_to(workspace / "model")
    assert not (home / "ledger.sqlite").exists()
    code, out, _ = cli(*approve)
    assert code == 0
    assert "harbour-clinic (this node)" in out
    assert "epsilon 8 of 16 will be left to adults" in out
    assert "this is the first study approved here" in out
    assert f"{len(data.read_text().splitlines())} records, of adults" in out
    study_with_less = tmp_path / "less.toml"
    study_with_less.write_text(study.read_text().replace("max_length = 12", "max_length = 8"))
    code, out, _ = cli("node", "approve", study_with_less, "--home", home, "--yes")
    assert code == 0
    assert "model.max_length: 12 before, 8 now" in out
    assert "epsilon 0 of 16 will be left to adults" in out
    status = json.loads(cli("node", "status", "--home", home, "--json")[1])
    (budget,) = status["budgets"]
    assert (budget["granted"], budget["reserved"], budget["spent"], budget["left"]) == (16.0, 16.0, 0.0, 0.0)
    assert {each["state"] for each in status["studies"]} == {"reserved"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_approvals_of_all_hospitals_become_the_signatures_of_the_study(cli: Cli, hospitals: Hospitals) -> None:
    study, paths = hospitals.study, []
    for home in hospitals.homes:
        code, out, _ = cli("node", "approve", hospitals.study_path, "--home", home.path, "--yes", "--json")
        assert code == 0
        screen, approved = (json.loads(line) for line in out.splitlines())
        assert home.identity.public.fingerprint() in screen["text"]
        paths.append(approved["approval"])
    assert cli("study", "sign", hospitals.study_path, *paths[1:])[0] == 2
    assert not (hospitals.study_path.parent / "signatures.json").exists()
    code, out, _ = cli("study", "sign", hospitals.study_path, *paths)
    assert code == 0
    signatures = json.loads((hospitals.study_path.parent / "signatures.json").read_text())["signatures"]
    file = study_file_digest(hospitals.study_path.read_bytes())
    for entry, key in zip(study.roster, study.identities, strict=True):
        assert key.verifies(bytes.fromhex(signatures[entry.name]), APPROVAL_LABEL, study.digest, file)
    code, out, _ = cli("node", "approve", hospitals.study_path, "--home", hospitals.homes[0].path)
    assert code == 0
    assert "was approved here on" in out


def test_nobody_at_the_terminal_approves_nothing(
    cli: Cli, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospitals = make_hospitals(tmp_path, base)
    home = hospitals.homes[0]
    monkeypatch.setattr("sys.stdin", (tmp_path / "nothing").open("w+"))
    code, out, error = cli("node", "approve", hospitals.study_path, "--home", home.path)
    assert code == 2
    assert "privacy plan of icd-chapters" in out
    assert "add --yes" in error
    assert home.digests() == ()
    assert not (home.path / "ledger.sqlite").exists()


def test_a_study_that_has_not_begun_gives_its_budget_back_and_is_not_run_again(
    cli: Cli, tmp_path: Path, base: Path
) -> None:
    hospitals = make_hospitals(tmp_path, base)
    home = hospitals.homes[0]
    cli("node", "approve", hospitals.study_path, "--home", home.path, "--yes")
    digest = home.digests()[0]
    assert cli("node", "withdraw", digest.hex()[:8], "--home", home.path, "--yes")[0] == 0
    status = json.loads(cli("node", "status", "--home", home.path, "--json")[1])
    assert status["studies"][0]["state"] == "withdrawn"
    assert status["budgets"][0]["left"] == 8.0
    code, _, error = cli("node", "withdraw", digest.hex()[:8], "--home", home.path, "--yes")
    assert code == 2
    assert "was withdrawn" in error
    for none in ("", "g", "0" * 64):
        assert cli("node", "withdraw", none, "--home", home.path, "--yes")[0] == 2


def test_a_node_that_was_put_back_from_a_copy_is_held_to_the_rounds_that_others_have_seen(
    cli: Cli, tmp_path: Path, base: Path
) -> None:
    hospitals = make_hospitals(tmp_path, base)
    home = hospitals.homes[0]
    cli("node", "approve", hospitals.study_path, "--home", home.path, "--yes")
    digest = home.digests()[0]
    restored = ["node", "restored", digest.hex()[:8], "--home", home.path, "--highest-round"]
    assert cli(*restored, 2)[0] == 0
    with NodeStore(home.path / "node.sqlite") as store:
        assert (store.floor(digest), store.raised_floor(digest)) == (2, 2)
    code, _, error = cli(*restored, 1)
    assert code == 2
    assert "cannot be the highest" in error


def test_a_study_is_shown_with_what_it_costs_and_refused_where_its_noise_is_too_small(
    cli: Cli, tmp_path: Path, workspace: Path
) -> None:
    study = load_study(workspace / "study.toml")
    code, out, _ = cli("study", "show", workspace / "study.toml")
    assert code == 0
    assert f"sigma = {study.privacy.noise_multiplier:g} C nominal" in out
    assert "quorum 4, up to 1 may drop out, 1 may collude" in out
    assert f"cost          epsilon 8.00 by this program's account, with noise {study.privacy.noise_multiplier:g}" in out
    told = json.loads(cli("study", "show", workspace / "study.toml", "--json")[1])
    assert told["digest"] == study.digest.hex()
    assert told["epsilon"] <= 8.0
    assert told["fingerprints"][study.roster[0].name] == study.identities[0].fingerprint()
    less = tmp_path / "less.toml"
    less.write_text((workspace / "study.toml").read_text())
    edit(less, f"noise_multiplier = {study.privacy.noise_multiplier}", "noise_multiplier = 0.2")
    code, _, error = cli("study", "show", less)
    assert code == 2
    named = re.search(r"Set privacy.noise_multiplier to ([0-9.]+) or more", error)
    assert named is not None
    assert study.privacy.noise_multiplier <= float(named[1]) <= 1.01 * study.privacy.noise_multiplier


def test_two_studies_are_compared_in_words(cli: Cli, tmp_path: Path, workspace: Path) -> None:
    study, other = workspace / "study.toml", tmp_path / "other.toml"
    other.write_text(study.read_text() + "# words\n")
    assert cli("study", "diff", study, study)[1] == "the files are equal, byte for byte\n"
    assert cli("study", "diff", study, other)[1] == "only comments or layout differ\n"
    edit(other, "clip = 1.0", "clip = 2.0")
    assert cli("study", "diff", study, other)[1] == "privacy.clip: 1.0 before, 2.0 now\n"
    told = json.loads(cli("study", "diff", study, other, "--json")[1])
    assert told == {"differences": ["privacy.clip: 1.0 before, 2.0 now"], "same_text": False}


@pytest.mark.parametrize(
    "command",
    [
        ["node", "init"],
        ["node", "data", "add"],
        ["node", "approve"],
        ["node", "status"],
        ["node", "withdraw"],
        ["node", "restored"],
        ["node", "pause"],
        ["node", "resume"],
        ["doctor"],
        ["study", "init"],
        ["study", "roster", "add"],
        ["study", "sign"],
        ["study", "show"],
        ["study", "diff"],
    ],
    ids=" ".join,
)
def test_every_command_explains_itself_with_an_example_and_has_a_form_for_machines(
    cli: Cli, command: list[str]
) -> None:
    code, out, _ = cli(*command, "--help")
    assert code == 0
    assert f"Example: secfed {' '.join(command)}" in " ".join(out.split())
    assert "--json" in out
