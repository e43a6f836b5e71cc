"""Explicit-state search: every state that several nodes can reach together when one attacker carries all messages.

A node is an automaton: a list of local states and, from each, the messages that take it to another. A message *needs*
facts ("node 2 signed these sets"): the attacker can build it as soon as those facts hold, in any order and as often as
it likes. Facts are what nodes have sent; a sent message can be shown for ever, so facts never cease to hold. A global
state is one local state per node. The search visits all global states, breadth first, so a violation comes with a
shortest way to it.

A message that a session refuses leads to no new state: the session has failed (`audits.exploration.sessions`, which
tries the messages, checks that), earlier messages stay known, and the same facts hold in the state in which the
attacker sends it nothing more. Such refusals are counted, but are not states here.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

_LOCAL_BITS = 20
Fact: TypeAlias = tuple[Any, ...]


class Facts:
    """Everything that can become true, as bits of one integer. A fact is a tuple that begins with its kind."""

    def __init__(self) -> None:
        self._bits: dict[Fact, int] = {}
        self._names: list[Fact] = []
        self._kinds: dict[str, int] = {}

    def bits(self, facts: Iterable[Fact]) -> int:
        """These facts, each with a new bit the first time."""
        bits = 0
        for fact in facts:
            if fact not in self._bits:
                bit = 1 << len(self._names)
                self._bits[fact] = bit
                self._names.append(fact)
                self._kinds[fact[0]] = self._kinds.get(fact[0], 0) | bit
            bits |= self._bits[fact]
        return bits

    def of_kinds(self, kinds: Iterable[str]) -> int:
        """Every known fact of these kinds."""
        bits = 0
        for kind in kinds:
            bits |= self._kinds.get(kind, 0)
        return bits

    def named(self, bits: int) -> list[Fact]:
        """The facts of these bits, in the order of their first use."""
        names = []
        while bits:
            lowest = bits & -bits
            names.append(self._names[lowest.bit_length() - 1])
            bits ^= lowest
        return names


class Promises:
    """The promises that must hold for any facts. Each is checked once for every set of the facts that it is about."""

    def __init__(
        self, facts: Facts, promises: Iterable[tuple[Iterable[str], Callable[[list[Fact]], str | None]]]
    ) -> None:
        """
        Args:
            facts: gives the facts their names.
            promises: for each promise, the kinds of fact that it is about, and a function that says what is wrong with
                them, or None.
        """
        self._facts = facts
        self._promises = [(tuple(kinds), check, dict[int, str | None]()) for kinds, check in promises]

    def __call__(self, facts: int) -> str | None:
        """The first promise that these facts break; None when all are kept."""
        for kinds, check, known in self._promises:
            seen = facts & self._facts.of_kinds(kinds)
            if seen not in known:
                known[seen] = check(self._facts.named(seen))
            if known[seen] is not None:
                return known[seen]
        return None


@dataclass(frozen=True, slots=True)
class Move:
    """One message that a node accepts."""

    target: int
    """The node's local state afterwards."""
    text: str
    """The message, for people."""


class Automaton(Protocol):
    """One node as the search sees it. Local state 0 is the first."""

    name: str

    def moves(self, state: int, facts: int) -> Iterable[Move]:
        """The moves of the node from a local state when these facts hold."""
        ...

    def facts(self, state: int) -> int:
        """The facts that the node has made true on its way to a local state."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """How a search ended."""

    states: int
    transitions: int
    seconds: float
    violation: str | None
    """The broken promise in the first bad state; None when there is none."""
    trace: tuple[str, ...] = field(default=())
    """The shortest way to it: each receiver and message."""


def search(
    nodes: Sequence[Automaton],
    check: Callable[[int], str | None],
    progress: Callable[[int], None] = lambda states: None,
) -> Found:
    """Visit every global state.

    Args:
        nodes: the honest nodes.
        check: what is wrong when these facts hold, or None. Called once for every set of facts that is reached.
        progress: told the number of states now and then.
    """
    started = time.monotonic()
    parents: dict[int, int] = {0: 0}
    checked: set[int] = set()
    frontier, transitions = [0], 0
    mask = (1 << _LOCAL_BITS) - 1
    shifts = [_LOCAL_BITS * position for position in range(len(nodes))]
    while frontier:
        following: list[int] = []
        for state in frontier:
            local = [state >> shift & mask for shift in shifts]
            facts = 0
            for node, at in zip(nodes, local, strict=True):
                facts |= node.facts(at)
            if facts not in checked:
                checked.add(facts)
                violation = check(facts)
                if violation is not None:
                    seconds = time.monotonic() - started
                    return Found(len(parents), transitions, seconds, violation, _trace(nodes, parents, state))
            for node, at, shift in zip(nodes, local, shifts, strict=True):
                for move in node.moves(at, facts):
                    if move.target > mask:
                        raise OverflowError(f"{node.name} has more local states than fit {_LOCAL_BITS} bits")
                    transitions += 1
                    new = state + ((move.target - at) << shift)
                    if new not in parents:
                        parents[new] = state
                        following.append(new)
        frontier = following
        progress(len(parents))
    return Found(len(parents), transitions, time.monotonic() - started, None)


def _trace(nodes: Sequence[Automaton], parents: dict[int, int], state: int) -> tuple[str, ...]:
    """The messages that lead from the first state to this one."""
    way = [state]
    while way[-1]:
        way.append(parents[way[-1]])
    way.reverse()
    mask = (1 << _LOCAL_BITS) - 1
    steps: list[str] = []
    for earlier, later in itertools.pairwise(way):
        facts = 0
        for position, node in enumerate(nodes):
            facts |= node.facts(earlier >> _LOCAL_BITS * position & mask)
        for position, node in enumerate(nodes):
            before, after = (each >> _LOCAL_BITS * position & mask for each in (earlier, later))
            if before != after:
                text = next(move.text for move in node.moves(before, facts) if move.target == after)
                steps.append(f"{node.name}: {text}")
    return tuple(steps)
