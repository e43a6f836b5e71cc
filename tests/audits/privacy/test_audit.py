"""The audit itself: real nodes, real trainers, real rounds, what a coalition sees of them, and the verdicts."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dp.training
from audits.cli import app
from audits.privacy import report, sessions
from audits.privacy.bounds import Scores
from audits.privacy.builds import (
    REAL,
    UNCLIPPED,
    UNSAMPLED,
    UNSAMPLED_LOCALLY,
    WEAKENED,
    WEAKENED_LOCALLY,
    Build,
    _no_noise,
)
from audits.privacy.canaries import canary_adapter, canary_node, canary_patients
from audits.privacy.picture import picture
from audits.privacy.report import Audit, Audited, Bounds, lower_bounds
from audits.privacy.sessions import RoundsFailed, observe
from audits.privacy.settings import RECORD_SIZES, Mode, Setting
from crypto.randomness import NoiseSecret
from dp import distributed, node_update
from dp.accounting import epsilon
from dp.distributed import record_gradients
from dp.node_update import local_update
from dp.patients import draw_patients
from protocols.parameters import CohortRules
from secfed.errors import UserError
from secfed.models.training import DistributedTrainer, LocalTrainer, NodeTrainer, make_trainer
from secfed.node.node import Node
from secfed.study.account import event_of

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Setting(canaries=60, sessions=2)
LOCAL = Setting(mode=Mode.LOCAL, canaries=60, sessions=2, steps=2)
NODES = Setting(mode=Mode.UPDATE, canaries=3, sessions=10)
SILENT = Build("silent", "nobody adds noise", _no_noise)
runner = CliRunner()
WHOLE_COMMAND = pytest.mark.timeout(1200)
"""Two minutes of CPU, which a busy machine takes its time over."""


def named(name: str) -> Build:
    return next(build for build in (*WEAKENED, *WEAKENED_LOCALLY, UNCLIPPED) if build.name == name)


def test_a_canarys_records_have_one_coordinate_each_and_a_little_more_than_the_norm_of_the_clip() -> None:
    patients, plan = canary_patients([3, 5], 6), SMALL.study.mechanism.plan(1)
    drawn = draw_patients(patients.rows, 1.0, plan.most_records, NoiseSecret(), 1)
    model = canary_adapter(SMALL.canaries, RECORD_SIZES[Mode.STEP]).module
    gradients = next(record_gradients(model, patients, drawn, plan))[: sum(len(entry.rows) for entry in drawn)]
    coordinates = [int(entry.patient.removeprefix("canary-")) for entry in drawn for _ in entry.rows]
    for coordinate, gradient in zip(coordinates, gradients, strict=True):
        expected = np.zeros(SMALL.canaries)
        if coordinate >= 0:
            expected[coordinate] = SMALL.clip * (1 + 2.0**-10)
        assert gradient.tolist() == expected.tolist()


def test_a_canary_nodes_update_is_longer_than_the_clip_and_that_of_a_node_without_one_is_zero() -> None:
    model, plan = canary_adapter(3, RECORD_SIZES[Mode.UPDATE]).module, NODES.study.mechanism.plan(0)
    moved = local_update(model, canary_node([1], 6), plan, NoiseSecret(), 1)
    assert moved.tolist() == [0, pytest.approx(-1.90, abs=0.01), 0]
    assert local_update(model, canary_node([], 6), plan, NoiseSecret(), 1).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("setting", "trainer"), [(SMALL, DistributedTrainer), (NODES, NodeTrainer), (LOCAL, LocalTrainer)]
)
def test_every_round_goes_through_real_nodes_and_the_trainer_of_its_mode(setting: Setting, trainer: Any) -> None:
    made: list[Any] = []
    handled: list[int] = []
    handle = Node.handle

    def recorded(*arguments: Any) -> Any:
        made.append(make_trainer(*arguments))
        return made[-1]

    def counted(self: Node, request: bytes) -> bytes:
        handled.append(self.index)
        return handle(self, request)

    with patch.object(sessions, "make_trainer", recorded), patch.object(Node, "handle", counted):
        observe(setting, REAL)
    assert {type(each) for each in made} == {trainer}
    survivors = {*setting.honest, *setting.colluding}
    assert len(made) == len(survivors) * setting.sessions
    assert set(handled) == survivors | setting.leaving


def test_without_noise_a_coalition_sees_every_canary_clipped_once() -> None:
    seen = observe(SMALL, SILENT)
    assert seen.present.size == SMALL.canaries * SMALL.sessions
    assert 0 < np.count_nonzero(seen.present) < seen.present.size
    # Rounding toward zero takes at most one step of the grid.
    assert seen.values == pytest.approx(seen.present.astype(float), abs=2.0**-19)


def test_without_noise_a_coalition_sees_every_nodes_update_clipped_once() -> None:
    seen = observe(NODES, SILENT)
    assert 0 < np.count_nonzero(seen.present) < seen.present.size
    assert seen.values == pytest.approx(seen.present.astype(float), abs=2.0**-19)


@pytest.mark.parametrize(("name", "length"), [("real", 1), ("doubled clip", 2)])
def test_without_noise_all_others_see_every_local_step_clipped_once(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: Any) -> None:
        for parameter in self.params:
            parameter.grad = parameter.summed_grad.clone()

    monkeypatch.setattr(dp.training.NoisyOptimizer, "add_noise", silent)
    seen = observe(LOCAL, REAL if name == "real" else named(name))
    assert seen.values == pytest.approx(length * seen.present, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "length"), [("doubled sensitivity", 2), ("record-level clipping", SMALL.most_records)]
)
def test_a_defect_in_clipping_makes_a_canary_longer(name: str, length: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "draw_noise", lambda secret, number, count, variance: np.zeros(count, np.int64))
    seen = observe(SMALL, named(name))
    assert seen.values == pytest.approx(length * seen.present, abs=2.0**-17)


def test_without_the_clip_a_nodes_canary_is_as_long_as_it_came_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_update, "draw_noise", lambda secret, number, count, variance: np.zeros(count, np.int64))
    seen = observe(NODES, UNCLIPPED)
    assert seen.values == pytest.approx(1.90 * seen.present, abs=0.01)


@pytest.mark.parametrize(
    ("name", "left"), [("real", 1.0), ("halved noise", 0.5), ("missing noise share", (2 / 3) ** 0.5)]
)
def test_a_coalition_is_left_with_the_noise_that_the_theory_counts_or_with_less(name: str, left: float) -> None:
    setting = Setting(canaries=2000, sessions=1)
    seen = observe(setting, REAL if name == "real" else named(name))
    # With the colluders' own noise in it the first would be sqrt(4/3). The standard deviation of an estimate from 2000
    # scores is 1.6 % of it.
    assert np.std(seen.values - seen.present) == pytest.approx(left, rel=0.1)


@pytest.mark.parametrize(
    ("name", "left"), [("real", 1.0), ("halved sigma", 0.5), ("a step without noise", 0.5**0.5), ("doubled clip", 1.0)]
)
def test_all_others_together_leave_a_hospitals_own_noise_in_local_mode(name: str, left: float) -> None:
    """Two steps with sigma = sqrt 2 are one with sigma = 1."""
    setting = Setting(mode=Mode.LOCAL, noise_multiplier=1.4142, steps=2, canaries=2000, sessions=1)
    seen = observe(setting, REAL if name == "real" else named(name))
    clips = 2 if name == "doubled clip" else 1
    assert np.std(seen.values - clips * seen.present) == pytest.approx(left, rel=0.1)


def test_a_defect_ends_with_its_build() -> None:
    def code() -> tuple[Any, ...]:
        local = (sessions.make_trainer, dp.training.draw, dp.training.NoisyOptimizer.add_noise)
        import secfed.models.training

        return (
            distributed.draw_noise,
            distributed.patient_vectors,
            distributed.draw_patients,
            node_update.draw_noise,
            node_update.clipped_integers,
            secfed.models.training.train_locally,
            *local,
        )

    before = code()
    for build in (*WEAKENED, *WEAKENED_LOCALLY, UNSAMPLED, UNSAMPLED_LOCALLY, UNCLIPPED):
        with build.defect(first=True):
            assert before != code()
        assert before == code()


def test_the_theory_is_the_accountants_for_exactly_the_quorum() -> None:
    setting = Setting()
    assert (setting.quorum, setting.honest, setting.leaving, setting.colluding) == (4, (1, 2, 3), {0}, {4})
    assert setting.epsilon == pytest.approx(epsilon(1.0, 1.0, 1, 1e-5), abs=1e-4)
    assert setting.epsilon >= epsilon(1.0, 1.0, 1, 1e-5)


def test_the_theory_is_of_one_round_and_in_local_mode_of_all_its_steps() -> None:
    local = Setting(mode=Mode.LOCAL, noise_multiplier=1.4142, steps=2)
    assert (local.honest, local.colluding) == ((1,), {2, 3, 4})
    assert event_of(local.study).steps == 2 * local.sessions
    assert local.event.steps == 2
    assert local.epsilon == pytest.approx(epsilon(1.0, 1.4142, 2, 1e-5), abs=1e-4)
    assert local.epsilon == pytest.approx(epsilon(1.0, 1.0, 1, 1e-5), abs=1e-3)


def test_other_rosters_work() -> None:
    rules = CohortRules(roster_size=7, colluders=2, tolerated_dropouts=2, minimum=4)
    seen = observe(Setting(rules=rules, canaries=20, sessions=1), SILENT)
    assert seen.values == pytest.approx(seen.present.astype(float), abs=2.0**-19)


def test_a_round_that_gives_no_sum_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(secret: Any, number: int, count: int, variance: Any) -> np.ndarray:
        return np.full(count, 1 << 50)

    monkeypatch.setattr(distributed, "draw_noise", too_large)
    with pytest.raises(RoundsFailed, match=r"0 of 2 rounds gave a sum: .*overflow certificate"):
        observe(SMALL, REAL)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict, str]:
    """One run of the whole command: exit code, table, picture."""
    path = tmp_path_factory.mktemp("audit") / "bounds.svg"
    torch.set_num_threads(1)
    result = runner.invoke(app, ["privacy", "--json", "--picture", str(path)])
    return result.exit_code, json.loads(result.stdout), path.read_text("utf-8")


@pytest.mark.sweep
@WHOLE_COMMAND
def test_every_real_build_is_below_its_theory_and_every_defect_is_flagged(audited: tuple[int, dict, str]) -> None:
    code, table, _ = audited
    assert code == 0
    assert not table["flagged"]
    assert table["confidence"] == 1 - 1e-6
    caught = {
        (each["mode"], each["setting"]["sampling_rate"]): [weak["build"] for weak in each["weakened"]]
        for each in table["audits"]
        if all(weak["flagged"] for weak in each["weakened"])
    }
    assert caught == {
        ("distributed", 1): ["halved noise", "doubled sensitivity", "record-level clipping", "missing noise share"],
        ("distributed", 0.5): ["nobody left out"],
        ("distributed, a node as the unit", 1): ["halved noise", "clip off"],
        ("local", 1): ["halved sigma", "a step without noise", "doubled clip"],
        ("local", 0.5): ["nobody left out"],
    }
    for each in table["audits"]:
        assert each["delta"] == 1e-5
        assert all(0 < bound < each["epsilon_theory"] for bound in each["bounds"].values())


@pytest.mark.sweep
@WHOLE_COMMAND
def test_the_theories_are_those_of_one_round_and_gdp_is_bounded_where_there_is_one(
    audited: tuple[int, dict, str],
) -> None:
    _, table, _ = audited
    gaussian, sampled = epsilon(1.0, 1.0, 1, 1e-5), epsilon(0.5, 1.0, 1, 1e-5)
    expected = [gaussian, sampled, epsilon(1.0, 0.5, 1, 1e-5), epsilon(1.0, 1.4142, 2, 1e-5), sampled]
    assert [each["epsilon_theory"] for each in table["audits"]] == pytest.approx(expected, abs=1e-3)
    for each in table["audits"]:
        last = "gdp" if each["setting"]["sampling_rate"] == 1 else "error_rates"
        assert set(each["bounds"]) == {"one_run", "f_dp", last}


@pytest.mark.sweep
@WHOLE_COMMAND
def test_the_picture_says_what_the_table_says(audited: tuple[int, dict, str]) -> None:
    _, table, drawn = audited
    root = ElementTree.fromstring(drawn)  # noqa: S314
    texts = [element.text for element in root.iter() if element.text]
    weakened = [weak for each in table["audits"] for weak in each["weakened"]]
    for each in table["audits"]:
        rate = each["setting"]["sampling_rate"]
        who = each["mode"] if rate == 1 else f"{each['mode']}, sampled at {rate:g}"
        assert f"theory: {each['epsilon_theory']:.2f} ({who})" in texts
        assert f"real, f-DP: {each['bounds']['f_dp']:.2f}" in texts
    for weak in weakened:
        assert weak["build"] in texts
    assert texts.count("flagged") == len(weakened)
    assert texts.count("below theory") == len(table["audits"])


def test_a_picture_escapes_what_it_shows() -> None:
    build = Build("<script>", "an & b")
    drawn = picture([Audited(SMALL, build, Bounds(1.0, 2.0, 5.0))])
    assert "<script>" not in drawn
    assert ElementTree.fromstring(drawn) is not None  # noqa: S314


def test_a_defect_that_is_not_found_ends_the_command_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    harmless = Build("harmless", "has no defect at all")
    monkeypatch.setattr(report, "AUDITS", (Audit(SMALL, (REAL, harmless)),))
    result = runner.invoke(app, ["privacy"])
    assert result.exit_code == 1
    assert "BELOW THEORY" in result.stdout
    assert result.stdout.endswith(
        "no bound is above the theory, at confidence 1 - 1e-6; 1 builds with a defect: 0 flagged\n"
    )


def test_a_real_build_that_gives_away_too_much_ends_the_command_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = replace(SMALL, canaries=1000)
    monkeypatch.setattr(report, "AUDITS", (Audit(setting, (REAL, named("record-level clipping"))),))
    monkeypatch.setattr(distributed, "draw_noise", lambda secret, number, count, variance: np.zeros(count, np.int64))
    result = runner.invoke(app, ["privacy"])
    assert result.exit_code == 1
    assert "FLAGGED" in result.stdout
    assert "THE THEORY IS REFUTED" in result.stdout


def test_a_picture_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "AUDITS", (Audit(SMALL, (REAL,)),))
    result = runner.invoke(app, ["privacy", "--picture", str(tmp_path / "missing" / "bounds.svg")])
    assert isinstance(result.exception, UserError)
    assert "cannot be written" in str(result.exception)


def test_bounds_of_one_build_share_the_risk() -> None:
    generator = np.random.default_rng(1)
    present = generator.random(4000) < 0.5
    seen = Scores(present, present + generator.normal(size=4000))
    strict, loose = lower_bounds(seen, 1.0, 1e-5, 1e-6), lower_bounds(seen, 1.0, 1e-5, 0.05)
    assert strict.highest < loose.highest < 4.377
