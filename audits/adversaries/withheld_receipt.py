"""Withheld receipt: everybody signed round 1, and the aggregator opens round 2 as if there had been none."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.round_numbers import FederationAttack
from audits.federation import Federation
from audits.simulator import Outcome, Protection
from secfed.node import Node


class WithheldReceipt(FederationAttack):
    """Two receipts with one predecessor: the aggregator could show either, to different nodes."""

    name = "withheld receipt that would fork the chain"
    goal = "obtain two receipts on one predecessor"

    def attack(self, federation: Federation) -> Outcome:
        first = federation.round(1, federation.everyone)
        second = federation.round(2, federation.everyone[1:])  # without the first node, or the state would be the same
        lock = Protection(
            Node._open_round, "self._unfinished()", "a node that signed round 1 offers it and joins no other"
        )
        if first is None or second is None:
            return federation.log.outcome(False, lock)
        one, other = first[0].statement, second[0].statement
        return federation.log.outcome(one.predecessor == other.predecessor and one.digest() != other.digest(), lock)

    def weakening(self) -> weakened.Weakening:
        return weakened.no_lock()
