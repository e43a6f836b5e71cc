"""A study whose nodes are one unit of privacy each: what it may say, how the model moves, what it costs."""

from __future__ import annotations

import json
import logging
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from audits.simulator.studies import changed, study_from
from crypto.randomness import NoiseSecret
from dp.distributed import draw_noise
from dp.events import Relation, Unit
from dp.guards import Verdict
from dp.node_update import local_update
from dp.patients import square_sum
from protocols import encoding
from secfed.errors import UserError
from secfed.models.model import AdapterModel
from secfed.models.training import NodeTrainer, check_training, make_trainer
from secfed.node.keys import write_identity
from secfed.node.sites import Site, read_site
from secfed.rounds.strategies import ModelState, first_state, next_state
from secfed.study.account import check_noise, epsilon_by_round, event_of, noise_of, smallest_noise
from secfed.study.base import ModelError
from secfed.study.manifest import Study
from tests.dp.guarded import adapted
from tests.secfed import exact
from tests.secfed.federation import ALGORITHMS, BASE_DIGEST, Federation, FormulaTrainer, cut, identities, study_values
from tests.secfed.refusals import noise_named
from tests.tiny import LABELS, LENGTH, LORA, classifying, make_tiny_model, make_tiny_patients

pytestmark = pytest.mark.usefixtures("one_thread")

LOCAL = {"steps": 6, "optimizer": "sgd", "learning_rate": 0.05}
PRIVACY = {"unit": "node", "epsilon": 8.0, "delta": 1e-5, "noise_multiplier": 20.0, "clip": 0.5}
EVERY = {**ALGORITHMS, "fedopt-adambc": {"strategy": "fedopt-adambc", "server_learning_rate": 0.05, "floor": 1e-6}}


def roster(count: int = 5, patients: int = 1) -> list[dict[str, Any]]:
    keys = identities(count)
    return [
        {"name": f"hospital-{node}", "identity": key.public.raw.hex(), "patients": patients}
        for node, key in enumerate(keys)
    ]


def values(name: str = "fedavg", **changes: Any) -> dict[str, Any]:
    """A legal study of five households; `changes` are merged into its sections."""
    found = study_values(roster=roster())
    found["algorithm"] = {**EVERY[name], "rounds": 100, "physical_batch": 8, "local": LOCAL}
    found["privacy"] = dict(PRIVACY)
    return changed(found, changes)


def study_of(name: str = "fedavg", **changes: Any) -> Study:
    return study_from(values(name, **changes))


# What it may say.


@pytest.mark.parametrize("name", EVERY)
def test_every_strategy_may_average_what_nodes_have_trained(name: str) -> None:
    study = study_of(name)
    assert study.privacy.protects is Unit.NODE
    assert (study.steps, study.steps_per_round, study.party) == (100, 1, "node")
    assert study.privacy.sampling_rate == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"privacy": {"sampling_rate": 0.5}}, "cannot hide that it takes part"),
        ({"privacy": {"sampling_rate": True}}, "valid number"),
        ({"privacy": {"records_per_patient": 1}}, 'records_per_patient has no effect with unit = "node"'),
        ({"privacy": {"delta": 0.021}}, "above 1/(10 N) for N = 5, the nodes of the whole roster together"),
        ({"roster": roster(patients=2)}, "patients must be 1 for each, but hospital-0 has 2"),
        ({"cohort": {"colluders": 0}}, "at least 1 colluder"),
        ({"privacy": {"bound": 0.25}}, "bound has no effect in distributed mode"),
    ],
)
def test_what_no_such_study_says_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        study_of(**changes)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", EVERY)
def test_a_study_of_nodes_without_local_training_is_refused(name: str) -> None:
    found = values(name)
    del found["algorithm"]["local"]
    with pytest.raises(ValidationError, match=r"add \[algorithm.local\]|local\n  Field required"):
        study_from(found)


