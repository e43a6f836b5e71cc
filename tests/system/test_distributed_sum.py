"""What the secure sum of a real run holds: every drawn patient's rounded gradient and every hospital's noise, exactly.

Nodes, protocol, ledgers and model are the real ones. Tests alone know the noise secrets and see the noises.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crypto.randomness import NoiseSecret
from dp.distributed import record_gradients
from dp.patients import draw_patients, patient_vectors
from dp.sampling import Patients
from protocols import encoding
from secfed.demo.workspace import DemoSettings, prepare_demo
from secfed.engines.embedded.run import execute, prepare
from secfed.models.model import AdapterModel
from secfed.rounds.chain import Chain
from secfed.study.manifest import Study
from tests.reporters import Recorder
from tests.system.recomputed import Secrets, opened_again, published
from tests.tiny import make_tiny_base

SETTINGS = DemoSettings(
    patients=200,
    test_records_per_chapter=3,
    layers=(0, 1),
    max_length=12,
    steps=4,
    rank=2,
    sampling_rate=0.2,
    records_per_patient=3,
    physical_batch=8,
)


def alone(model: AdapterModel, patients: Patients, study: Study, index: int, secret: NoiseSecret, number: int) -> Any:
    """The sum of this hospital's drawn patients, each in a step of its own, with nobody else in any batch."""
    plan = replace(study.mechanism.plan(index), batches=1)  # one patient fits one batch, and no other patient is there
    total = np.zeros(model.dimension, dtype=np.int64)
    drawn = draw_patients(patients.rows, plan.sampling_rate, plan.most_records, secret, number)
    assert 0 < len(drawn) <= study.mechanism.plan(index).most_patients
    for entry in drawn:
        batches = record_gradients(model.module, patients, [entry], plan)
        (vector,) = patient_vectors([entry], batches, model.dimension, plan.clip, plan.grid)
        assert vector is not None
        total += vector
    return total


@pytest.mark.sweep
@pytest.mark.usefixtures("one_thread")
def test_the_sum_is_that_of_every_patients_rounded_gradient_and_every_hospitals_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workspace"
    prepare_demo(folder, base=make_tiny_base(tmp_path / "base"), settings=SETTINGS)
    secrets = Secrets(monkeypatch)
    execute(prepare(folder / "study.toml", folder), Recorder())
    study, model, first, hospitals = opened_again(folder, tmp_path / "again")
    chain, at, dropped = Chain(study, model.layout, first), 0, 0
    for number in range(1, study.algorithm.rounds + 1):
        receipt, packed = published(folder, chain, number)
        survivors = receipt.statement.survivors
        dropped += len(study.roster) - len(survivors)
        expected = np.zeros(model.dimension, dtype=np.int64)
        model.set_state(chain.state.adapter)
        for node in survivors:  # a node that is cut off before its upload has made no secret
            expected += alone(model, hospitals[node], study, node, secrets.number(at), number) + secrets.noises[at]
            at += 1
        total = encoding.from_ring(encoding.unpack(packed, chain.shape), chain.shape)
        assert total.tolist() == expected.tolist()
        chain.adopt(receipt, packed)
    assert at == secrets.made == len(secrets.noises)
    assert dropped == 1
