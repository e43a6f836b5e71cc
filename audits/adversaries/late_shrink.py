"""Late shrink: a cohort that is large enough at Share, but smaller than the sites' policies demand when it is
summed."""

from __future__ import annotations

from audits.adversaries.attack import Attack
from audits.simulator.world import SEVEN, Conversation, Outcome, World
from protocols.parameters import CohortRules

STRICT = CohortRules(
    SEVEN.roster_size, SEVEN.colluders, SEVEN.tolerated_dropouts, SEVEN.minimum, site_minimum=SEVEN.roster_size - 1
)
FEW = (0, 1, 2, 3, 4)


class LateShrink(Attack):
    """Five nodes make a quorum, but the sites take part only in sums over six or more."""

    name = "cohort shrunk below policy after Share"
    goal = "obtain a sum over fewer nodes than the sites' own policies allow"

    def run(self) -> Outcome:
        world = World(STRICT)
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.finish(FEW)
        return world.outcome(world.is_sum_of(FEW, talk.knowledge.sum_of(FEW)))
