"""Equivocated checksum contribution: a colluder gives one node another z than the rest, and so another checksum key."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np

from audits.adversaries.attack import Attack
from audits.simulator.world import CORRUPT, DIMENSION, VICTIM, Conversation, Outcome, World
from crypto.kdf import digest
from protocols import sharing
from protocols.checksum import PRIME, ChecksumKey
from protocols.derivations import SHARES_LABEL

OTHER = digest("another contribution")


class UnequalContributions(Attack):
    """T then exceeds the tag of S by <K' - K, x> and constants that the colluder knows; x is the victim's vector."""

    name = "equivocated checksum contribution"
    goal = "learn from T a 61-bit function of the victim's own vector"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.advertise(world.everyone)
        talk.show_cohort(world.honest, world.everyone)
        honest = sharing._seal

        def seal(key: bytes, plaintext: bytes, label: str, session: bytes, sender: int, receiver: int) -> bytes:
            if (receiver, label) == (VICTIM, SHARES_LABEL):
                plaintext = plaintext[: -len(OTHER)] + OTHER
            return honest(key, plaintext, label, session, sender, receiver)

        with patch.object(sharing, "_seal", seal):  # the colluder's own program: only it deals here
            talk.show_cohort([CORRUPT], world.everyone)
        talk.deliver(world.everyone, world.everyone)
        talk.announce(world.everyone, world.everyone)
        talk.agree(world.everyone, world.everyone)
        return world.outcome(self._learns(world, talk))

    def _learns(self, world: World, talk: Conversation) -> bool:
        learned, count = talk.knowledge, len(world.everyone)
        total, summed = learned.unmask(world.everyone), learned.sum_of(world.everyone)
        if total is None or summed is None:
            return False
        key, view = learned.key(VICTIM), learned.view(VICTIM)
        other = ChecksumKey(view, {**learned.contributions, CORRUPT: OTHER}, world.shape.ring_bits)
        excess = (total.tag - key.tag(summed, count)) % PRIME
        vector, nothing = world.vectors[VICTIM], np.zeros(DIMENSION, dtype=np.int64)
        truth = (other.tag(vector) - key.tag(vector)) % PRIME
        return excess == truth != (other.tag(nothing) - key.tag(nothing)) % PRIME
