"""Dropped signatures: an agreement with valid signatures, but fewer than the quorum."""

from __future__ import annotations

from audits.adversaries.attack import Attack
from audits.adversaries.two_cohorts import HALVES
from audits.simulator.world import VICTIM, Conversation, Outcome, World


class DroppedSignatures(Attack):
    """Half of the nodes agree on one survivor set, half on another; each half sees only its own signatures."""

    name = "dropped signature in the agreement"
    goal = "make honest nodes of one session release shares for different survivor sets"

    def run(self) -> Outcome:
        world = World()
        first = Conversation(world)
        first.upload(world.everyone)
        second = first.fork()
        without_victim = [node for node in world.everyone if node != VICTIM]
        for talk, half, survivors in ((first, HALVES[0], world.everyone), (second, HALVES[1], without_victim)):
            talk.announce(half, survivors)
            talk.agree(half, half)
        released = first.knowledge.unmasks
        sets = {
            tuple(entry.owner for entry in released[node].self_mask_shares) for node in world.honest if node in released
        }
        return world.outcome(len(sets) > 1)
