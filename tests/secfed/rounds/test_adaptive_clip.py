"""A clipping norm that follows the gradients: the rule by hand, all nodes alike, and what signs and verifies it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from audits.reference.notation import C, H
from audits.simulator.studies import study_from
from crypto.randomness import NoiseSecret
from dp.patients import clipped_integers
from protocols import encoding
from secfed.files.whole import json_text
from secfed.models.model import AdapterModel
from secfed.models.training import make_trainer
from secfed.reports import folder as run_folder
from secfed.reports.html import render_report
from secfed.rounds.adaptive_clip import FARTHEST, next_clip
from secfed.rounds.strategies import first_state, next_state
from secfed.study.manifest import Study
from secfed.verify.folder import verify_folder
from tests.secfed.federation import ALGORITHMS, Federation, FormulaTrainer, cut
from tests.secfed.rounds.test_distributed_study import PRIVACY, refusal, study_of
from tests.secfed.run_folders import write_run
from tests.tiny import make_tiny_patients

LAYOUT = FormulaTrainer.layout
GRID = 1 << 20
KAPPA = 104857
"""A tenth of the grid, rounded down."""


def adaptive(rounds: int = 4, **settings: float) -> Study:
    return study_of(algorithm={"rounds": rounds}, privacy={"adaptive_clip": settings})


def indicators(study: Study, kept: float, survivors: tuple[int, ...] = (0, 1, 2, 3, 4)) -> int:
    """The last element of a sum in which as many were drawn as are expected, and this part of them was kept."""
    drawn = study.expected_units(survivors)
    return round(KAPPA * drawn * (2 * kept - 1))


def test_the_clip_moves_by_the_formula_of_the_paper() -> None:
    study = adaptive(quantile=0.5, learning_rate=0.2)
    assert next_clip(study, 0.4, indicators(study, 0.5), range(5)) == pytest.approx(0.4, rel=1e-4)
    # 0.4 exp(0.2 (0.5 - 0.9)) and 0.4 exp(0.2 (0.5 - 0.2)), by hand.
    assert next_clip(study, 0.4, indicators(study, 0.9), range(5)) == pytest.approx(0.3692465, rel=1e-5)
    assert next_clip(study, 0.4, indicators(study, 0.2), range(5)) == pytest.approx(0.4247346, rel=1e-5)


def test_the_fraction_is_taken_over_the_public_expectation_of_the_survivors() -> None:
    study = adaptive()
    some = (0, 2)
    found = next_clip(study, 0.4, indicators(study, 0.9, some), some)
    assert found == pytest.approx(0.4 * math.exp(0.2 * (0.5 - 0.9)), rel=1e-4)
    assert found != next_clip(study, 0.4, indicators(study, 0.9, some), range(5))


def test_no_noise_carries_the_clip_away() -> None:
    study = adaptive(learning_rate=1.0)
    far = 10**15
    assert next_clip(study, 0.4, far, range(5)) == pytest.approx(0.4 * math.exp(-0.5))  # the fraction is at most 1
    assert next_clip(study, 0.4, -far, range(5)) == pytest.approx(0.4 * math.exp(0.5))
    clip = 0.5
    for _ in range(40):
        clip = next_clip(study, clip, far, range(5))
    assert clip == 0.5 / FARTHEST
    for _ in range(40):
        clip = next_clip(study, clip, -far, range(5))
    assert clip == 0.5 * FARTHEST


def test_the_clip_settles_where_the_quantile_is() -> None:
    study = adaptive(rounds=100, quantile=0.7, learning_rate=0.3)
    norms = np.sort(np.random.default_rng(1).lognormal(1.0, 0.7, size=2000))
    clip = 0.5
    for _ in range(100):
        clip = next_clip(study, clip, indicators(study, float((norms <= clip).mean())), range(5))
    assert clip == pytest.approx(float(np.quantile(norms, 0.7)), rel=0.02)


def test_what_a_step_means_follows_the_clip_and_the_noise_in_it_too() -> None:
    study = adaptive()
    length = math.isqrt(GRID**2 - KAPPA**2)
    total = np.array([length, -2 * length, 0], dtype=np.int64)  # 1 and -2 clipping norms
    assert study.mechanism.mean_change(total, (0, 2), 0.8) == pytest.approx(
        np.array([-1.0, 2.0, 0.0]) * 0.8 / 24, rel=1e-12
    )
    fixed = study_of().mechanism.noise_variance(range(5))
    assert study.mechanism.noise_variance(range(5), 0.5) == pytest.approx(fixed / (1 - 0.1**2), rel=1e-4)
    assert study.mechanism.noise_variance(range(5), 1.0) == pytest.approx(4 * fixed / (1 - 0.1**2), rel=1e-4)


def test_every_step_is_the_same_mechanism_in_steps_of_the_grid() -> None:
    """Why a clip chosen from earlier sums is within the account: neither largest norm nor noise knows it."""
    study = adaptive()
    plans = [study.mechanism.plan(0, clip) for clip in (0.001, 0.5, 400.0)]
    assert len({dataclasses.replace(plan, clip=1.0) for plan in plans}) == 1
    assert plans[0].noise_variance == study_of().mechanism.plan(0).noise_variance
    gradient = np.random.default_rng(2).normal(size=1000)
    for plan in plans:
        vector = clipped_integers(gradient, plan.clip, plan.grid, plan.indicator)
        assert vector is not None
        assert 0 < sum(int(value) ** 2 for value in vector) <= GRID**2


def test_the_state_has_the_clip_and_its_digest_covers_it() -> None:
    study = adaptive()
    state = first_state(study, FormulaTrainer.first_state().adapter)
    assert state.clip == 0.5
    assert first_state(study_of(), state.adapter).clip is None
    parts = [C([[name, list(shape)] for name, shape in LAYOUT]), state.adapter.astype("<f4").tobytes()]
    parts += [moment.tobytes() for moment in state.moments]
    assert state.digest(LAYOUT) == H("state", *parts, np.float64(0.5).tobytes())
    other = dataclasses.replace(state, clip=math.nextafter(0.5, 1))
    assert other.digest(LAYOUT) != state.digest(LAYOUT)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name.startswith("fedopt")])
def test_all_nodes_and_a_restarted_one_hold_the_same_clip(name: str, tmp_path: Path) -> None:
    algorithm = {**ALGORITHMS[name], "rounds": 4}
    study = study_of(name, algorithm=algorithm, privacy={"adaptive_clip": {}})
    federation = Federation(study, tmp_path, cuts=(cut(2, 2, "masked input"), cut(4, 3, "advertise")))
    coordinator, records = federation.run()
    chain = coordinator.chain
    assert [record.void for record in records] == [False] * 4
    assert federation.states() == {chain.state.digest(chain.layout)}
    assert chain.shape.dimension == chain.state.adapter.size + 1
    clip = 0.5
    state = first_state(study, FormulaTrainer.first_state().adapter)
    for receipt, packed in federation.kept:
        total = encoding.from_ring(encoding.unpack(packed, chain.shape), chain.shape)
        survivors = receipt.statement.survivors
        kept = (int(total[-1]) / (KAPPA * study.expected_units(survivors)) + 1) / 2
        clip *= math.exp(0.2 * (0.5 - kept))
        state = next_state(study, state, total, survivors)
        assert state.clip == pytest.approx(clip, rel=1e-12)
    assert state.clip == chain.state.clip
    assert clip != pytest.approx(0.5, rel=0.01)
    again = federation.start_node(0)
    assert again.chain.state.clip == chain.state.clip


def test_a_node_clips_at_the_states_norm_and_says_how_many_it_shortened(
    adapter: AdapterModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dp import distributed

    monkeypatch.setattr(distributed, "draw_noise", lambda secret, number, count, variance: np.zeros(count, np.int64))
    patients = make_tiny_patients(100)
    study = study_of(algorithm={"rounds": 4}, privacy={"adaptive_clip": {}, "sampling_rate": 0.5})
    state = first_state(study, adapter.get_state())
    trainer = make_trainer(study, 0, adapter, state, patients)
    found = {}
    for clip in (1e-6, 1e3):
        secret = NoiseSecret(lambda count: bytes([7]) * count)
        vector = trainer.contribute(dataclasses.replace(state, clip=clip), 1, secret, lambda _: None)
        assert vector.shape == (adapter.dimension + 1,)
        found[clip] = vector
    drawn = int(found[1e3][-1]) // KAPPA
    assert 30 < drawn < 70
    assert int(found[1e3][-1]) == drawn * KAPPA  # none was shortened
    assert int(found[1e-6][-1]) == -drawn * KAPPA  # every one was
    assert np.abs(found[1e-6][:-1]).max() > 100 * np.abs(found[1e3][:-1]).max()


@pytest.mark.sweep
def test_a_run_holds_and_one_with_another_clip_does_not(tmp_path: Path) -> None:
    privacy = {**PRIVACY, "mode": "distributed", "noise_multiplier": 1.0, "adaptive_clip": {"quantile": 0.6}}
    algorithm = {**ALGORITHMS["fedopt-adam"], "rounds": 4, "local": None}
    federation = write_run(tmp_path / "out", tmp_path / "work", algorithm=algorithm, privacy=privacy)
    assert verify_folder(tmp_path / "out").problem is None
    report = json.loads((tmp_path / "out" / run_folder.REPORT).read_text())
    rows = {row["name"]: row for row in report["parameters"]}
    last = federation.nodes[0].chain.state.clip
    assert rows["Clipping norm"]["value"] == f"0.5 at first, {last:.4g} after the last round"
    assert "0.6 quantile" in rows["Clipping norm"]["meaning"]
    assert rows["Clipping indicator"]["value"] == "0.1"
    assert "follows the 0.6 quantile" in " ".join(render_report(report).split())
    summary = json.loads((tmp_path / "out" / run_folder.SUMMARY).read_text())
    summary["clip"] *= 2
    (tmp_path / "out" / run_folder.SUMMARY).write_text(json_text(summary))
    problem = verify_folder(tmp_path / "out").problem
    assert problem is not None
    assert (problem.place, "clip is" in problem.reason) == ("summary.json", True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"adaptive_clip": {"quantile": 1.0}}, "quantile"),
        ({"adaptive_clip": {"learning_rate": 0.0}}, "learning_rate"),
        ({"adaptive_clip": {"indicator": 0.95}}, "indicator"),
        ({"adaptive_clip": {"indicator": 0.01}, "grid": 50}, "too coarse for an indicator"),
        ({"adaptive_clip": {"speed": 1}}, "speed"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], said: str) -> None:
    assert said in refusal(privacy=change)


def test_local_mode_has_no_sum_of_gradients_to_learn_a_norm_from() -> None:
    from tests.secfed.federation import study_values

    found = study_values()
    found["privacy"] = {**found["privacy"], "adaptive_clip": {}}
    with pytest.raises(ValidationError, match="adaptive_clip has no effect in local mode"):
        study_from(found)


def test_the_settings_are_part_of_what_is_signed() -> None:
    digests = {study_of().digest, adaptive().digest, adaptive(quantile=0.6).digest, adaptive(indicator=0.2).digest}
    assert len(digests) == 4