def test_the_largest_delta_is_that_of_so_many_nodes() -> None:
    assert study_of(privacy={"delta": 0.02}).privacy.delta == 0.02
    with pytest.raises(ValidationError, match=r"at most 0.014"):
        study_of(privacy={"delta": 0.02}, roster=roster(7))


def test_a_rate_that_is_left_out_is_signed_as_one() -> None:
    digest = study_of().digest
    assert study_of(privacy={"sampling_rate": 1}).digest == study_of(privacy={"sampling_rate": 1.0}).digest == digest
    others = {
        study_of(**change).digest for change in ({"algorithm": {"local": {**LOCAL, "steps": 7}}}, {"purpose": ""})
    }
    assert len({digest, *others}) == 3


def test_a_node_has_as_many_records_as_it_has(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_identity(source / "identity.key", identities(5)[0])
    (source / "policy.toml").write_text(
        '[cohort]\nminimum = 3\n[budget]\npopulation = "home"\npatients = 1\nepsilon = 8.0\ndelta = 1e-5\n'
        f'[allow]\nbase_models = ["{BASE_DIGEST}"]\n'
    )

    def read(*people: str) -> Site:
        lines = (json.dumps({"patient": name, "text": "words", "label": "no"}) + "\n" for name in people)
        (source / "patients.jsonl").write_text("".join(lines))
        return read_site(study_of(), "hospital-0", source, tmp_path / "records")

    for people in (("home",), ("home",) * 500, ("anna", "ben", "anna")):
        assert sum(len(own) for own in read(*people).patients.values()) == len(people)
    with pytest.raises(UserError, match="holds no record"):
        read()


# How the model moves.


def test_the_plan_of_a_round_follows_from_the_study() -> None:
    plan = study_of("fedprox").mechanism.plan(0)
    assert (plan.steps, plan.optimizer, plan.learning_rate, plan.physical_batch) == (6, "sgd", 0.05, 8)
    assert (plan.clip, plan.grid, plan.indicator, plan.proximal_mu) == (0.5, 1 << 20, 0, 0.1)
    assert study_of().mechanism.plan(0).proximal_mu == 0
    assert study_of().mechanism.plan(0, 0.25).clip == 0.25
    # t = 4 and c = 1: three shares are the nominal noise.
    assert plan.noise_variance * 3 == (Fraction(20) * (1 << 20)) ** 2


def test_the_change_is_the_mean_update_of_the_survivors_and_goes_its_way() -> None:
    study = study_of()
    total = np.array([3 << 20, -(1 << 20), 0], dtype=np.int64)  # 3 and -1 clipping norms
    change = study.mechanism.mean_change(total, (0, 2, 3, 4))
    assert change.tolist() == [3 * 0.5 / 4, -0.5 / 4, 0.0]
    assert study.mechanism.mean_change(total, range(5)) == pytest.approx(np.array([0.3, -0.1, 0.0]), rel=1e-15)
    state = first_state(study, np.zeros(3, dtype=np.float32))
    assert next_state(study, state, total, (0, 2, 3, 4)).adapter.tolist() == [0.375, -0.125, 0.0]


def test_the_noise_of_a_mean_update_is_public() -> None:
    study = study_of("fedopt-adambc", privacy={"noise_multiplier": 2.0})
    # sigma^2 C^2 |U3| / ((t - c) |U3|^2) with sigma = 2, C = 1/2 and t - c = 3.
    assert study.mechanism.noise_variance((0, 2, 3, 4)) == pytest.approx(1 / 12, rel=1e-15)
    assert study.mechanism.noise_variance(range(5)) == pytest.approx(1 / 15, rel=1e-15)
    shares = [draw_noise(NoiseSecret(bytes), node, 50_000, study.mechanism.share_variance) for node in range(4)]
    drawn = study.mechanism.mean_change(np.sum(shares, axis=0), (0, 2, 3, 4))
    assert float(drawn.var()) == pytest.approx(1 / 12, rel=0.03)


@pytest.mark.parametrize("name", EVERY)
def test_all_nodes_hold_the_state_of_exact_arithmetic(name: str, tmp_path: Path) -> None:
    study = study_of(name, algorithm={"rounds": 4})
    federation = Federation(study, tmp_path, cuts=(cut(2, 2, "masked input"), cut(4, 3, "advertise")))
    coordinator, records = federation.run()
    assert [len(record.survivors) for record in records] == [5, 4, 4, 5]
    assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}
    if name == "fedopt-adambc":
        return  # exact arithmetic has no column for it; its formula is tested with patients
    shape = coordinator.chain.shape
    elements = [exact.first(EVERY[name], x) for x in FormulaTrainer.first_state().adapter.tolist()]
    for receipt, packed in federation.kept:
        total = encoding.from_ring(encoding.unpack(packed, shape), shape).tolist()
        scale = 0.5 / (float(1 << 20) * float(len(receipt.statement.survivors)))
        elements = [
            exact.step(EVERY[name], at, exact.nearest(Fraction(value) * Fraction(scale)))
            for at, value in zip(elements, total, strict=True)
        ]
    adapter = np.array([element.x for element in elements], dtype=np.float32)
    assert coordinator.chain.state.adapter.tobytes() == adapter.tobytes()


