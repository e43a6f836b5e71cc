"""c colluding nodes hand over all that they hold, after a round in which everybody kept to the protocol."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator import VICTIM, Conversation, Outcome, Protection, World
from protocols.parameters import CohortRules

COLLUDERS = 2
RULES = CohortRules(roster_size=7, colluders=COLLUDERS, tolerated_dropouts=1, minimum=4)


class Colluders(Attack):
    """The aggregator and c nodes only look at what they have. It must not be enough."""

    name = "c colluding nodes hand over all they hold"
    goal = "recover the victim's own vector from everything that the aggregator and c nodes ever saw"

    def run(self) -> Outcome:
        world = World(RULES)
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.finish(world.everyone)
        achieved = world.recovers(VICTIM, talk.knowledge.sum_of([VICTIM]))
        # Nobody refuses anything in an honest round.
        quorum = Protection(CohortRules.quorum, "threshold = max(", "c shares of a mask key are fewer than t")
        return world.outcome(achieved, quorum)

    def weakening(self) -> weakened.Weakening:
        return weakened.quorum_of(COLLUDERS)
