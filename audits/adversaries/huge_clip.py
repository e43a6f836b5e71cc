"""Huge clip: one node submits elements far beyond the certified magnitude."""

from __future__ import annotations

import numpy as np

from audits.adversaries.attack import Attack
from audits.simulator.world import DIMENSION, MAGNITUDE, VICTIM, Conversation, Outcome, World


class HugeClip(Attack):
    """The sum does not wrap, and does not show that one node dominates it."""

    name = "huge clip"
    goal = "shift the model, unnoticed, by more than one node's certified share"

    def run(self) -> Outcome:
        world = World()
        world.vectors[VICTIM] = np.full(DIMENSION, 5 * MAGNITUDE, dtype=np.int64)
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.finish(world.everyone)
        rest = np.sum([world.vectors[node] for node in world.everyone if node != VICTIM], axis=0)
        shifts = [int(np.abs(total - rest).max()) for total in world.totals.values()]
        return world.outcome(any(shift > MAGNITUDE for shift in shifts))
