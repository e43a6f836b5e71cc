"""Late masked input: the aggregator declares a node dropped, gets its pair masks rebuilt, and then its upload
arrives."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.attack import Attack
from audits.simulator.world import VICTIM, Conversation, Outcome, World


class LateInput(Attack):
    """The upload was on its way. Only the aggregator does anything wrong: it keeps the upload."""

    name = "late masked input of a declared-dropped node"
    goal = "recover the victim's own vector from its late upload, with the pair masks of a dropped node"

    def run(self) -> Outcome:
        world = World()
        talk = Conversation(world)
        others = [node for node in world.everyone if node != VICTIM]
        talk.upload(world.everyone)
        talk.finish(others)
        learned = talk.knowledge
        achieved = any(
            world.recovers(VICTIM, learned.sum_of([VICTIM], self_masks=self_masks)) for self_masks in (True, False)
        )
        return world.outcome(achieved)

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.no_self_mask(),)
