"""Sybils: the aggregator fills the cohort with nodes of its own that are not in the roster."""

from __future__ import annotations

import sys
from unittest.mock import patch

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.knowledge import Knowledge
from audits.simulator.world import CORRUPT, MAGNITUDE, SEVEN, VICTIM, Conversation, Outcome, World
from protocols.parameters import CohortRules
from protocols.session import SessionConfig

SYBILS = tuple(range(SEVEN.roster_size, SEVEN.roster_size + 8))
INFLATED = CohortRules(SEVEN.roster_size + len(SYBILS), SEVEN.colluders, SEVEN.tolerated_dropouts, SEVEN.minimum)
HONEST = (VICTIM, 1)


def pinned(shown: SessionConfig) -> SessionConfig:
    """What an honest node derives for anything the aggregator shows: the seven nodes of the signed study."""
    return SessionConfig(SEVEN, shown.roster[: SEVEN.roster_size], shown.context, MAGNITUDE)


class Sybils(Attack):
    """Two honest nodes, the colluder and eight Sybils: the attacker has as many shares as the inflated quorum."""

    name = "Sybil outside the roster"
    goal = "recover the victim's own vector by holding a quorum of shares in nodes that nobody enrolled"

    def run(self) -> Outcome:
        world = World(INFLATED, corrupt=(CORRUPT, *SYBILS))
        world.configs = {node: pinned(world.config(node)) for node in HONEST}
        talk = Conversation(world, Knowledge(world.config(CORRUPT)))
        talk.upload((*HONEST, CORRUPT, *SYBILS))
        return world.outcome(world.recovers(VICTIM, talk.knowledge.sum_of([VICTIM])))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        shown = patch.object(sys.modules[__name__], "pinned", lambda shown: shown)
        return (weakened.Weakening("the roster is the signed study's, and not the aggregator's", shown),)
