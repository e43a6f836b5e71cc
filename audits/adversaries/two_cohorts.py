"""The roster split into two cohorts: two U1 in one round, with the colluder in both."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import CORRUPT, Conversation, Outcome, World

HALVES = ((0, 1, 2, CORRUPT), (3, 4, 5, CORRUPT))


class TwoCohorts(Attack):
    """The aggregator tells each half of the roster that it is the whole cohort."""

    name = "roster split into two cohorts"
    goal = "obtain two sums in one round, over the two halves of the roster"

    def run(self) -> Outcome:
        world = World()
        sums = []
        for half in HALVES:
            talk = Conversation(world)
            talk.upload(half)
            talk.finish(half)
            sums.append(world.is_sum_of(half, talk.knowledge.sum_of(half)))
        return world.outcome(all(sums))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.sharing_threshold_one_too_low(),)
