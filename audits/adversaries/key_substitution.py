"""Key substitution: the aggregator advertises its own keys in the places of all the victim's peers."""

from __future__ import annotations

from audits.adversaries.attack import Attack
from audits.simulator.world import SEVEN, VICTIM, Conversation, Outcome, World
from crypto.identity import Identity
from crypto.kdf import digest


class KeySubstitution(Attack):
    """Every peer that the victim sees is the aggregator, under identity keys that it made itself."""

    name = "key substitution"
    goal = "recover the victim's own vector by playing all of its peers"

    def run(self) -> Outcome:
        world = World(corrupt=[node for node in range(SEVEN.roster_size) if node != VICTIM])
        world.client(VICTIM)  # it has the roster of the study; from here on the others' keys are the attacker's
        for node in world.corrupt:
            world.keys[node] = Identity(digest("substituted identity", bytes([node])))
        talk = Conversation(world)
        talk.upload(world.everyone)
        return world.outcome(world.recovers(VICTIM, talk.knowledge.sum_of([VICTIM])))
