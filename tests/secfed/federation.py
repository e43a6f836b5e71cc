"""A whole federation without torch: real nodes, ledgers, stores and coordinator; only the training is a formula."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audits.simulator import studies
from crypto.identity import Identity
from crypto.kdf import digest
from crypto.randomness import NoiseSecret
from dp.ledger import Ledger
from protocols.receipts import Receipt
from secfed.aggregator.coordinator import Coordinator
from secfed.aggregator.records import RoundRecord
from secfed.engines.embedded.channel import Cut, EmbeddedChannel, Simulation
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.policy import Policy
from secfed.node.store import NodeStore
from secfed.rounds.events import Event
from secfed.rounds.strategies import ModelState
from secfed.study.manifest import Study
from secfed.study.privacy import DistributedPrivacy

DIMENSION = 11
BASE_DIGEST = studies.BASE_MODEL
ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": "fedavg"},
    "fedprox": {"strategy": "fedprox", "mu": 0.1},
    "fedopt-sgd": {"strategy": "fedopt-sgd", "server_learning_rate": 0.5},
    "fedopt-adam": {"strategy": "fedopt-adam", "server_learning_rate": 0.05},
    "fedopt-yogi": {"strategy": "fedopt-yogi", "server_learning_rate": 0.05, "beta1": 0.8, "tau": 0.01},
    "fedopt-adagrad": {"strategy": "fedopt-adagrad", "server_learning_rate": 0.3},
}
"""Every strategy of a study, as changes to its section `algorithm`."""


def identities(count: int) -> list[Identity]:
    return [Identity(digest("federation", bytes([node]))) for node in range(count)]


def study_values(count: int = 5, **changes: Any) -> dict[str, Any]:
    """A legal study of `count` nodes; `changes` are merged into its sections, and another roster takes its place."""
    keys, patients = [key.public.raw for key in identities(count)], [100 * (node + 1) for node in range(count)]
    usual = {
        "name": "formula",
        "purpose": "A test",
        "algorithm": {"rounds": 4, "local": {"steps": 2, "learning_rate": 0.01}},
    }
    return studies.changed(studies.study_values(studies.roster_of(keys, patients), **usual), changes)


def make_study(count: int = 5, **changes: Mapping[str, Any]) -> Study:
    return studies.study_from(study_values(count, **changes))


def make_policy(**budget: float) -> Policy:
    return Policy.model_validate_json(
        json.dumps(
            {
                "cohort": {"minimum": 3},
                "budget": {"population": "test", "patients": 10_000, "epsilon": 8.0, "delta": 1e-5, **budget},
                "allow": {"base_models": [BASE_DIGEST]},
            }
        )
    )


class FormulaTrainer:
    """An update that depends on node, round and state, so that every mistake shows."""

    layout = (("a", (5,)), ("b", (2, 3)))

    def __init__(self, study: Study, index: int) -> None:
        self.study = study
        self.index = index
        self.trained: list[int] = []

    @staticmethod
    def first_state() -> ModelState:
        return ModelState(np.linspace(-1, 1, DIMENSION, dtype=np.float32))

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        self.trained.append(round_number)
        progress(1)
        return self.vector(state, round_number)

    def vector(self, state: ModelState, round_number: int) -> NDArray[np.int64]:
        """What this node contributes to a round."""
        update = state.adapter * np.float32(0.01 * (self.index + 1)) + np.float32(0.001 * round_number)
        privacy, weight = self.study.privacy, self.study.weights[self.index]
        if isinstance(privacy, DistributedPrivacy):
            units = weight * privacy.sampling_rate
            # More gradients are left as they are with every round, and not the same number at every node.
            kept = [round(units * privacy.indicator * (0.1 * round_number - 0.05 * self.index))]
            gradient = np.rint(update.astype(np.float64) * privacy.grid * units)
            return np.append(gradient, kept[: self.study.mechanism.elements_beside_gradient]).astype(np.int64)
        return self.study.mechanism.upload(update.astype(np.float32), self.index)


@dataclass
class Federation:
    """Nodes in `folder`, and what a run over them showed."""

    study: Study
    folder: Path
    cuts: tuple[Cut, ...] = ()
    events: list[Event] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    """What nodes told their owners about others: name and line."""
    kept: list[tuple[Receipt, bytes]] = field(default_factory=list)
    trainers: list[FormulaTrainer] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trainers = [FormulaTrainer(self.study, index) for index in range(len(self.study.roster))]
        self.nodes = [self.start_node(index, reserve=True) for index in range(len(self.study.roster))]

    def start_node(self, index: int, *, reserve: bool = False) -> Node:
        """A node on its folder: the first time, or again after a crash."""
        key = identities(len(self.study.roster))[index]
        ledger = Ledger(self.folder / f"ledger-{index}.sqlite", lambda entry: key.sign("ledger entry", entry))
        if reserve:
            budget = make_policy().budget
            ledger.grant(budget.grant)
            ledger.reserve(budget.population, self.study.digest, 8.0, 1e-5, self.study.algorithm.rounds)
        store = NodeStore(self.folder / f"node-{index}.sqlite")
        name = self.study.roster[index].name
        return Node(
            self.study,
            NodeParts(name, key, make_policy(), ledger, store, self.trainers[index]),
            tell_owner=self.keep_told,
        )

    def keep_told(self, name: str, text: str) -> None:
        """Tells a node's owner."""
        self.told.append((name, text))

    def coordinator(self) -> Coordinator:
        channel = EmbeddedChannel(
            self.nodes, Simulation(cut=self.cuts), lambda name, reason: self.refusals.append((name, reason))
        )
        return Coordinator(
            self.study,
            FormulaTrainer.layout,
            FormulaTrainer.first_state(),
            channel,
            show=self.events.append,
            keep=lambda receipt, packed: self.kept.append((receipt, packed)),
            epsilon_by_round=tuple(float(number) for number in range(1, self.study.algorithm.rounds + 1)),
        )

    def run(self) -> tuple[Coordinator, list[RoundRecord]]:
        coordinator = self.coordinator()
        return coordinator, coordinator.run()

    def states(self) -> set[bytes]:
        return {node.chain.state.digest(node.chain.layout) for node in self.nodes}


def cut(node: int, round_number: int, stage: str) -> Cut:
    return Cut.model_validate({"node": f"hospital-{node}", "round": round_number, "from": stage})