def test_the_ring_holds_one_clipped_vector_and_noise_of_every_node() -> None:
    study = study_of()
    assert study.mechanism.largest_input == 1 << 20
    assert study.magnitude == (1 << 20) + study.mechanism.noise_tail
    certificate = study.overflow_certificate
    assert certificate.worst_sum == 5 * study.magnitude < 2 ** (certificate.ring_bits - 1) <= 2 * certificate.worst_sum


def test_where_the_clip_adapts_it_follows_the_lengths_of_updates(tmp_path: Path) -> None:
    study = study_of(algorithm={"rounds": 4}, privacy={"adaptive_clip": {"quantile": 0.5, "learning_rate": 1.0}})
    assert study.mechanism.plan(0).indicator == study.mechanism.plan(0).grid // 10
    state = first_state(study, np.zeros(3, dtype=np.float32))
    assert state.clip == 0.5
    all_short = np.array([0, 0, 0, 4 * study.mechanism.plan(0).indicator])
    assert next_state(study, state, all_short, (0, 2, 3, 4)).clip == pytest.approx(0.5 * np.exp(-0.5))
    assert next_state(study, state, -all_short, (0, 2, 3, 4)).clip == pytest.approx(0.5 * np.exp(0.5))
    federation = Federation(study, tmp_path)
    coordinator, _ = federation.run()
    assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}


# Training.


def trainer_of(base: Path, study: Study, index: int = 0) -> NodeTrainer:
    model = make_tiny_model(base)
    trainer = make_trainer(study, index, model, ModelState(model.get_state()), make_tiny_patients(6))
    assert isinstance(trainer, NodeTrainer)
    return trainer


