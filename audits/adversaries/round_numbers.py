"""Round numbers: a rewound one, a huge one, and repeated attempts on the same model."""

from __future__ import annotations

import dataclasses
import tempfile
from abc import abstractmethod
from pathlib import Path

from audits.adversaries.attack import Attack
from audits.simulator.federation import ROUNDS, Federation
from audits.simulator.world import VICTIM, Outcome
from protocols.wire import NUMBER_MAX
from secfed.rounds.channel import ATTEMPTS_MAX


class FederationAttack(Attack):
    """An attack on whole nodes, in a temporary folder."""

    def run(self) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            return self.attack(Federation(Path(folder)))

    @abstractmethod
    def attack(self, federation: Federation) -> Outcome:
        """The attack itself."""


class RewoundRound(FederationAttack):
    """The victim has been through round 1 and restarts; round 1 is opened again, on the chain as it was."""

    name = "rewound round"
    goal = "have a node take part twice under one round number, for a second sum of that round"

    def attack(self, federation: Federation) -> Outcome:
        opening = federation.chain.context(1).opening()
        first = federation.open(VICTIM, opening)
        federation.restart(VICTIM)
        second = federation.open(VICTIM, opening)
        return federation.log.outcome(first is not None and second is not None and first != second)


class HugeRound(FederationAttack):
    """A round number that would move the node's floor past every round of the study."""

    name = "one huge round number"
    goal = "lift a node's round floor past the end of the study, so that it can never take part again"

    def attack(self, federation: Federation) -> Outcome:
        federation.open(VICTIM, federation.chain.context(NUMBER_MAX).opening())
        store = federation.nodes[VICTIM].parts.store
        return federation.log.outcome(store.floor(federation.study.digest) > ROUNDS)


class RepeatedAttempts(FederationAttack):
    """Each void round on one state gives another set of survivors, and differences of sums would isolate one site."""

    name = "attempts repeated to isolate one site"
    goal = "have a node join more rounds on one state of the model than the cap allows"

    def attack(self, federation: Federation) -> Outcome:
        context = federation.chain.context(1)
        openings = [
            dataclasses.replace(context, round_number=number).opening() for number in range(1, ATTEMPTS_MAX + 2)
        ]
        joined = [federation.open(VICTIM, opening) for opening in openings]
        return federation.log.outcome(all(answer is not None for answer in joined))
