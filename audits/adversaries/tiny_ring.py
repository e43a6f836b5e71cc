"""Tiny ring: the header announces eight bits per element, too few for any real sum."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import DIMENSION, Conversation, Outcome, World
from protocols.errors import WrongLength
from protocols.parameters import RING_BITS_MIN, RoundShape


class TinyRing(Attack):
    """The nodes' updates would be cut to their lowest bits before they are added."""

    name = "tiny ring"
    goal = "make the nodes upload, and spend their budget, into a ring that their sum does not fit"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.knowledge.shape = RoundShape(DIMENSION, RING_BITS_MIN)
        talk.advertise(world.everyone, ring_bits=RING_BITS_MIN)
        talk.show_cohort(world.everyone, world.everyone)
        try:
            talk.deliver(world.everyone, world.everyone)
        except WrongLength:  # the nodes used the ring that they derived
            return world.outcome(False)
        talk.finish(world.everyone)
        total = talk.knowledge.sum_of(world.everyone)
        return world.outcome(total is not None and not world.is_sum_of(world.everyone, total))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.shape_taken_from_the_header(),)
