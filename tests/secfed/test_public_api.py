"""From Python: a study is loaded or made, changed, written, run and verified, and no unchecked value gets into one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import secfed
from audits.simulator.studies import study_from
from secfed.errors import Problems
from secfed.study.account import check_noise, smallest_noise
from secfed.study.diff import differences
from tests.secfed.deployed import signed
from tests.secfed.study.test_kept import KEPT, MODES
from tests.secfed.study.test_plans import LOCAL_PRIVACY, LOCAL_STEPS, NODE_PRIVACY, SHARED_PRIVACY
from tests.tiny import LABELS, WORDS, make_tiny_base

LOCAL = {"strategy": "fedavg", "rounds": 3, "physical_batch": 8, "local": LOCAL_STEPS}
SHARED = {"strategy": "fedopt-sgd", "server_learning_rate": 0.5, "rounds": 3, "physical_batch": 8}
NODES = (1,) * 5
HOSPITALS = (120, 230, 310, 470, 90)


def kept(mode: str) -> secfed.Study:
    return secfed.load_study(KEPT / mode / "study.toml")


# The names.


def test_every_public_name_is_there_and_is_no_rooms_name() -> None:
    rooms = {path.stem for path in Path(secfed.__file__).parent.iterdir()}
    assert len(secfed.__all__) == len(set(secfed.__all__)) <= 15
    for name in secfed.__all__:
        assert getattr(secfed, name).__doc__
        assert name in dir(secfed)
        assert name not in rooms
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = secfed.train  # type: ignore[attr-defined]


IMPORTED = """
import sys, secfed
assert not {"torch", "pydantic", "numpy", "cbor2"} & set(sys.modules), "at import"
secfed.load_study, secfed.Study, secfed.write_study, secfed.verify_folder, secfed.UserError
assert "torch" not in sys.modules, "for a study, and to verify"
"""


def test_an_import_loads_nothing_and_studies_and_the_verifier_take_no_torch() -> None:
    found = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


# A study is changed.


def test_a_change_is_checked_as_if_it_had_been_read() -> None:
    study = kept("nodes-update")
    for change, what in (
        ({"privacy": {"epsilon": -3}}, "privacy.epsilon: "),
        ({"privacy": {"sigma": 1}}, "privacy.sigma: this key is unknown"),
        ({"privcy": {"epsilon": 3}}, "privcy: this key is unknown"),
        ({"privacy": 3}, "privacy"),
        ({"privacy": {"epsilon": "3"}}, "privacy.epsilon: "),
        ({"privacy": {"records_per_patient": 2}}, "no effect"),
        ({"algorithm": {"tau": float("nan")}}, "cannot hold"),
        ({"purpose": Path("x")}, "cannot hold"),
        ({"cohort": {"tolerated_dropouts": 4}}, "dropouts cannot be tolerated"),
        ({"roster": study.roster[:2]}, ""),
    ):
        with pytest.raises(secfed.UserError) as refused:
            study.changed(**change)
        assert what in str(refused.value)
    with pytest.raises(Problems) as several:
        study.changed(privacy={"epsilon": -3}, cohort={"colluders": -1})
    assert len(several.value.problems) == 2


def test_no_copy_takes_a_value_that_no_study_has() -> None:
    study = kept("shared-step")
    with pytest.raises(ValidationError):
        study.privacy.model_copy(update={"epsilon": -3.0})
    with pytest.raises(ValidationError):
        study.model_copy(update={"cohort": study.cohort.model_copy(update={"minimum": 2, "colluders": 2})})
    with pytest.raises(ValidationError):
        study.model_copy(update={"unheard_of": 1})
    assert study.model_copy(update={"name": "other"}).name == "other"
    assert copy.deepcopy(study) == copy.copy(study) == study.model_copy() == study


@pytest.mark.parametrize(
    ("privacy", "algorithm", "weights"),
    [
        (LOCAL_PRIVACY, LOCAL, HOSPITALS),
        ({**SHARED_PRIVACY, "unit": "record"}, SHARED, HOSPITALS),
        (NODE_PRIVACY, LOCAL, NODES),
    ],
)
def test_a_table_of_any_mode_can_be_copied_with_another_value(
    privacy: dict[str, Any], algorithm: dict[str, Any], weights: tuple[int, ...]
) -> None:
    study = study_from(signed(privacy, algorithm, weights))
    changed = study.model_copy(update={"privacy": study.privacy.model_copy(update={"clip": 0.75})})
    assert differences(study, changed) == (f"privacy.clip: {study.privacy.clip} before, 0.75 now",)


def test_another_promise_takes_the_smallest_noise_that_keeps_it() -> None:
    study = kept("nodes-update")
    stricter = study.changed(privacy={"epsilon": 3})
    assert stricter.privacy.noise_multiplier == smallest_noise(stricter) > smallest_noise(study)
    assert check_noise(stricter) <= 3
    assert {line.split(":")[0] for line in differences(study, stricter)} == {
        "privacy.epsilon",
        "privacy.noise_multiplier",
    }
    longer = study.changed(algorithm={"rounds": 6})
    assert longer.privacy.noise_multiplier == smallest_noise(longer)


def test_the_noise_stays_where_nothing_changes_that_it_depends_on_and_where_the_change_names_it() -> None:
    study = kept("nodes-update")
    same = study.changed(name="other", privacy={"clip": 0.25}, algorithm={"server_learning_rate": 0.1})
    assert same.privacy.noise_multiplier == study.privacy.noise_multiplier == 4.0
    named = study.changed(privacy={"epsilon": 3, "noise_multiplier": 5})
    assert (named.privacy.epsilon, named.privacy.noise_multiplier) == (3.0, 5.0)
    assert study.changed() == study


def test_a_promise_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(secfed.UserError, match="no noise keeps"):
        kept("nodes-update").changed(privacy={"epsilon": 0.0001}, algorithm={"rounds": 100})


def test_a_table_of_another_kind_keeps_what_both_kinds_have() -> None:
    study = kept("nodes-update")
    assert study.algorithm.strategy == "fedopt-yogi"
    plain = study.changed(algorithm={"strategy": "fedavg"})
    assert (plain.algorithm.rounds, plain.algorithm.local) == (3, study.algorithm.local)
    with pytest.raises(secfed.UserError, match="tau has no effect"):
        study.changed(algorithm={"strategy": "fedavg", "tau": 0.1})
    local = study_from(signed(LOCAL_PRIVACY, LOCAL, HOSPITALS))
    roster = [entry.model_copy(update={"patients": 1}) for entry in local.roster]
    as_nodes = {"mode": "distributed", "unit": "node", "sampling_rate": None, "noise_multiplier": 4}
    nodes = local.changed(privacy=as_nodes, roster=roster)
    assert (nodes.party, nodes.privacy.sampling_rate, nodes.weights) == ("node", 1.0, NODES)


# A study is written.


STUDIES = {
    "records": signed({**SHARED_PRIVACY, "unit": "record"}, SHARED, HOSPITALS),
    "patients": signed(SHARED_PRIVACY, SHARED, HOSPITALS),
    "local": signed(LOCAL_PRIVACY, LOCAL, HOSPITALS),
    "nodes": signed(NODE_PRIVACY, LOCAL, NODES),
}


@pytest.mark.parametrize("name", [*MODES, *STUDIES])
def test_a_study_that_was_written_loads_to_the_same_digest(tmp_path: Path, name: str) -> None:
    study = kept(name) if name in MODES else study_from(STUDIES[name])
    secfed.write_study(study, tmp_path / "study.toml")
    again = secfed.load_study(tmp_path / "study.toml")
    assert (again, again.digest) == (study, study.digest)
    secfed.write_study(again, tmp_path / "again.toml")
    assert (tmp_path / "again.toml").read_bytes() == (tmp_path / "study.toml").read_bytes()


def test_no_word_and_no_figure_is_bent_on_the_way(tmp_path: Path) -> None:
    odd = "a \"quote\", a \\ and\nlines\t\x7f \u2028 \U0001f600 ünd [[roster]] # = '''"
    study = kept("shared-step").changed(
        purpose=odd,
        task={"labels": ["ja", "ñein", "\U0001f600"], "text_column": odd},
        privacy={"delta": 1.5e-7, "clip": 123456.7890123456, "noise_multiplier": 1.0000000000000002},
        lora={"layers": None},
    )
    secfed.write_study(study, tmp_path / "study.toml")
    assert secfed.load_study(tmp_path / "study.toml").digest == study.digest


def test_a_study_that_cannot_be_written_ends_in_words(tmp_path: Path) -> None:
    study = kept("shared-step")
    with pytest.raises(secfed.UserError, match="cannot be written"):
        secfed.write_study(study, tmp_path / "nowhere" / "study.toml")
    long = study.changed(task={"labels": [f"{number:0200d}" for number in range(6000)]})
    with pytest.raises(secfed.UserError, match="larger than 1 MiB"):
        secfed.write_study(long, tmp_path / "study.toml")
    assert list(tmp_path.iterdir()) == []


# A study is made, run and verified.


def records(owner: str, count: int) -> list[tuple[str, str, str]]:
    pick = [(WORDS[number % len(WORDS)], LABELS[number % len(LABELS)]) for number in range(count)]
    return [(f"{owner}-{number}", f"pain of the {word}", label) for number, (word, label) in enumerate(pick)]


WORKSPACE: dict[str, Any] = {
    "labels": LABELS,
    "sites": {f"site-{number}": records(f"s{number}", 20 + number) for number in range(4)},
    "test": records("test", 12),
    "mode": "local",
    "algorithm": {"rounds": 2, "local": {"steps": 1}},
    "privacy": {"sampling_rate": 1},
}


class Screen:
    """A plain object."""

    def __init__(self) -> None:
        self.shown: list[secfed.Event] = []

    def show(self, event: secfed.Event) -> None:
        self.shown.append(event)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return secfed.make_workspace(folder / "study", base=make_tiny_base(folder / "base"), **WORKSPACE)


def test_a_made_study_has_the_smallest_noise_and_its_sites_know_their_own(path: Path) -> None:
    study = secfed.load_study(path)
    assert study.privacy.noise_multiplier == smallest_noise(study)
    assert [(entry.name, entry.patients) for entry in study.roster] == [
        ("site-0", 20),
        ("site-1", 20),
        ("site-2", 20),
        ("site-3", 20),
    ]
    for entry in study.roster:
        site = path.parent / "sites" / entry.name
        assert (site / "identity.key").stat().st_mode & 0o777 == 0o600
        assert {json.loads(line)["patient"] for line in (site / "patients.jsonl").read_text().splitlines()} == {
            patient for patient, *_ in WORKSPACE["sites"][entry.name]
        }


def test_a_study_that_is_made_changed_and_written_runs_before_a_plain_object_and_verifies(
    path: Path, tmp_path: Path, one_thread: None
) -> None:
    stricter = path.with_name("stricter.toml")
    secfed.write_study(secfed.load_study(path).changed(name="stricter", privacy={"epsilon": 2}), stricter)
    plan, screen = secfed.prepare(stricter, tmp_path / "run"), Screen()
    assert isinstance(plan, secfed.Plan)
    result = secfed.execute(plan, screen)
    assert isinstance(result, secfed.Result)
    closed = [event for event in screen.shown if isinstance(event, secfed.RoundClosed)]
    assert [event.round_number for event in closed] == [1, 2]
    assert closed[-1].epsilon <= 2
    assert any(isinstance(event, secfed.Note) and "privacy plan" in event.text for event in screen.shown)
    verdict = secfed.verify_folder(tmp_path / "run")
    assert isinstance(verdict, secfed.Verdict)
    assert verdict.problem is None
    damaged = tmp_path / "run" / "sums" / "0001.bin"
    damaged.write_bytes(bytes(len(damaged.read_bytes())))
    assert secfed.verify_folder(tmp_path / "run").problem is not None


def test_less_noise_than_the_promise_takes_is_refused_before_the_run(path: Path, tmp_path: Path) -> None:
    weak = path.with_name("weak.toml")
    secfed.write_study(secfed.load_study(path).changed(privacy={"noise_multiplier": 0.5}), weak)
    with pytest.raises(secfed.UserError, match="too little"):
        secfed.prepare(weak, tmp_path / "run")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"privacy": {"epsilon": -1}}, "privacy.epsilon"),
        ({"sites": {"only": records("s", 20)}}, "a study cannot have 1 sites"),
        ({"sites": {**WORKSPACE["sites"], "No Name": records("s", 20)}}, "name"),
        ({"labels": ["one", "one"]}, "labels"),
    ],
)
def test_a_study_that_cannot_be_made_leaves_nothing(tmp_path: Path, base: Path, other: Any, what: str) -> None:
    with pytest.raises(secfed.UserError, match=what):
        secfed.make_workspace(tmp_path / "study", base=base, **{**WORKSPACE, **other})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_not_written_into(tmp_path: Path, base: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(secfed.UserError, match="not empty"):
        secfed.make_workspace(tmp_path, base=base, **WORKSPACE)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]
