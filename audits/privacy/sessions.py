"""Rounds over canaries through the classes that sites run, and the view of a coalition of colluding nodes.

Everything between the data and the published sum is deployed code: `secfed.node.node.Node` with its ledger and store,
the trainer that `secfed.models.training.make_trainer` chooses for the study, the coordinator and a whole session of the
protocol for every round, with dropouts. The audit adds only the data, and a trainer that passes each round's data to
the real one and keeps what colluding nodes upload.

The coalition is the aggregator and colluding nodes. It knows the sum, and its own nodes' contributions, noise included;
the honest nodes' noise has to hide the difference. A canary's score is its coordinate of that difference.

In the same time, several rounds, each over canaries of its own, reveal more than one long vector.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from audits.privacy.bounds import Scores
from audits.privacy.builds import Build
from audits.privacy.canaries import canary_adapter, canary_node, canary_patients
from audits.privacy.settings import BASE_MODEL, RECORD_SIZES, Mode, Setting, identity_of
from crypto.randomness import NoiseSecret
from dp.ledger import Ledger
from dp.sampling import Patients
from protocols import encoding
from protocols.receipts import Receipt
from secfed.aggregator.coordinator import Coordinator
from secfed.engines.embedded.channel import Cut, EmbeddedChannel, Simulation
from secfed.models.model import AdapterModel
from secfed.models.training import make_trainer
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.policy import Policy
from secfed.node.store import NodeStore
from secfed.rounds.strategies import Layout, ModelState

_POPULATION = "canaries"


class RoundsFailed(RuntimeError):
    """A round of an audit gave no sum, so nothing was measured."""


@dataclass
class _CanaryTrainer:
    """The deployed trainer, over the canaries of each round."""

    setting: Setting
    build: Build
    index: int
    model: AdapterModel
    present: Sequence[NDArray[np.bool_]]
    """Which canaries are in, by session."""
    uploads: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """This node's contribution to each round."""

    @property
    def layout(self) -> Layout:
        return self.model.layout

    def first_state(self) -> ModelState:
        return ModelState(np.zeros(self.model.dimension, dtype=np.float32))

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        setting = self.setting
        trainer = make_trainer(setting.study, self.index, self.model, self.first_state(), self._data(round_number))
        with self.build.defect(first=self.index == setting.honest[0]):
            vector = trainer.contribute(state, round_number, secret, progress)
        self.uploads[round_number] = vector
        return vector

    def _data(self, round_number: int) -> Patients:
        setting = self.setting
        own = np.flatnonzero(self.present[round_number - 1] & (setting.owners == self.index)).tolist()
        make = canary_node if setting.mode is Mode.UPDATE else canary_patients
        return make(own, setting.most_records + 2)


def observe(setting: Setting, build: Build) -> Scores:
    """Run all sessions of a build and score every canary as the coalition would.

    Raises:
        RoundsFailed: a session gave no sum.
    """
    coins = [NoiseSecret().stream("canaries").uniform_words(setting.canaries) for _ in range(setting.sessions)]
    present = [words >> np.uint64(63) == 1 for words in coins]
    with _one_thread(), TemporaryDirectory(prefix="secfed-audit-") as folder:
        seen = _coalition_views(setting, build, present, Path(folder))
    return Scores(np.concatenate(present), np.concatenate(seen) / setting.canary_step)


@contextmanager
def _one_thread() -> Iterator[None]:
    """On such a small model, threads that wait for each other cost ten times as much as they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _coalition_views(
    setting: Setting, build: Build, present: Sequence[NDArray[np.bool_]], folder: Path
) -> list[NDArray[np.int64]]:
    """Each session's sum without the colluders' contributions, as whole numbers of shape (canaries,)."""
    study = setting.study
    model = canary_adapter(setting.canaries, setting.clip * RECORD_SIZES[setting.mode])
    trainers = [_CanaryTrainer(setting, build, index, model, present) for index in range(len(study.roster))]
    refusals: list[str] = []
    nodes = [_node(setting, trainer, folder) for trainer in trainers]
    cuts = tuple(
        Cut.model_validate({"node": study.roster[node].name, "round": number, "from": "masked input"})
        for node in sorted(setting.leaving)
        for number in range(1, setting.sessions + 1)
    )
    channel = EmbeddedChannel(nodes, Simulation(cut=cuts), lambda name, reason: refusals.append(f"{name}: {reason}"))
    sums: list[tuple[Receipt, bytes]] = []
    coordinator = Coordinator(
        study,
        model.layout,
        trainers[0].first_state(),
        channel,
        show=lambda event: None,
        keep=lambda receipt, packed: sums.append((receipt, packed)),
        epsilon_by_round=(0.0,) * setting.sessions,
    )
    try:
        coordinator.run()
    finally:
        for node in nodes:
            node.parts.ledger.close()
            node.parts.store.close()
    if len(sums) != setting.sessions:
        raise RoundsFailed(f"{len(sums)} of {setting.sessions} rounds gave a sum: {'; '.join(refusals[:3])}")
    views = []
    for receipt, packed in sums:
        shape, number = coordinator.chain.shape, receipt.statement.round_number
        total = encoding.from_ring(encoding.unpack(packed, shape), shape)
        views.append(total - sum(trainers[node].uploads[number] for node in setting.colluding))
    return views


def _node(setting: Setting, trainer: _CanaryTrainer, folder: Path) -> Node:
    """A node of the audited study, with its budget granted and the study reserved."""
    study, index = setting.study, trainer.index
    key, entry = identity_of(index), study.roster[index]
    policy = Policy.model_validate_json(
        json.dumps(
            {
                "cohort": {"minimum": setting.rules.minimum},
                "budget": {
                    "population": _POPULATION,
                    "patients": entry.patients,
                    "epsilon": study.privacy.epsilon,
                    "delta": study.privacy.delta,
                },
                "allow": {"base_models": [BASE_MODEL]},
            }
        )
    )
    ledger = Ledger(folder / f"ledger-{index}.sqlite", lambda content: key.sign("ledger entry", content))
    ledger.grant(policy.budget.grant)
    ledger.reserve(_POPULATION, study.digest, study.privacy.epsilon, study.privacy.delta, study.algorithm.rounds)
    store = NodeStore(folder / f"node-{index}.sqlite")
    return Node(study, NodeParts(entry.name, key, policy, ledger, store, trainer))
