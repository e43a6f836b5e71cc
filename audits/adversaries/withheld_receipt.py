"""Withheld receipt: all nodes signed round 1, but the aggregator opens round 2 as if it had no receipt."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.round_numbers import FederationAttack
from audits.simulator.federation import Federation
from audits.simulator.world import Outcome


class WithheldReceipt(FederationAttack):
    """Two receipts with one predecessor: the aggregator could show either, to different nodes."""

    name = "withheld receipt that would fork the chain"
    goal = "obtain two receipts on one predecessor"

    def attack(self, federation: Federation) -> Outcome:
        first = federation.round(1, federation.everyone)
        second = federation.round(2, federation.everyone[1:])  # without the first node, so that the state differs
        if first is None or second is None:
            return federation.log.outcome(False)
        one, other = first[0].statement, second[0].statement
        return federation.log.outcome(one.predecessor == other.predecessor and one.digest() != other.digest())

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.openings_past_the_lock(),)
