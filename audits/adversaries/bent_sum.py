"""A changed sum: everybody is told the same sum, and it is not what the survivors sent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import DIMENSION, Conversation, Outcome, World
from crypto.kdf import digest
from protocols import checksum, encoding
from protocols.messages import Published
from protocols.wire import encode

Vector = NDArray[np.int64]


class _BentSum(Attack):
    """An honest round, but for its last message. The aggregator colludes with no node here: integrity needs that."""

    goal = "shift the model, unnoticed"

    def bend(self, total: Vector, tag: int) -> tuple[Vector, int]:
        """Another sum, and the tag that the attacker can compute for it."""
        raise NotImplementedError

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.release(world.everyone)
        honest = talk.knowledge.unmask(world.everyone)
        if honest is None:
            return world.outcome(False)
        shape = world.shape
        total, tag = self.bend(encoding.from_ring(honest.vector, shape), honest.tag)
        packed = encoding.pack(encoding.to_ring(total, shape, 1 << 62), shape)
        message = Published(talk.knowledge.session, packed, checksum.encode_tag(tag % checksum.PRIME))
        for node in world.everyone:
            talk.send(node, encode(message))
        accepted = [world.totals[node] for node in world.honest if node in world.totals]
        return world.outcome(any(not world.is_sum_of(world.everyone, each) for each in accepted))


class AddedOffset(_BentSum):
    """One step on one element, and the honest tag."""

    name = "sum with an added offset"

    def bend(self, total: Vector, tag: int) -> tuple[Vector, int]:
        return total + np.eye(1, DIMENSION, dtype=np.int64)[0], tag


class ScaledSum(_BentSum):
    """Twice the sum with twice the tag: a linear checksum would fit."""

    name = "sum scaled together with its tag"

    def bend(self, total: Vector, tag: int) -> tuple[Vector, int]:
        return 2 * total, 2 * tag

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.checksum_without_constant(),)


class NegatedSum(ScaledSum):
    """The model would move the other way."""

    name = "sum negated together with its tag"

    def bend(self, total: Vector, tag: int) -> tuple[Vector, int]:
        return -total, -tag


class ZeroedSum(ScaledSum):
    """The model would not move."""

    name = "sum zeroed together with its tag"

    def bend(self, total: Vector, tag: int) -> tuple[Vector, int]:
        return 0 * total, 0


class EquivocatingSum(Attack):
    """The aggregator shows half of the nodes another sum than the rest."""

    name = "equivocating sum"
    goal = "make honest nodes of one session accept different sums"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.release(world.everyone)
        honest = talk.knowledge.unmask(world.everyone)
        if honest is None:
            return world.outcome(False)
        for node in world.everyone:
            vector = honest.vector + np.uint32(node % 2)
            packed = encoding.pack(vector, world.shape)
            talk.send(node, encode(Published(talk.knowledge.session, packed, checksum.encode_tag(honest.tag))))
        accepted = {digest("accepted", total.tobytes()) for total in world.totals.values()}
        return world.outcome(len(accepted) > 1)
