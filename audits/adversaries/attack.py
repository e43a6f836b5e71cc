"""What an attack is: a goal stated as code, tried on real nodes and on nodes with one check taken out.

An attack that fails everywhere proves nothing: it may simply be wrong. So each brings a *weakening*, which takes one
check or one rule out of the nodes, and `both_ways` runs it twice: on the real nodes it must fail, on the weakened ones
it must reach its goal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

from audits.simulator import Outcome


class Attack(ABC):
    """A malicious aggregator, malicious nodes, or both."""

    name: str
    """Short, in the words of the protocol."""
    goal: str
    """What the attacker wants, as one sentence; `run` states it as code."""

    @abstractmethod
    def run(self) -> Outcome:
        """Drive real node state machines in a world of its own and say whether the goal was reached."""

    @abstractmethod
    def weakening(self) -> AbstractContextManager[object]:
        """While this is active, nodes lack the one check or rule that stops the attack."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One attack tried both ways."""

    attack: str
    goal: str
    stopped: bool
    """The goal was not reached on real nodes, and there is a line of code that says why."""
    stopped_by: str | None
    reason: str
    succeeds_when_weakened: bool

    @property
    def as_it_should_be(self) -> bool:
        return self.stopped and self.succeeds_when_weakened


def both_ways(attack: Attack) -> Verdict:
    """Try an attack on real nodes, then on weakened ones."""
    real = attack.run()
    with attack.weakening():
        weakened = attack.run()
    return Verdict(
        attack=attack.name,
        goal=attack.goal,
        stopped=not real.achieved and real.stopped_by is not None,
        stopped_by=real.stopped_by,
        reason=real.reason,
        succeeds_when_weakened=weakened.achieved,
    )
