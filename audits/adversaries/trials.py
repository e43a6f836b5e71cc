"""Finds what stops an attack, by removing it from the nodes and running the attack again.

**Lines.** The trial runs the attack on real nodes, removes the first refusal of an honest node
(`audits.simulator.removal`), and runs the attack again, up to the next refusal, until the attack reaches its goal. Then
it shrinks the removed set, until putting any one line back stops the attack again. So the set is enough, and every line
in it is needed. It is not the only such set: another order might find another.

**Rules.** Often an attack fails although every refusal that it met is removed: then the protection is not a refusal,
but a different key, too few shares, or a wiped secret. The attack names such rules; one weakening removes each. The
same search then finds the lines that must also go. Then each rule is put back once: the attack must fail again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from audits.adversaries.attack import Attack
from audits.simulator.removal import is_refusal, without
from audits.simulator.world import Outcome, Refusal, broken_nodes

NOBODY = "nobody refuses anything"


@dataclass(frozen=True, slots=True)
class Search:
    """How far the removal of refusals has led."""

    lines: tuple[str, ...] | None
    """A set of lines that is enough, all of them needed. None if the attack failed with all refusals that it met
    removed."""
    met: tuple[str, ...]
    """All refusals that were removed on the way, in this order."""
    end: str
    """Why the search stopped; empty when the goal was reached."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stops one attack."""

    attack: str
    goal: str
    stopped: bool
    """The goal was not reached on real nodes."""
    first_refusal: str | None
    """File and line at which an honest node first refuses; None when nobody does."""
    reason: str
    """The text of that refusal."""
    by_lines: Search
    """With every rule in place."""
    rules: tuple[str, ...]
    """Rules (none of them a refusal) without which the attack also runs."""
    beside_rules: Search | None
    """With these rules removed. None when the attack names none."""
    idle_rules: tuple[str, ...] = ()
    """Rules that are not needed: with them, the attack still reaches its goal. There should be none."""

    @property
    def sufficient_alone(self) -> bool | None:
        """Whether removing only the first refusal lets the attack succeed. None when nobody refuses."""
        return None if self.first_refusal is None else self.by_lines.lines == (self.first_refusal,)

    @property
    def succeeds_without(self) -> bool:
        """Whether the attack reaches its goal on nodes without the lines and rules that stop it."""
        searches = [self.by_lines] if self.beside_rules is None else [self.beside_rules]
        return all(search.lines is not None for search in searches) and not self.idle_rules

    @property
    def as_it_should_be(self) -> bool:
        return self.stopped and self.succeeds_without


def examine(attack: Attack) -> Verdict:
    """Find out what stops an attack."""
    real = _try(attack, (), ())
    first = real.refusals[0] if real.refusals else None
    rules = range(len(attack.weakenings()))
    beside = _search(attack, rules, _try(attack, (), rules)) if rules and not real.achieved else None
    lines = () if beside is None or beside.lines is None else beside.lines
    idle = [rule for rule in rules if _try(attack, lines, [other for other in rules if other != rule]).achieved]
    return Verdict(
        attack=attack.name,
        goal=attack.goal,
        stopped=not real.achieved,
        first_refusal=None if first is None else first.place,
        reason="" if first is None else f"{type(first.error).__name__}: {first.error}",
        by_lines=_search(attack, (), real),
        rules=tuple(each.rule for each in attack.weakenings()),
        beside_rules=beside,
        idle_rules=tuple(attack.weakenings()[rule].rule for rule in idle),
    )


def _try(attack: Attack, lines: Sequence[str], rules: Sequence[int]) -> Outcome:
    """The attack on nodes that lack these lines and these of its rules."""
    with ExitStack() as lacking:
        if lines or rules:
            lacking.enter_context(broken_nodes())
        lacking.enter_context(without(lines))  # first: a replacement of a function calls the one without the line
        weakenings = attack.weakenings()
        for rule in rules:
            lacking.enter_context(weakenings[rule])
        return attack.run()


def _search(attack: Attack, rules: Sequence[int], outcome: Outcome) -> Search:
    """Remove refusal after refusal, from the attack's outcome without these rules on."""
    met: list[str] = []
    while not outcome.achieved:
        following = _next(outcome.refusals)
        if following is None:
            return Search(None, tuple(met), _end(outcome.refusals))
        if following.place in met:
            raise RuntimeError(f"{following.place} was taken out, and refuses all the same")
        met.append(following.place)
        outcome = _try(attack, met, rules)
    return Search(_none_idle(attack, met, rules), tuple(met), "")


def _next(refusals: Sequence[Refusal]) -> Refusal | None:
    """The first refusal that can be removed. Later errors of a node that has failed are consequences of the failure."""
    failed = set()
    for refusal in refusals:
        if refusal.node not in failed:
            if is_refusal(refusal.place):
                return refusal
            failed.add(refusal.node)
    return None


def _end(refusals: Sequence[Refusal]) -> str:
    if not refusals:
        return NOBODY
    first = refusals[0]
    return f"a node lacks the data to continue: {type(first.error).__name__} at {first.place}"


def _none_idle(attack: Attack, lines: Sequence[str], rules: Sequence[int]) -> tuple[str, ...]:
    """A subset of these lines that is enough for the attack, and in which every line is needed."""
    kept = list(lines)
    while True:
        for line in kept:
            fewer = [other for other in kept if other != line]
            if _try(attack, fewer, rules).achieved:
                kept = fewer
                break
        else:
            return tuple(kept)
