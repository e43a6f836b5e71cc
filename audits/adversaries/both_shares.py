"""Both shares of one node: a second, different survivor set after the first one's shares were released."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import VICTIM, Conversation, Outcome, World


class BothShares(Attack):
    """All upload. The aggregator tells the others that the victim dropped out, gets its mask key, and then says that it
    did not."""

    name = "both shares of one node"
    goal = "recover the victim's own vector by getting shares of its mask key and of its self mask"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        others = [node for node in world.everyone if node != VICTIM]
        talk.upload(world.everyone)
        for survivors in (others, world.everyone):
            talk.announce(others, survivors)
            talk.agree(others, others)
        return world.outcome(world.recovers(VICTIM, talk.knowledge.sum_of([VICTIM])))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return weakened.sessions_go_back(), weakened.secrets_not_wiped()
