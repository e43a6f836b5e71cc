"""An attack: a goal stated as code, and the rules, if any, that stop it where no refusal does.

An attack that fails everywhere proves nothing: it may simply be wrong. So `audits.adversaries.trials` also runs each on
nodes that lack what stops it, line by line and rule by rule, until it reaches its goal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from audits.adversaries.weakened import Weakening
from audits.simulator.world import Outcome


class Attack(ABC):
    """A malicious aggregator, malicious nodes, or both."""

    name: str
    """Short, in the words of the protocol."""
    goal: str
    """What the attacker wants, as one sentence; `run` states it as code."""

    @abstractmethod
    def run(self) -> Outcome:
        """Drive real node state machines in a world of its own and say whether the goal was reached."""

    def weakenings(self) -> tuple[Weakening, ...]:
        """Nodes without the rules (none of them a refusal) that defeat this attack. Fresh at every call.

        Needed if the attack fails although every refusal on its way is removed. If refusals alone stop it, it may name
        a rule on which they rest.
        """
        return ()
