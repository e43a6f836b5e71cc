"""t = 1: the aggregator has one signature and one colluder's shares, and asks for more with that."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator import CORRUPT, VICTIM, Conversation, Outcome, World


class OneSignature(Attack):
    """The quorum is in no message: the attacker can only act as if it were one."""

    name = "t = 1"
    goal = "recover the victim's own vector from one colluder's shares and an agreement of one"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.announce(world.everyone, world.everyone)
        talk.agree(world.everyone, [CORRUPT])
        return world.outcome(world.recovers(VICTIM, talk.knowledge.sum_of([VICTIM])))

    def weakening(self) -> weakened.Weakening:
        return weakened.quorum_of(1)
