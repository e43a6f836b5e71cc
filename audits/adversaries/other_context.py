"""Shows one node another model, study or round, inside the others' session."""

from __future__ import annotations

import dataclasses
from typing import Any

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import VICTIM, Conversation, Outcome, World
from crypto.kdf import digest


class _OtherContext(Attack):
    """The victim gets the header that it expects, and then joins the session of nodes that expect another."""

    field: str
    value: Any

    def run(self) -> Outcome:
        world = World()
        world.contexts[VICTIM] = dataclasses.replace(world.context(), **{self.field: self.value})
        talk = Conversation(world)
        talk.upload(world.everyone)
        talk.finish(world.everyone)
        together = VICTIM in world.totals and world.client(VICTIM).session == world.client(1).session
        return world.outcome(together)

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.context_without(self.field),)


class OtherModel(_OtherContext):
    """The victim's update is the gradient of a model of the attacker's choice."""

    name = "other model to one node"
    goal = "have the victim's update from another model summed with the others'"
    field = "state"
    value = digest("another state")


class OtherStudy(_OtherContext):
    """The victim works under other rules than the rest."""

    name = "other study to one node"
    goal = "have the victim take part in a session of a study that it did not sign"
    field = "study"
    value = digest("another study")


class OtherRound(_OtherContext):
    """The victim's round number differs from the others'."""

    name = "other round to one node"
    goal = "have the victim take part in a session that has another round number for the others"
    field = "round_number"
    value = 2
