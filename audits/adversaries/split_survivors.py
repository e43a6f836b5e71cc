"""Split U3: the aggregator tells half of the nodes that the victim survived, and half that it dropped out."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.adversaries.two_cohorts import HALVES
from audits.simulator.world import VICTIM, Conversation, Outcome, World


class SplitSurvivors(Attack):
    """One half releases shares of the victim's self mask, the other of its mask key; the colluder gives both."""

    name = "split U3"
    goal = "recover the victim's own vector by getting both kinds of its shares from different nodes"

    def run(self) -> Outcome:
        world = World()
        first = Conversation(world)
        first.upload(world.everyone)
        second = first.fork()
        second.deliver(sorted(world.corrupt), world.everyone)
        without_victim = [node for node in world.everyone if node != VICTIM]
        for talk, half, survivors in ((first, HALVES[0], world.everyone), (second, HALVES[1], without_victim)):
            talk.announce(half, survivors)
            talk.agree(half, half)
        return world.outcome(world.recovers(VICTIM, first.knowledge.sum_of([VICTIM])))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.sharing_threshold_one_too_low(),)