def test_a_trainer_uploads_its_clipped_update_and_a_share_of_noise(base: Path) -> None:
    study = study_of(privacy={"clip": 0.01}, algorithm={"local": {**LOCAL, "optimizer": "adam"}})
    trainer, steps = trainer_of(base, study), []
    state, secret = first_state(study, trainer.first_state().adapter), NoiseSecret(bytes)
    vector = trainer.contribute(state, 1, secret, steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert trainer.model.get_state().tobytes() == state.adapter.tobytes()
    assert np.abs(vector).max() <= study.magnitude
    update = vector - draw_noise(secret, 1, vector.size, study.mechanism.share_variance)
    assert 0.99 * (1 << 40) < square_sum(update) <= 1 << 40


def test_an_owner_is_told_of_an_update_that_is_not_finite_without_a_figure(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    study = study_of()
    trainer, secret = trainer_of(base, study, index=3), NoiseSecret(bytes)
    with torch.no_grad():
        trainer.model.module.get_input_embeddings().weight[5:] = float("nan")  # type: ignore[operator, union-attr]
    state = first_state(study, trainer.first_state().adapter)
    with caplog.at_level(logging.WARNING):
        vector = trainer.contribute(state, 1, secret, lambda step: None)
    assert vector.tolist() == draw_noise(secret, 1, vector.size, study.mechanism.share_variance).tolist()
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("secfed")]
    assert told.startswith("the update of hospital-3 was not finite and contributed zero")
    assert not any(letter.isdigit() for letter in told.replace("hospital-3", ""))


def test_a_model_that_opacus_cannot_follow_is_trained_in_batches(base: Path) -> None:
    """DoRA: a patient's step takes its records one at a time, and a node's update asks for no record's gradient."""
    model = AdapterModel(adapted(base, target_modules=["query"], use_dora=True), LORA, classifying())  # type: ignore[arg-type]
    length = {"model": {**study_values()["model"], "max_length": LENGTH}, "task": {"labels": list(LABELS)}}
    of_patients = values("fedopt-adam", privacy={"unit": "patient", "sampling_rate": 0.1}, **length)
    del of_patients["algorithm"]["local"]
    assert check_training(study_from(of_patients), model).one_at_a_time
    study = study_of(algorithm={"local": {**LOCAL, "optimizer": "adam"}}, **length)
    assert check_training(study, model) == Verdict((), ())
    patients, secret = make_tiny_patients(6), NoiseSecret(bytes)
    moved = local_update(model.module, patients, study.mechanism.plan(0), secret, 1)
    assert (moved != 0).mean() > 0.9


def test_a_model_that_does_not_move_is_refused_before_data_is_opened(base: Path) -> None:
    model = make_tiny_model(base)
    for parameter in list(model.trained.values())[:1]:
        parameter.requires_grad = False
    with pytest.raises(ModelError, match="a step should move it, but it is frozen"):
        check_training(study_of(), model)


# What it costs.


def test_the_account_counts_one_gaussian_release_a_round_and_no_sampling() -> None:
    study = study_of()
    event = event_of(study)
    assert (event.sampling_rate, event.noise_multiplier, event.steps, event.unit) == (1.0, 20.0, 100, Unit.NODE)
    assert event.relation is Relation.ZERO_OUT
    assert check_noise(study) == epsilon_by_round(study)[-1] == pytest.approx(1.993, abs=0.001)
    noise = noise_of(study)
    assert noise is not None
    assert noise.delta_terms(event, 20.0, 2.0).overflow == 0
    assert study_of(algorithm={"local": {**LOCAL, "steps": 600}}).steps == 100  # plain steps cost nothing


def test_the_smallest_noise_keeps_the_promise_of_a_node() -> None:
    noise = smallest_noise(study_of())
    study = study_of(privacy={"noise_multiplier": noise})
    assert 7.99 < check_noise(study) <= 8.0
    with pytest.raises(UserError, match=r"Set privacy.noise_multiplier to [0-9.]+ or more") as refused:
        check_noise(study_of(privacy={"noise_multiplier": round(noise - 1e-4, 4)}))
    assert noise <= noise_named(refused.value) < 1.01 * noise


def test_the_example_of_the_documentation_is_a_study_that_keeps_its_promise() -> None:
    text = (Path(__file__).parents[3] / "docs" / "own-study.md").read_text()
    (example,) = [block for block in text.split("```toml\n")[1:] if 'unit = "node"' in block]
    told = tomllib.loads(example.split("```")[0])
    assert [entry["patients"] for entry in told.pop("roster")] == [1]
    homes = roster(200)
    study = study_from({**study_values(), **told, "roster": homes})
    assert 7.99 < check_noise(study) <= 8.0 == study.privacy.epsilon
    deviation = study.mechanism.noise_variance(range(len(homes))) ** 0.5
    assert deviation == pytest.approx(0.008, abs=5e-4)
    assert deviation * 4000**0.5 == pytest.approx(study.privacy.clip, rel=0.02)
