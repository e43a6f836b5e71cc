"""Households train together in a real run: the secure sum holds one clipped update and one noise of each, exactly.

Nodes, protocol, ledgers and model are the real ones. Tests alone know the noise secrets and see the noises.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dp.node_update
from dp.node_update import local_update
from dp.patients import clipped_integers, square_sum
from protocols import encoding
from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.engines.embedded.run import execute, prepare
from secfed.rounds.chain import Chain
from secfed.rounds.events import Event, LocalStep, Note
from secfed.study.changes import write_study
from secfed.study.manifest import load_study
from secfed.verify.folder import verify_folder
from tests.reporters import Recorder
from tests.system.recomputed import Secrets, opened_again, published
from tests.tiny import make_tiny_base

SETTINGS = DemoSettings(
    mode="local",
    patients=200,
    test_records_per_chapter=3,
    layers=(0, 1),
    max_length=12,
    steps=12,
    local_steps=3,
    rank=2,
    physical_batch=8,
)
PRIVACY = {"mode": "distributed", "unit": "node", "sampling_rate": None, "noise_multiplier": 6.0, "clip": 0.05}
"""From the demo's study in local mode to one of five households."""


def make_households(folder: Path, base: Path) -> Path:
    """A workspace of five nodes with uneven data, one unit of privacy each."""
    path = prepare_demo(folder, base=base, settings=SETTINGS)
    study = load_study(path)
    roster = [entry.model_copy(update={"patients": 1}) for entry in study.roster]
    write_study(study.changed(privacy=PRIVACY, roster=roster), path)
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> tuple[Path, Secrets, list[Event]]:
    folder = tmp_path_factory.mktemp("households") / "workspace"
    study = make_households(folder, make_tiny_base(tmp_path_factory.mktemp("base")))
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patched:
        secrets = Secrets(patched, dp.node_update)
        execute(prepare(study, folder), recorder)
    return folder, secrets, recorder.events


def test_the_sum_is_that_of_every_nodes_clipped_update_and_noise(
    ran: tuple[Path, Secrets, list[Event]], tmp_path: Path
) -> None:
    folder, secrets, _ = ran
    study, model, first, homes = opened_again(folder, tmp_path / "again")
    assert len({home.records for home in homes}) > 1
    chain, at, dropped, shortened = Chain(study, model.layout, first), 0, 0, 0
    for number in range(1, study.algorithm.rounds + 1):
        receipt, packed = published(folder, chain, number)
        survivors = receipt.statement.survivors
        dropped += len(study.roster) - len(survivors)
        expected = np.zeros(model.dimension, dtype=np.int64)
        model.set_state(chain.state.adapter)
        for node in survivors:  # a node that is cut off before its upload has made no secret
            round_plan = study.mechanism.plan(0)
            update = local_update(model.module, homes[node], round_plan, secrets.number(at), number)
            vector = clipped_integers(update, round_plan.clip, round_plan.grid)
            assert vector is not None
            assert 0 < square_sum(vector) <= round_plan.grid**2
            shortened += float(np.linalg.norm(update)) > round_plan.clip
            expected += vector + secrets.noises[at]
            at += 1
        total = encoding.from_ring(encoding.unpack(packed, chain.shape), chain.shape)
        assert total.tolist() == expected.tolist()
        chain.adopt(receipt, packed)
    assert at == secrets.made == len(secrets.noises)
    assert (dropped, study.algorithm.rounds) == (1, 4)
    assert shortened > 10


def test_what_the_run_leaves_behind_holds_and_is_told_in_words_of_nodes(
    ran: tuple[Path, Secrets, list[Event]],
) -> None:
    folder, _, events = ran
    assert verify_folder(folder).problem is None
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    assert summary["unit"] == "node"
    assert {each["rounds_committed"] for each in summary["hospitals"]} == {3, 4}
    (plan,) = [event.text for event in events if isinstance(event, Note) and event.text.startswith("privacy plan")]
    assert "3 plain local steps of 8 records by adam in each of T = 4 rounds" in plan
    assert not any("one at a time" in event.text for event in events if isinstance(event, Note))
    steps = [event for event in events if isinstance(event, LocalStep)]
    assert {event.steps for event in steps} == {3}
    assert sum(event.step == 3 for event in steps) == sum(len(each["survivors"]) for each in summary["rounds"])
