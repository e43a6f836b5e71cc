"""A changed sum: everybody gets the same sum, but it is not the sum of the survivors' inputs."""

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


class _LastMessage(Attack):
    """An honest round, except for its last message. The aggregator colludes with no node here: integrity needs that."""

    def show(self, node: int, total: Vector, tag: int) -> tuple[Vector, int]:
        """What the attacker computes from the sum and its tag, and shows to this node in their place."""
        raise NotImplementedError

    def reached(self, world: World) -> bool:
        """Whether the goal is reached, by the sums that honest nodes accepted."""
        raise NotImplementedError

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        talk.release(world.everyone)
        honest = talk.knowledge.unmask(world.everyone)
        if honest is None:
            return world.outcome(False)
        shape = world.shape
        for node in world.everyone:
            total, tag = self.show(node, encoding.from_ring(honest.vector, shape), honest.tag)
            packed = encoding.pack(encoding.to_ring(total, shape, 1 << 62), shape)
            message = Published(talk.knowledge.session, packed, checksum.encode_tag(tag % checksum.PRIME))
            talk.send(node, encode(message))
        return world.outcome(self.reached(world))


class _BentSum(_LastMessage):
    """The aggregator shows everybody the same wrong sum."""

    goal = "shift the model, unnoticed"

    def bend(self, total: Vector, tag: int) -> tuple[Vector, int]:
        """Another sum, and a tag for it."""
        raise NotImplementedError

    def show(self, node: int, total: Vector, tag: int) -> tuple[Vector, int]:
        return self.bend(total, tag)

    def reached(self, world: World) -> bool:
        accepted = [world.totals[node] for node in world.honest if node in world.totals]
        return any(not world.is_sum_of(world.everyone, each) for each in accepted)


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


class EquivocatingSum(_LastMessage):
    """The aggregator shows half of the nodes another sum than the rest."""

    name = "equivocating sum"
    goal = "make honest nodes of one session accept different sums"

    def show(self, node: int, total: Vector, tag: int) -> tuple[Vector, int]:
        return total + node % 2, tag

    def reached(self, world: World) -> bool:
        return len({digest("accepted", total.tobytes()) for total in world.totals.values()}) > 1
