"""t = 1, in both places where t matters: the number of signatures, and the number of shares that give a secret."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import CORRUPT, VICTIM, Conversation, Outcome, World


class OneSignature(Attack):
    """No message contains the quorum: the attacker can only act as if one signature were enough."""

    name = "t = 1 in the agreement"
    goal = "have an honest node release its shares against the colluder's signature alone"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.announce(world.everyone, world.everyone)
        talk.agree(world.everyone, [CORRUPT])
        return world.outcome(any(node in talk.knowledge.unmasks for node in world.honest))


class OneShare(Attack):
    """The attacker announces nothing, and has only the shares that the colluder was dealt."""

    name = "t = 1 in the sharing"
    goal = "recover the victim's own vector from one colluder's shares"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.upload(world.everyone)
        return world.outcome(world.recovers(VICTIM, talk.knowledge.sum_of([VICTIM])))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.sharing_threshold(1),)
