"""One class for each mode: a study has one mechanism, and whoever asks it needs not know which."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import secfed
from audits.simulator.studies import study_from
from dp.delta_terms import LocalNoise
from dp.events import Unit
from dp.step_plan import LocalPlan, NodePlan, StepPlan
from secfed.models.trainers import progress_steps
from secfed.reports.privacy import build_report
from secfed.reports.risk import Training, assess
from secfed.rounds.chain import Chain
from secfed.rounds.run_facts import RunKind, against_in_short
from secfed.rounds.strategies import first_state, next_state
from secfed.study import mechanisms
from secfed.study.account import check_noise, event_of, noise_of
from secfed.study.manifest import Study
from secfed.study.mechanisms import MECHANISMS
from secfed.study.mechanisms.local_steps import LocalSteps
from secfed.study.mechanisms.node_update import NodeUpdate
from secfed.study.mechanisms.shared_step import SharedStep
from secfed.study.privacy import PrivacyTable
from secfed.study.text import how_it_is_kept, study_text
from tests.secfed.deployed import signed
from tests.secfed.reports.test_reports import _summary
from tests.secfed.study.test_plans import LOCAL_PRIVACY, LOCAL_STEPS, NODE_PRIVACY, SHARED_PRIVACY

FEDOPT = {"strategy": "fedopt-sgd", "server_learning_rate": 0.5, "rounds": 3, "physical_batch": 8}
LOCAL = {"strategy": "fedavg", "rounds": 3, "physical_batch": 8, "local": LOCAL_STEPS}
ALL = {
    "local": (LOCAL_PRIVACY, LOCAL, LocalSteps, LocalPlan),
    "patients": (SHARED_PRIVACY, FEDOPT, SharedStep, StepPlan),
    "records": ({**SHARED_PRIVACY, "unit": "record"}, FEDOPT, SharedStep, StepPlan),
    "nodes": (NODE_PRIVACY, LOCAL, NodeUpdate, NodePlan),
}


def study_of(name: str) -> Study:
    privacy, algorithm, *_ = ALL[name]
    return study_from(signed(privacy, algorithm, (1,) * 5 if name == "nodes" else (120, 230, 310, 470, 90)))


@pytest.mark.parametrize("name", ALL)
def test_every_study_has_one_mechanism_and_its_plans_are_of_one_type(name: str) -> None:
    study, (*_, kind, plan) = study_of(name), ALL[name]
    assert type(study.mechanism) is kind
    assert [each for each in MECHANISMS if each.takes(study.privacy)] == [kind]
    assert {type(study.mechanism.plan(index)) for index in range(5)} == {plan}


@pytest.mark.parametrize("name", ALL)
def test_every_mechanism_answers_whatever_it_is_asked(name: str) -> None:
    """No member is one that a mode has not: none raises, and none is for callers who know the mode."""
    mechanism = study_of(name).mechanism
    asked = {
        "check_fits": [study_of(name).algorithm],
        "check_size": ["hospital-0", {str(number): [0] for number in range(120)}],
        "plan": [0],
        "progress_steps": [0],
        "upload": [np.zeros(3, np.float32 if name == "local" else np.int64), 0],
        "mean_change": [np.zeros(3, np.int64), (0, 1, 2, 3)],
        "noise_variance": [(0, 1, 2, 3)],
        "noise_as_run": [4],
        "clip_rows": [None],
        "delta_rows": [mechanism.noise.delta_terms(mechanism.event, mechanism.privacy.noise_multiplier, 7.0)],
        "for_a_change": ["1", "2"],
        "against": ["not counting durations"],
        "people_not_covered": [assess(Training(mechanism.event, 3e-6))],
        "most_moved": [4],
        "batches_row": [{1, 2}],
        "takes": [mechanism.privacy],
    }
    interface = [member for member in dir(mechanisms.Mechanism) if not member.startswith("_")]
    for member in interface:
        found = getattr(mechanism, member)
        if callable(found) and member != "table":
            found(*asked.get(member, []))
    assert set(asked) <= set(interface)


def test_a_changed_copy_is_kept_private_by_its_own_figures() -> None:
    study = study_of("patients")
    before = study.digest, study.mechanism.share_variance
    changed = study.changed(privacy={"noise_multiplier": 2 * study.privacy.noise_multiplier})
    assert changed.mechanism.study is changed
    assert changed.mechanism.share_variance == 4 * before[1]
    assert changed.digest != before[0] == study.digest
    assert copy.deepcopy(study) == study


ASKED = re.compile(
    r"isinstance\((?:\w+\.)*(?:privacy|mechanism)\b|LocalPrivacy|DistributedPrivacy|protects is|Unit\.(?:NODE|RECORD)|"
    r"LocalSteps|SharedStep|NodeUpdate"
)


def test_nobody_but_the_mechanisms_asks_in_which_mode_a_study_is() -> None:
    """`dp` has events of its own, and `reports.risk` is about those; the tables say what a study's text may."""
    package = Path(secfed.__file__).parent
    asks = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if "study/mechanisms" not in path.as_posix() and ASKED.search(path.read_text(encoding="utf-8"))
    }
    assert asks == {"study/privacy.py", "reports/risk.py"}


# A fourth mode: what follows is what its one file would hold, and its line in the list.


