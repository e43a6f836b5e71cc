"""The audit itself: real steps, real rounds, what a coalition sees of them, and the verdicts."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from audits.cli import app
from audits.privacy import report
from audits.privacy.bounds import Scores
from audits.privacy.builds import REAL, WEAKENED, Build, _no_noise
from audits.privacy.canaries import CanaryModel, canary_patients
from audits.privacy.picture import picture
from audits.privacy.report import Audit, Audited, Bounds, lower_bounds
from audits.privacy.sessions import Setting, observe
from crypto.randomness import NoiseSecret
from dp import distributed
from dp.accounting import epsilon
from dp.distributed import private_sum, record_gradients
from dp.patients import draw_patients
from protocols.parameters import CohortRules
from secfed.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Setting(canaries=60, sessions=2)
SILENT = Build("silent", "nobody adds noise", _no_noise)
runner = CliRunner()


def named(name: str) -> Build:
    return next(build for build in WEAKENED if build.name == name)


def test_a_canarys_records_have_one_coordinate_each_and_the_norm_of_the_clip() -> None:
    patients, plan = canary_patients([3, 5], 6), SMALL.plan()
    drawn = draw_patients(patients.rows, 1.0, plan.most_records, NoiseSecret(), 1)
    model = CanaryModel(SMALL.canaries, SMALL.clip)
    gradients = next(record_gradients(model, patients, drawn, plan))[: sum(len(entry.rows) for entry in drawn)]
    coordinates = [int(entry.patient.removeprefix("canary-")) for entry in drawn for _ in entry.rows]
    for coordinate, gradient in zip(coordinates, gradients, strict=True):
        expected = np.zeros(SMALL.canaries)
        if coordinate >= 0:
            expected[coordinate] = SMALL.clip
        assert gradient.tolist() == expected.tolist()


def test_without_noise_a_coalition_sees_every_canary_clipped_once() -> None:
    seen = observe(SMALL, SILENT)
    assert seen.present.size == SMALL.canaries * SMALL.sessions
    assert 0 < np.count_nonzero(seen.present) < seen.present.size
    # Rounding toward zero takes at most one step of the grid.
    assert seen.values == pytest.approx(seen.present.astype(float), abs=2.0**-19)


@pytest.mark.parametrize(
    ("name", "length"), [("doubled sensitivity", 2), ("record-level clipping", SMALL.most_records)]
)
def test_a_defect_in_clipping_makes_a_canary_longer(name: str, length: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "draw_noise", lambda secret, number, count, variance: np.zeros(count, np.int64))
    seen = observe(SMALL, named(name))
    assert seen.values == pytest.approx(length * seen.present, abs=2.0**-17)


@pytest.mark.parametrize(
    ("name", "left"), [("real", 1.0), ("halved noise", 0.5), ("missing noise share", (2 / 3) ** 0.5)]
)
def test_a_coalition_is_left_with_the_noise_that_the_theory_counts_or_with_less(name: str, left: float) -> None:
    setting = Setting(canaries=2000, sessions=1)
    seen = observe(setting, REAL if name == "real" else named(name))
    # The standard deviation of an estimate from 2000 scores is 1.6 % of it.
    assert np.std(seen.values - seen.present) == pytest.approx(left, rel=0.1)


def test_the_colluders_own_noise_is_taken_off() -> None:
    setting = Setting(canaries=2000, sessions=1)
    plan, secret = setting.plan(), NoiseSecret()
    share = private_sum(CanaryModel(2000, 1.0), canary_patients([], 6), plan, secret, 1).vector / plan.grid
    assert np.std(share) == pytest.approx(3**-0.5, rel=0.1)
    # With it a sum over t survivors would have sigma sqrt(4/3).
    assert np.std(observe(setting, SILENT).values) == pytest.approx(0.5, rel=0.1)


def test_a_defect_ends_with_its_build() -> None:
    before = (distributed.draw_noise, distributed.patient_vectors)
    for build in WEAKENED:
        with build.defect(first=True):
            assert before != (distributed.draw_noise, distributed.patient_vectors)
        assert before == (distributed.draw_noise, distributed.patient_vectors)


def test_the_theory_is_the_accountants_for_exactly_the_quorum() -> None:
    setting = Setting()
    assert (setting.quorum, setting.honest, setting.leaving, setting.colluding) == (4, (1, 2, 3), {0}, {4})
    assert setting.epsilon == pytest.approx(epsilon(1.0, 1.0, 1, 1e-5), abs=1e-6)
    assert setting.epsilon >= epsilon(1.0, 1.0, 1, 1e-5)


def test_other_rosters_work() -> None:
    rules = CohortRules(roster_size=7, colluders=2, tolerated_dropouts=2, minimum=4)
    seen = observe(Setting(rules=rules, canaries=20, sessions=1), SILENT)
    assert seen.values == pytest.approx(seen.present.astype(float), abs=2.0**-19)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict, str]:
    """One run of the whole command: exit code, table, picture."""
    path = tmp_path_factory.mktemp("audit") / "bounds.svg"
    result = runner.invoke(app, ["privacy", "--json", "--picture", str(path)])
    return result.exit_code, json.loads(result.stdout), path.read_text("utf-8")


def test_the_real_build_is_below_the_theory_and_every_defect_is_flagged(audited: tuple[int, dict, str]) -> None:
    code, table, _ = audited
    assert code == 0
    assert not table["flagged"]
    assert table["epsilon_theory"] == pytest.approx(4.377, abs=1e-3)
    assert (table["delta"], table["confidence"]) == (1e-5, 1 - 1e-6)
    assert set(table["bounds"]) == {"one_run", "f_dp", "gdp"}
    assert all(0 < bound < table["epsilon_theory"] for bound in table["bounds"].values())
    assert {each["build"]: each["flagged"] for each in table["weakened"]} == {
        "halved noise": True,
        "doubled sensitivity": True,
        "record-level clipping": True,
        "missing noise share": True,
    }


def test_a_sum_over_sampled_patients_is_below_its_theory_unless_nobody_is_left_out(
    audited: tuple[int, dict, str],
) -> None:
    _, table, _ = audited
    (sampled,) = table["sampled"]
    assert not sampled["flagged"]
    assert sampled["epsilon_theory"] == pytest.approx(epsilon(0.5, 1.0, 1, 1e-5), abs=1e-4)
    assert set(sampled["bounds"]) == {"one_run", "f_dp", "error_rates"}
    assert all(0 < bound < sampled["epsilon_theory"] for bound in sampled["bounds"].values())
    assert [(each["build"], each["flagged"]) for each in sampled["weakened"]] == [("nobody left out", True)]


def test_the_picture_says_what_the_table_says(audited: tuple[int, dict, str]) -> None:
    _, table, drawn = audited
    root = ElementTree.fromstring(drawn)  # noqa: S314
    texts = [element.text for element in root.iter() if element.text]
    (sampled,) = table["sampled"]
    assert f"theory: {table['epsilon_theory']:.2f} (everybody takes part)" in texts
    assert f"theory: {sampled['epsilon_theory']:.2f} (sampled at 0.5)" in texts
    assert f"real, f-DP: {table['bounds']['f_dp']:.2f}" in texts
    assert f"real, f-DP: {sampled['bounds']['f_dp']:.2f}" in texts
    for each in (*table["weakened"], *sampled["weakened"]):
        assert each["build"] in texts
    assert texts.count("flagged") == len(table["weakened"]) + 1
    assert texts.count("below theory") == 2


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
