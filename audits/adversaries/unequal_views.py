"""Unequal views: the aggregator shows one node a smaller U2 than the rest, and still sums it with them.

The checksum key follows from U2, because every sharer contributes to it. A node with another U2 tags its input with
another key, and T then exceeds the tag of S by <K' - K, x> and constants; x is that node's own vector. A colluder knows
every contribution and so both keys, and reads 61 bits of x. The node need not sign anything: a quorum of the others is
enough to sum it. The defence: masks are derived under the view, including U2, so the node's input shares no stream with
the others' and never gets unmasked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain
from typing import ClassVar

import numpy as np

from audits.adversaries import weakened
from audits.adversaries.round_numbers import FederationAttack
from audits.simulator.federation import Federation, FormulaTrainer
from audits.simulator.knowledge import Knowledge
from audits.simulator.world import CORRUPT, VICTIM, Outcome
from protocols.checksum import PRIME
from protocols.messages import (
    Advertise,
    Agree,
    Agreement,
    Cohort,
    Delivery,
    MaskedInput,
    Share,
    Signature,
    Survivors,
    Unmask,
)
from protocols.wire import AnyMessage, Message, encode

OTHER = 1
"""An honest node beside the victim."""


class _UnequalViews(FederationAttack):
    """Against whole nodes: seven of them, and all have shared."""

    goal = "learn from T a 61-bit function of single nodes' vectors"
    hidden: ClassVar[Mapping[int, Collection[int]]]
    """Node -> the nodes left out of the U2 that it sees."""
    dropped: Collection[int] = ()
    """The nodes declared dropped."""

    def attack(self, federation: Federation) -> Outcome:
        learned = Knowledge(federation.config(1))
        everyone = federation.everyone
        survivors = tuple(node for node in everyone if node not in self.dropped)
        signers = [node for node in survivors if node not in self.hidden]
        _share(federation, learned)
        for node in everyone:
            learned.sharers[node] = frozenset(everyone) - frozenset(self.hidden.get(node, ()))
            _learn(federation, learned, MaskedInput, node, _delivery(learned, node))
        announced = Survivors(learned.session, survivors)
        agreed = [_learn(federation, learned, Agree, node, announced) for node in signers]
        signatures = tuple(Signature(each.sender, each.signature) for each in agreed if each is not None)
        for node in signers:
            _learn(federation, learned, Unmask, node, Agreement(learned.session, signatures))
        return federation.log.outcome(self._learns(federation, learned, survivors))

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.masks_not_bound_to_the_view(),)

    def _learns(self, federation: Federation, learned: Knowledge, survivors: tuple[int, ...]) -> bool:
        """Whether the excess in T is the function of the misled nodes' vectors that two known keys give."""
        total, summed = learned.unmask(survivors), learned.sum_of(survivors)
        if total is None or summed is None:
            return False
        key = learned.key(CORRUPT)
        excess = (total.tag - key.tag(summed, len(survivors))) % PRIME
        truth, nothing = 0, 0
        for node in self.hidden:
            own, zero = learned.key(node), np.zeros_like(summed)
            vector = FormulaTrainer(federation.study, node).vector(federation.chain.state)
            truth += own.tag(vector) - key.tag(vector)
            nothing += own.tag(zero) - key.tag(zero)
        return excess == truth % PRIME != nothing % PRIME


class HiddenColluder(_UnequalViews):
    """The demo's parameters are enough: all others sign, the victim never does."""

    name = "unequal U2: a colluder hidden from one node"
    hidden: ClassVar = {VICTIM: (CORRUPT,)}


class HiddenHonestNodes(_UnequalViews):
    """Two honest nodes hidden from each other: none of their pair masks remains."""

    name = "unequal U2: two honest nodes hidden from each other"
    hidden: ClassVar = {VICTIM: (OTHER,), OTHER: (VICTIM,)}


class HiddenAndDropped(_UnequalViews):
    """An honest node is hidden from the victim and then declared dropped: its pair masks are rebuilt."""

    name = "unequal U2: an honest node hidden and declared dropped"
    hidden: ClassVar = {VICTIM: (OTHER,)}
    dropped = (OTHER,)


def _share(federation: Federation, learned: Knowledge) -> None:
    """An honest round among all nodes, up to the shares."""
    opening = federation.config(1).context.opening()
    opened = [federation.open(node, opening) for node in federation.everyone]
    cohort = tuple(entry for entry in opened if isinstance(entry, Advertise))
    learned.show_cohort(cohort)
    for node in federation.everyone:
        _learn(federation, learned, Share, node, Cohort(cohort))


def _delivery(learned: Knowledge, node: int) -> Delivery:
    shown = [learned.shares[peer] for peer in sorted(learned.sharers[node])]
    return Delivery(
        learned.session,
        tuple(each for each in chain.from_iterable(share.shares for share in shown) if each.receiver == node),
        tuple(each for each in chain.from_iterable(share.seeds for share in shown) if each.receiver == node),
    )


def _learn(
    federation: Federation, learned: Knowledge, kind: type[AnyMessage], node: int, request: Message
) -> AnyMessage | None:
    """Learn the node's answer, and everything that the corrupt node then holds. Returns None if the node refuses."""
    answer = federation.send(node, encode(request))
    client = federation.nodes[node]._session.client
    if node == CORRUPT and client is not None:
        learned.search(client)
    if not answer:
        return None
    message = federation.read(kind, answer)
    learned.learn(node, message)
    return message