class PublicStepsPrivacy(PrivacyTable):
    """Every patient is in every step, so that there is no coin."""

    mode: Literal["everybody"] = "everybody"
    per_step: int

    @property
    def protects(self) -> Unit:
        return Unit.PATIENT


class EverybodysSteps(mechanisms.Mechanism[PublicStepsPrivacy]):
    """Plain steps over all patients, in whole numbers of a grid of its own, with all the noise at each hospital."""

    table = PublicStepsPrivacy
    units = frozenset({Unit.PATIENT})
    party = "clinic"

    def check_fits(self, algorithm: Any) -> None:
        if algorithm.local is None:
            raise ValueError("everybody's steps need [algorithm.local]")

    @property
    def steps_per_round(self) -> int:
        return self.privacy.per_step

    def plan(self, index: int, clip: float | None = None) -> LocalPlan:
        return LocalPlan(
            steps=self.privacy.per_step,
            sampling_rate=1.0,
            nominal_patients=self.study.roster[index].patients,
            clip=self.privacy.clip,
            noise_multiplier=self.privacy.noise_multiplier,
            learning_rate=0.125,
            optimizer="sgd",
            physical_batch=4,
            batches=self.study.roster[index].patients_band[1],
        )

    def progress_steps(self, index: int) -> int:
        return self.steps_per_round

    def upload(self, trained: Any, index: int) -> Any:
        return np.rint(trained * 1024).astype(np.int64)

    @property
    def largest_input(self) -> int:
        return 4096

    def mean_change(self, total: Any, survivors: Any, clip: float | None = None) -> Any:
        return total / (1024.0 * len(survivors))

    @property
    def noise(self) -> LocalNoise:
        return LocalNoise(0.0)

    @property
    def against_in_short(self) -> str:
        return "against everybody but the own clinic"

    @property
    def noise_in_short(self) -> str:
        return "plenty at every clinic"

    def parameter_rows(self) -> Any:
        return [("Steps of everybody", "T", f"{self.study.steps}", "nobody is left out")]

    def strategy_meaning(self) -> str:
        return "updates are averaged, all alike"

    def no_wrap(self) -> tuple[str, str]:
        return "The sum cannot wrap", f"{len(self.study.roster)} clinics × 4096"

    @property
    def sampler(self) -> str:
        return "made up"

    def delta_rows(self, terms: Any) -> list[tuple[str, float]]:
        return []

    def against(self, durations: str) -> tuple[str, str]:
        return f"everybody but the own clinic; {durations}", "All the noise is at each clinic."

    def rests_on_code(self) -> Any:
        return []

    def most_moved(self, parties: int) -> str:
        return f"One clinic moves a {parties}th."


@pytest.fixture
def fourth(monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study in that mode. Its line in the list is made here, and the class of studies anew, as an import makes it."""
    monkeypatch.setattr(mechanisms, "MECHANISMS", (*MECHANISMS, EverybodysSteps))

    class StudyOfFour(Study):
        privacy: mechanisms.tables((*MECHANISMS, EverybodysSteps))  # type: ignore[valid-type]

    table = {
        "mode": "everybody",
        "epsilon": 7.0,
        "delta": 3e-6,
        "noise_multiplier": 20.0,
        "sampling_rate": 1.0,
        "clip": 0.5,
        "per_step": 6,
    }
    return StudyOfFour.model_validate_json(json.dumps(signed(table, LOCAL, (120, 230, 310, 470, 90))))


def test_a_fourth_mode_is_one_file_from_the_study_to_the_report(fourth: Study) -> None:
    study = fourth
    assert type(study.mechanism) is EverybodysSteps
    assert (study.party, study.steps, progress_steps(study, 0)) == ("clinic", 18, 6)
    assert (study.magnitude, study.overflow_certificate.ring_bits) == (4096, 16)
    # What it costs, and where the model goes.
    assert event_of(study).steps == 18
    assert noise_of(study) == LocalNoise(0.0)
    assert 0.5 < check_noise(study) < 7
    start = first_state(study, np.zeros(3, np.float32))
    uploads = [study.mechanism.upload(np.array([0.5, -1.0, 0.0]), index) for index in range(4)]
    moved = next_state(study, start, np.sum(uploads, axis=0), (0, 1, 2, 3))
    assert moved.adapter.tolist() == [0.5, -1.0, 0.0]
    assert Chain(study, (("a", (3,)),), start).shape.dimension == 3
    # What people read.
    assert "everybody mode" in study_text(study)
    assert dict(how_it_is_kept(study, 1))["noise"] == "plenty at every clinic"
    assert against_in_short(study, RunKind.FEDERATION) == "against everybody but the own clinic"
    report = build_report(study, _summary(study, RunKind.FEDERATION))
    assert report["guarantee"]["against"].startswith("everybody but the own clinic; not counting what durations show")
    assert report["parties"]["called"] == "clinic"
    assert "5 clinics × 4096 = 20480 is below 2^15" in report["overflow_certificate"]["sentence"]
    assert [row["value"] for row in report["parameters"] if row["name"] == "Steps of everybody"] == ["18"]
    assert report["accounting"]["sampler"] == "made up"
    limits = {row["what"]: row["why"] for row in report["not_protected"]}
    assert limits["The quality of the model"].endswith("One clinic moves a 4th.")
