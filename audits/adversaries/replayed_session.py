"""Replayed session: a node that starts again gets the messages that it saw before."""

from __future__ import annotations

import numpy as np

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import VICTIM, Conversation, Outcome, World
from protocols import encoding


class ReplayedSession(Attack):
    """If the node used the same masks for both updates, the difference of the uploads would be that of the updates."""

    name = "replayed session"
    goal = "learn the difference of two of the victim's updates from two uploads under the same masks"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.upload(world.everyone)
        first, shown = world.vectors[VICTIM], talk.cohort
        upload = talk.knowledge.masked.pop(VICTIM)
        world.restart(VICTIM)
        world.vectors[VICTIM] = second = 3 * first + 1
        talk.advertise([VICTIM])
        talk.show_cohort([VICTIM], shown)
        talk.deliver([VICTIM], world.everyone)
        again = talk.knowledge.masked.get(VICTIM)
        if again is None:
            return world.outcome(False)
        shape = world.shape
        difference = encoding.unpack(again.vector, shape) - encoding.unpack(upload.vector, shape)
        return world.outcome(np.array_equal(encoding.from_ring(difference, shape), second - first))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.entropy_comes_again(),)
