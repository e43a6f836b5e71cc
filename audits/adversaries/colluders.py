"""c colluding nodes hand over everything that they hold, after a round in which everybody followed the protocol."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import VICTIM, Conversation, Outcome, World
from protocols.parameters import CohortRules

COLLUDERS = 2
RULES = CohortRules(roster_size=7, colluders=COLLUDERS, tolerated_dropouts=1, minimum=4)


class Colluders(Attack):
    """The aggregator and c nodes only use what they already have. It must not be enough."""

    name = "c colluding nodes hand over all they hold"
    goal = "recover the victim's own vector from everything that the aggregator and c nodes ever saw"

    def run(self) -> Outcome:
        world = World(RULES)
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.finish(world.everyone)
        return world.outcome(world.recovers(VICTIM, talk.knowledge.sum_of([VICTIM])))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.sharing_threshold(COLLUDERS),)
