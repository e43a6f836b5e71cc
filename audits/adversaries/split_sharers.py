"""Split U2: one session, whose two halves see different sets of sharers."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.adversaries.two_cohorts import HALVES
from audits.simulator.world import Conversation, Outcome, World


class SplitSharers(Attack):
    """All nodes are in U1. Then the aggregator tells each half that only it has shared, and sums each half
    separately."""

    name = "split U2"
    goal = "obtain two sums in one session, over the two halves of the cohort"

    def run(self) -> Outcome:
        world = World()
        first = Conversation(world)
        first.advertise(world.everyone)
        first.show_cohort(world.everyone, world.everyone)
        faces = (first, first.fork())
        sums = []
        for talk, half in zip(faces, HALVES, strict=True):
            talk.deliver(half, half)
            talk.finish(half)
            sums.append(world.is_sum_of(half, talk.knowledge.sum_of(half)))
        return world.outcome(all(sums))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.sharing_threshold_one_too_low(),)
