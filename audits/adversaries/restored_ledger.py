"""Restored database: a node that was put back from a backup, and has forgotten rounds, locks and spend."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator import CORRUPT, VICTIM, Conversation, Outcome, World


class RestoredLedger(Attack):
    """The peers have seen nine entries of its ledger; now it signs that there are five."""

    name = "restored (rewound) node database"
    goal = "complete a round with a node that has forgotten what it signed and spent"

    def run(self) -> Outcome:
        world = World()
        world.seen_ledgers[CORRUPT] = world.ledgers[CORRUPT] + 4
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.finish(world.everyone)
        return world.outcome(VICTIM in world.totals)

    def weakening(self) -> weakened.Weakening:
        return weakened.ledger_numbers_forgotten()
