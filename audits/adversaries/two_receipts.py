"""Equivocating sum with a colluder: the attacker knows the checksum key and shows each half its own, valid sum.

The protocol promises integrity of the sum only against an aggregator that colludes with no node. It always promises
agreement.
"""

from __future__ import annotations

import numpy as np

from audits.adversaries.attack import Attack
from audits.adversaries.two_cohorts import HALVES
from audits.simulator.world import CORRUPT, Conversation, Outcome, World
from protocols import checksum, encoding
from protocols.errors import ProtocolError
from protocols.messages import Published, Signature
from protocols.receipts import SIGNING_LABEL, Receipt, verify_receipt
from protocols.steps import State
from protocols.wire import encode


class TwoReceipts(Attack):
    """Each half signs the statement over the sum that it saw; the colluder signs both."""

    name = "equivocating sum with a colluder's checksum key"
    goal = "obtain two receipts of one round, over two different sums"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.release(world.everyone)
        verified = [self._closes(world, talk, half, offset) for offset, half in enumerate(HALVES)]
        return world.outcome(all(verified))

    def _closes(self, world: World, talk: Conversation, half: tuple[int, ...], offset: int) -> bool:
        """Show a half the sum with this offset, and build a receipt from its signatures. Returns whether other nodes
        accept it."""
        learned, honest = talk.knowledge, [node for node in half if node != CORRUPT]
        summed = learned.sum_of(world.everyone)
        if summed is None:
            return False
        total = summed + np.int64(offset)
        key = learned.key(honest[0])
        tag = checksum.encode_tag(key.tag(total, len(world.everyone)))
        packed = encoding.pack(encoding.to_ring(total, world.shape, 1 << 62), world.shape)
        for node in honest:
            talk.send(node, encode(Published(learned.session, packed, tag)))
        if any(world.client(node).state is not State.CLOSED for node in honest):
            return False
        statement = world.client(honest[0]).statement
        own = Signature(CORRUPT, world.keys[CORRUPT].sign(SIGNING_LABEL, statement.digest()))
        signatures = (*(Signature(node, learned.closings[node].signature) for node in honest), own)
        config = world.config()
        try:
            verify_receipt(
                Receipt(statement, signatures),
                study=config.context.study,
                predecessor=config.context.predecessor,
                rules=config.rules,
                roster=config.roster,
            )
        except ProtocolError as error:
            world.refuse(honest[0], error)
            return False
        return True
