"""A study in distributed mode: one step of all hospitals a round, whole numbers from the clip to the model."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from audits.simulator.studies import changed, study_from
from crypto.randomness import NoiseSecret
from dp.accounting import event_epsilon
from dp.distributed import draw_noise
from dp.events import Relation, Unit
from protocols import encoding
from protocols.parameters import CohortRules
from secfed.errors import UserError
from secfed.reports.html import render_report
from secfed.reports.privacy import build_report
from secfed.rounds.run_facts import RunKind
from secfed.rounds.strategies import first_state, move, next_state
from secfed.study.account import check_noise, epsilon_by_round, event_of, noise_of, smallest_noise
from secfed.study.manifest import Study
from tests.secfed import exact
from tests.secfed.federation import ALGORITHMS, Federation, FormulaTrainer, cut, study_values
from tests.secfed.refusals import noise_named
from tests.secfed.run_folders import write_run

PRIVACY = {
    "epsilon": 8.0,
    "delta": 1e-5,
    "noise_multiplier": 0.6422,
    "sampling_rate": 0.06,
    "clip": 0.5,
}
FEDOPT = {name: figures for name, figures in ALGORITHMS.items() if name.startswith("fedopt")}


def values(name: str = "fedopt-adam", **changes: Any) -> dict[str, Any]:
    """A legal study of five nodes in distributed mode, which is what a study is that names no mode."""
    found = study_values()
    found["algorithm"] = {**ALGORITHMS[name], "rounds": 40, "physical_batch": 8}
    found["privacy"] = dict(PRIVACY)
    return changed(found, changes)


def study_of(name: str = "fedopt-adam", **changes: Any) -> Study:
    return study_from(values(name, **changes))


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        study_of(**changes)
    return str(refused.value)


def distributed_federation(folder: Path, name: str = "fedopt-adam") -> Federation:
    return Federation(
        study_of(name, algorithm={**ALGORITHMS[name], "rounds": 4}),
        folder,
        cuts=(cut(2, 2, "masked input"), cut(4, 3, "advertise")),
    )


@pytest.mark.parametrize("name", FEDOPT)
def test_all_nodes_hold_the_state_of_exact_arithmetic(name: str, tmp_path: Path) -> None:
    federation = distributed_federation(tmp_path, name)
    coordinator, records = federation.run()
    assert [len(record.survivors) for record in records] == [5, 4, 4, 5]
    assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}
    study, shape = federation.study, coordinator.chain.shape
    elements = [exact.first(ALGORITHMS[name], x) for x in FormulaTrainer.first_state().adapter.tolist()]
    for receipt, packed in federation.kept:
        total = encoding.from_ring(encoding.unpack(packed, shape), shape).tolist()
        vectors = (federation.trainers[node].trained for node in receipt.statement.survivors)
        assert all(receipt.statement.round_number in trained for trained in vectors)
        weight = sum(study.weights[node] for node in receipt.statement.survivors)
        scale = -0.5 / (float(1 << 20) * (0.06 * float(weight)))
        elements = [
            exact.step(ALGORITHMS[name], at, exact.nearest(Fraction(value) * Fraction(scale)))
            for at, value in zip(elements, total, strict=True)
        ]
    adapter = np.array([element.x for element in elements], dtype=np.float32)
    assert coordinator.chain.state.adapter.tobytes() == adapter.tobytes()


def test_the_change_is_the_negative_mean_gradient_over_the_public_expectation() -> None:
    study = study_of()
    total = np.array([1 << 20, -(1 << 21), 0], dtype=np.int64)  # 1 and -2 clipping norms
    change = study.mechanism.mean_change(total, (0, 2))
    expected = np.array([-1.0, 2.0, 0.0]) * 0.5 / (0.06 * 400)
    assert change == pytest.approx(expected, rel=1e-12)
    larger = study.mechanism.mean_change(total, (0, 1, 2, 3, 4))
    assert larger == pytest.approx(expected * 400 / 1500, rel=1e-12)
    state = first_state(study, np.zeros(3, dtype=np.float32))
    assert next_state(study, state, total, (0, 2)).adapter[0] < 0  # against the gradient


def test_a_step_plan_follows_from_the_study_and_the_roster() -> None:
    study = study_of(privacy={"records_per_patient": 2})
    plan = study.mechanism.plan(4)
    assert (plan.sampling_rate, plan.clip, plan.grid) == (0.06, 0.5, 1 << 20)
    assert (plan.most_records, plan.physical_batch) == (2, 8)
    assert plan.most_patients >= 550 * 0.06
    # t = 4 and c = 1: three shares are the nominal noise.
    assert plan.noise_variance * 3 == (Fraction("0.6422") * (1 << 20)) ** 2
    assert study.mechanism.plan(0).batches < plan.batches


def test_the_shares_are_sized_for_the_fewest_survivors_of_any_legal_round() -> None:
    for roster, colluders, dropouts, minimum, fewest in [
        (5, 1, 1, 3, 4),
        (5, 1, 1, 4, 4),
        (9, 1, 3, 6, 6),
        (9, 2, 2, 7, 7),
    ]:
        rules = CohortRules(roster, colluders, dropouts, minimum)
        legal = [rules.smallest_legal(size) for size in range(1, roster + 1) if _legal(rules, size)]
        assert min(legal) == rules.fewest_survivors == fewest


def _legal(rules: CohortRules, size: int) -> bool:
    try:
        return size >= rules.smallest_legal(size)
    except Exception:
        return False


def test_the_ring_holds_the_worst_sum_and_a_node_the_worst_input() -> None:
    study = study_of()
    most = max(study.mechanism.plan(node).most_patients for node in range(5))
    assert study.mechanism.largest_input == most << 20
    certificate = study.overflow_certificate
    assert certificate.worst_sum == 5 * study.magnitude < 2 ** (certificate.ring_bits - 1)
    assert 2 ** (certificate.ring_bits - 2) <= certificate.worst_sum
    assert study.magnitude == study.mechanism.largest_input + study.mechanism.noise_tail


def test_the_noise_stays_far_below_its_tail_bound() -> None:
    study = study_of()
    variance = study.mechanism.plan(0).noise_variance
    drawn = draw_noise(NoiseSecret(bytes), 1, 200_000, variance)
    assert int(np.abs(drawn).max()) < study.mechanism.noise_tail
    assert study.mechanism.noise_tail < 20 * float(variance) ** 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"algorithm": {**ALGORITHMS["fedavg"], "rounds": 4, "local": {"steps": 1, "learning_rate": 0.1}}}, "averages"),
        ({"algorithm": {"local": {"steps": 1, "learning_rate": 0.1}}}, "no effect in distributed mode"),
        ({"cohort": {"colluders": 0}}, "at least 1 colluder"),
        ({"privacy": {"records_per_patient": 0}}, "records_per_patient"),
        ({"privacy": {"grid": 1}}, "grid"),
        ({"privacy": {"grid": 1 << 27}}, "grid"),
        ({"privacy": {"noise_multiplier": 0.01}}, "noise_multiplier"),
        ({"privacy": {"bound": 0.25}}, "bound has no effect in distributed mode"),
        ({"privacy": {"unit": "family"}}, "unit"),
        ({"privacy": {"unit": "record", "records_per_patient": 2}}, "records_per_patient has no effect"),
        ({"privacy": {"mode": "central"}}, "mode must be one of local, distributed"),
        ({"privacy": {"delta": 0.001}}, "above 1/(10 N)"),
    ],
)
def test_what_no_such_study_says_is_refused(changes: dict[str, Any], said: str) -> None:
    if "averages" in said:
        found = values()
        found["algorithm"] = changes["algorithm"]
        with pytest.raises(ValidationError, match=said):
            study_from(found)
    else:
        assert said in refusal(**changes)


def test_every_figure_is_part_of_what_is_signed() -> None:
    digests = {study_of().digest}
    for change in (
        {"noise_multiplier": 0.6423},
        {"records_per_patient": 3},
        {"grid": 1 << 19},
        {"clip": 0.25},
        {"unit": "record"},
    ):
        digests.add(study_of(privacy=change).digest)
    assert len(digests) == 6
    assert study_of(privacy={"mode": "distributed", "records_per_patient": 4}).digest == study_of().digest


def test_the_account_is_that_of_the_nominal_noise_with_what_the_machine_adds() -> None:
    noise = smallest_noise(study_of(algorithm={"rounds": 4}))
    study = study_of(algorithm={"rounds": 4}, privacy={"noise_multiplier": noise})
    found = check_noise(study)
    assert 7.99 < found <= 8.0
    assert found == event_epsilon(event_of(study), 1e-5, noise_of(study)) == epsilon_by_round(study)[-1]
    assert event_of(study_of(privacy={"unit": "record"})).unit is Unit.RECORD
    less = study_of(algorithm={"rounds": 4}, privacy={"noise_multiplier": round(noise - 1e-4, 4)})
    with pytest.raises(UserError, match=r"Set privacy.noise_multiplier to [0-9.]+ or more") as refused:
        check_noise(less)
    assert noise <= noise_named(refused.value) < 1.01 * noise


def test_epsilon_never_falls_and_long_studies_are_counted_in_strides_that_err_high() -> None:
    short = epsilon_by_round(study_of(algorithm={"rounds": 6}))
    assert list(short) == sorted(short)
    assert len(short) == 6
    study = study_of(algorithm={"rounds": 44}, privacy={"noise_multiplier": 2.0})
    long = epsilon_by_round(study)
    assert len(long) == 44
    assert list(long) == sorted(long)
    for number in (1, 25, 44):
        exactly = event_epsilon(
            event_of(study_of(algorithm={"rounds": number}, privacy={"noise_multiplier": 2.0})), 1e-5
        )
        assert long[number - 1] >= exactly
    assert long[-1] == event_epsilon(event_of(study), 1e-5, noise_of(study))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("distributed")
    algorithm = {**ALGORITHMS["fedopt-adam"], "rounds": 4, "local": None}
    privacy = {**PRIVACY, "mode": "distributed", "noise_multiplier": 1.0}
    write_run(folder / "out", folder / "work", (cut(2, 2, "masked input"),), algorithm=algorithm, privacy=privacy)
    return dict(json.loads((folder / "out" / "report.json").read_text()))


def test_the_report_shows_epsilon_against_the_number_of_nodes_that_fail(report: dict[str, Any]) -> None:
    rows = report["risk"]["failing_nodes"]
    assert [row["failing"] for row in rows] == [0, 1, 2, 3, 4]
    assert rows[1]["epsilon"] == report["guarantee"]["epsilon_accounted"]
    assert rows[0]["epsilon"] < rows[1]["epsilon"] < rows[2]["epsilon"] < rows[3]["epsilon"]
    assert rows[4]["epsilon"] is None
    page = render_report(report)
    assert "no limit" in page
    assert "discrete Gaussian" in page


def test_the_report_says_what_each_rounds_noise_came_to_and_uses_it_nowhere(report: dict[str, Any]) -> None:
    as_run = report["noise_as_run"]["noise_multipliers"]
    assert "no figure of this report uses it" in report["noise_as_run"]["holds"]
    assert as_run == pytest.approx([(4 / 3) ** 0.5, 1.0, (4 / 3) ** 0.5, (4 / 3) ** 0.5])
    tree = json.dumps({name: report[name] for name in ("guarantee", "accounting")})
    assert str(as_run[0]) not in tree


def test_a_deployed_run_names_its_adversary_and_how_many_may_fail() -> None:
    from tests.secfed.reports.test_reports import _summary

    study = study_of(algorithm={"rounds": 4}, privacy={"noise_multiplier": 1.0})
    found = build_report(study, _summary(study, RunKind.FEDERATION))
    assert "as long as no more than one site works against the others" in found["guarantee"]["against"]
    assumed = [row["statement"] for row in found["accounting"]["rests_on"] if row["vouched_by"] == "assumed"]
    assert any("leaks or leaves out noise" in text for text in assumed)
    assert found["accounting"]["delta_terms"]
    assert "simulation" not in json.dumps(found["guarantee"])


@pytest.mark.sweep
def test_replacing_a_patient_and_being_at_two_hospitals_are_told_at_this_modes_price() -> None:
    study = study_of(algorithm={"rounds": 4}, privacy={"noise_multiplier": 1.0})
    from secfed.reports.risk import Training, assess

    risk = assess(Training(event_of(study), 1e-5, noise_of(study)))
    event = event_of(study)
    assert risk.epsilon_replace_one == event_epsilon(event, 1e-5, noise_of(study), Relation.REPLACE)
    assert dict(risk.epsilon_at_hospitals)[2] == event_epsilon(event.at_summed_hospitals(2), 1e-5, noise_of(study))


# Adam without privacy's noise in its second moment.


def corrected(**changes: float) -> Study:
    return study_of(
        algorithm={"strategy": "fedopt-adambc", "server_learning_rate": 1.0, "floor": 1e-4, **changes},
        privacy={"noise_multiplier": 2.0, "sampling_rate": 0.0125, "clip": 0.5},
    )


def test_the_noise_of_a_mean_gradient_is_public_and_grows_with_the_survivors() -> None:
    study = corrected()
    # Nodes 0, 2 and 3 have 800 patients, so that q N = 10; three shares are the nominal noise: (2 * 0.5 / 10)^2.
    assert study.mechanism.noise_variance((0, 2, 3)) == pytest.approx(0.01, rel=1e-15)
    everybody = study.mechanism.noise_variance(range(5))
    assert everybody == pytest.approx((2 * 0.5 / (0.0125 * 1500)) ** 2 * 5 / 3, rel=1e-15)


def test_two_steps_of_the_corrected_adam_are_those_computed_by_hand() -> None:
    study = corrected(beta1=0.9, beta2=0.99)
    state = first_state(study, np.zeros(2, dtype=np.float32))
    assert [moment.tolist() for moment in state.moments] == [[0.0, 0.0], [0.0, 0.0]]
    state = move(study.algorithm, state, np.array([0.3, 0.05]), 0.01)
    m, v = state.moments
    assert m == pytest.approx([0.03, 0.005])
    assert v == pytest.approx([0.0008, -0.000075])  # where D is all noise, v may be below zero
    assert state.adapter == pytest.approx([1.0606601717798212, 0.5], rel=1e-6)
    before = state.adapter.astype(np.float64)
    state = move(study.algorithm, state, np.array([0.1, -0.2]), 0.01)
    m, v = state.moments
    assert m == pytest.approx([0.037, -0.0155])
    assert v == pytest.approx([0.000792, 0.00022575])
    assert state.adapter - before == pytest.approx([1.3147377508595977, -1.0316154047415687], rel=1e-6)


def test_the_corrected_adam_sees_through_noise_that_plain_adam_takes_for_curvature(tmp_path: Path) -> None:
    """Two coordinates with gradients far apart, both below the noise: only one of the two tells them apart."""
    study = corrected(beta1=0.9, beta2=0.99, floor=1e-5)
    plain = study_of(algorithm={"server_learning_rate": 1.0})
    signal, deviation = np.array([0.1, 0.01]), 0.3
    generator = np.random.default_rng(5)
    state, other = first_state(study, np.zeros(2, np.float32)), first_state(plain, np.zeros(2, np.float32))
    for _ in range(4000):
        change = signal + generator.normal(0, deviation, 2)
        state = move(study.algorithm, state, change, deviation**2)
        other = move(plain.algorithm, other, change)
    noise = deviation**2
    assert other.moments[1] == pytest.approx(signal**2 + noise, rel=0.5)  # all of it noise
    assert abs(state.moments[1][0] - signal[0] ** 2) < noise / 3
    assert state.moments[1][1] < noise / 3


def test_a_federation_under_the_corrected_adam_holds_one_state(tmp_path: Path) -> None:
    figures = {"strategy": "fedopt-adambc", "server_learning_rate": 0.05, "floor": 1e-6}
    federation = Federation(study_of(algorithm={**figures, "rounds": 3}), tmp_path, cuts=(cut(2, 2, "masked input"),))
    coordinator, records = federation.run()
    assert [record.void for record in records] == [False] * 3
    assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}


def test_the_corrected_adam_is_refused_in_local_mode() -> None:
    found = study_values(algorithm={"strategy": "fedopt-adambc", "server_learning_rate": 0.1, "floor": 1e-6})
    with pytest.raises(ValidationError, match="use fedopt-adam"):
        study_from(found)


# What a study may not ask of a node.


def test_noise_that_the_sampler_cannot_draw_is_refused_with_the_study() -> None:
    said = refusal(privacy={"grid": 1 << 26, "noise_multiplier": 200.0, "sampling_rate": 1.0})
    assert "the sampler supports 0.0625 to 1.84e+19: choose another privacy.grid" in said


def test_a_rate_below_every_coin_is_refused() -> None:
    assert "sampling_rate" in refusal(privacy={"sampling_rate": 1e-310})
