"""Reflected and swapped envelopes: the aggregator passes an envelope on as if another node had sent it."""

from __future__ import annotations

from audits.adversaries.attack import Attack
from audits.simulator.world import Conversation, Outcome, World, replaced
from protocols.errors import RemoteError
from protocols.messages import Delivery
from protocols.wire import encode

RECEIVER = 3
FRAMED = 1


class _BentEnvelope(Attack):
    """A delivery with an envelope that is not what it claims to be."""

    goal = "make an honest node name another honest node as the one at fault"

    def bend(self, talk: Conversation, honest: Delivery) -> Delivery:
        """The delivery that the receiver gets."""
        raise NotImplementedError

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.advertise(world.everyone)
        talk.show_cohort(world.everyone, world.everyone)
        honest = talk.delivery(RECEIVER, world.everyone)
        talk.send(RECEIVER, encode(self.bend(talk, honest)))
        blamed = {refusal.error.sender for refusal in world.refusals if isinstance(refusal.error, RemoteError)}
        return world.outcome(not blamed.isdisjoint(world.honest))


class ReflectedEnvelope(_BentEnvelope):
    """The receiver's own envelope to a peer comes back to it as the peer's."""

    name = "reflected envelope"

    def bend(self, talk: Conversation, honest: Delivery) -> Delivery:
        own = next(envelope for envelope in talk.knowledge.shares[RECEIVER].shares if envelope.receiver == FRAMED)
        reflected = replaced(own, sender=FRAMED, receiver=RECEIVER)
        shares = tuple(reflected if envelope.sender == FRAMED else envelope for envelope in honest.shares)
        return replaced(honest, shares=shares)


class SwappedEnvelopes(_BentEnvelope):
    """Two peers' pair seeds arrive under each other's names."""

    name = "swapped envelopes"

    def bend(self, talk: Conversation, honest: Delivery) -> Delivery:
        first, second, *rest = honest.seeds
        swapped = (replaced(second, sender=first.sender), replaced(first, sender=second.sender), *rest)
        return replaced(honest, seeds=swapped)
