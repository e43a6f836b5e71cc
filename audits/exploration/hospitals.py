"""Whole nodes over several rounds: `secfed.node.node.Node` with its store, its chain, its session and its answers.

A local state is what the node has on disk and its session. From each, a copy of the node really gets every request of
`audits.exploration.studies`, and a crash. Training is a formula, and the ledger counts rounds but no epsilon; the rest
is the node's own code. The search makes copies only when it reaches a state: most combinations of rounds, groups and
sums never occur.

Two rounds do not reach the cap of three attempts on one state, and no file is restored from a copy here:
`audits.adversaries` covers both.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from audits.exploration.search import Fact, Facts, Move
from audits.exploration.sessions import copy_of
from audits.exploration.studies import Request, Studies
from audits.simulator.federation import LAYOUT, FormulaTrainer
from audits.simulator.studies import policy_of
from dp.errors import AlreadyCommitted, AlreadyReleased, LedgerError
from dp.ledger import Ledger
from dp.sqlite_file import IN_MEMORY
from protocols.client import Client
from protocols.errors import ProtocolError
from protocols.messages import Advertise, Agree, Close
from protocols.session import SessionConfig
from protocols.steps import State
from protocols.wire import Limits, decode, message_type
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.store import NodeStore
from secfed.rounds.channel import Offer
from secfed.rounds.strategies import ModelState

_MOST_BYTES = 1 << 20
_LIVE = (State.ADVERTISED, State.AGREED)
"""The states in which a session is between two requests and can still continue."""
_Key = tuple[Any, ...]


@dataclass(slots=True)
class _Asked:
    """A request to a node in one local state, and its result; it is tried as soon as it can be built."""

    text: str
    ways: list[tuple[int, tuple[bytes, ...]]]
    move: Move | None = None


class _RoundLedger:
    """A ledger that counts rounds: each is committed once and released once, and no epsilon is spent."""

    sequence = 1
    path = Path()

    def __init__(self, entries: frozenset[tuple[str, int]] = frozenset()) -> None:
        self.entries = entries

    def holds(self, kind: str, study: bytes, round_number: int) -> bool:
        return (kind, round_number) in self.entries

    def run(self, study: bytes, facts: object) -> None:
        """How the node runs a study does not matter here."""

    def is_closed(self, study: bytes) -> bool:
        """Nobody asks for the ledger, which would close the study."""
        return False

    def commit(self, study: bytes, round_number: int) -> None:
        self._append("commit", round_number, AlreadyCommitted)

    def release(self, study: bytes, round_number: int, receipt: bytes) -> None:
        self._append("release", round_number, AlreadyReleased)

    def _append(self, kind: str, round_number: int, refusal: type[LedgerError]) -> None:
        if (kind, round_number) in self.entries:
            raise refusal(f"round {round_number} has its {kind}")
        self.entries |= {(kind, round_number)}


class _WatchedTrainer(FormulaTrainer):
    """Remembers the state on which it was last asked to train."""

    trained_on: bytes | None = None

    def contribute(self, state: ModelState, *arguments: Any) -> NDArray[np.int64]:
        self.trained_on = state.digest(LAYOUT)
        return self.vector(state)


class StudyNode:
    """One honest node, in every way to go through a study."""

    def __init__(self, studies: Studies, facts: Facts, index: int) -> None:
        """
        Args:
            studies: the cast.
            facts: gives facts their bits.
            index: this node's place in the roster.
        """
        self.name = f"node {index}"
        self.index = index
        self.refused: Counter[str] = Counter()
        """How many requests were refused, by class of error."""
        self._studies = studies
        self._names = facts
        self._nodes: list[Node] = []
        self._facts: list[int] = []
        self._requests: list[list[_Asked]] = []
        self._known: dict[_Key, int] = {}
        self._scratch: dict[int, Node] = {}
        self._limits = Limits(studies.rules.roster_size, studies.chain().shape.packed_bytes)
        between = [*studies.openings(), *studies.echoes(), *studies.closings()]
        self._between = [(request.text, self._ways(request)) for request in between]
        self._paths = {(path[-1].statement.digest() if path else studies.study.digest): path for path in studies.paths}
        self._state_of(self._start(NodeStore(IN_MEMORY)), 0)

    @property
    def states(self) -> int:
        """The number of local states reached."""
        return len(self._facts)

    def moves(self, state: int, facts: int) -> Iterator[Move]:
        missing = ~facts
        for asked in self._requests[state]:
            messages = next((messages for needs, messages in asked.ways if not needs & missing), None)
            if messages is None:
                continue
            if asked.move is None:
                target = self._after(state, messages) if messages else self._after_crash(state)
                asked.move = Move(target, asked.text)
            if asked.move.target != state:
                yield asked.move

    def facts(self, state: int) -> int:
        return self._facts[state]

    def _after(self, state: int, messages: tuple[bytes, ...]) -> int:
        """The local state after these messages; the same one if they changed nothing."""
        node = self._scratch.pop(state, None) or self._copy(self._nodes[state])
        before, session, answer = _marks(node), node._session.client, b""
        try:
            for message in messages:
                answer = node.handle(message)
        except (ProtocolError, LedgerError) as error:
            self.refused[type(error).__name__] += 1
            answer = b""
        said = [*self._said(node, answer), *self._parted(node), *self._strayed(node, answer)]
        if node._session.client is not session and node._session.client is not None:
            said.append(self._joined(node._session.client, self._facts[state]))
        facts = self._facts[state] | self._names.bits(said)
        if _marks(node) != before:
            return self._state_of(node, facts | self._names.bits(self._parted(self._restarted(node))))
        self._scratch[state] = node  # unchanged: it also serves for the next request
        return state if facts == self._facts[state] else self._state_of(self._copy(node), facts)

    def _after_crash(self, state: int) -> int:
        """The local state after a crash and a restart: the files on disk, and no session."""
        return self._state_of(self._restarted(self._nodes[state]), self._facts[state])

    def _restarted(self, node: Node) -> Node:
        store = NodeStore(IN_MEMORY)
        node.parts.store._database.backup(store._database)
        return self._start(store, _ledger(node).entries)

    def _copy(self, node: Node) -> Node:
        twin = self._restarted(node)
        twin._replica.chain = copy.copy(node.chain)
        twin._session.client = None if node._session.client is None else copy_of(node._session.client)
        twin._session.end.begin()  # time does not pass here: no session times out
        return twin

    def _joined(self, client: Client, facts: int) -> Fact:
        """The fact that the node has begun a session, with the session's number."""
        earlier = [fact for fact in self._names.named(facts & self._names.of_kinds(["round"])) if fact[1] == self.index]
        context = client.config.context
        return "round", self.index, context.round_number, context.digest(), len(earlier)

    def _strayed(self, node: Node, answer: bytes) -> Iterator[Fact]:
        """A fact that must never hold: the node trained on, or signed, a state other than the session's."""
        client, trainer = node._session.client, cast(_WatchedTrainer, node.parts.trainer)
        trained_on, trainer.trained_on = trainer.trained_on, None
        if client is not None and trained_on not in (None, client.config.context.state):
            yield "strayed", self.index, "trained on"
        closed = client is not None and answer and message_type(answer, _MOST_BYTES, None) == Close.TYPE
        if client is not None and closed and client.statement.predecessor != node.chain.head:
            yield "strayed", self.index, "signed about"

    def _parted(self, node: Node) -> Iterator[Fact]:
        """A fact that must never hold: the node's state differs from the one that its receipts lead to."""
        state = node.chain.state.digest(LAYOUT)
        if self._studies.states.get(node.chain.head) != state:
            yield "parted", self.index, node.chain.head

    def _ways(self, request: Request) -> list[tuple[int, tuple[bytes, ...]]]:
        return [(self._names.bits(needs), messages) for needs, messages in request.ways]

    def _in_session(self, node: Node) -> Iterator[Request]:
        """The messages that may come in the node's session."""
        client = node._session.client
        if client is None or client.state not in _LIVE:
            return
        context = client.config.context
        path = self._paths[context.predecessor]
        if client.state is State.ADVERTISED:
            yield from self._studies.agreed(path, context.round_number, self.index)
        else:
            group = tuple(member for member in client.survivors if member in self._studies.honest)
            yield from self._studies.summed(path, context.round_number, group, self.index)

    def _said(self, node: Node, answer: bytes) -> Iterator[Fact]:
        """The facts that everybody may know after the node's answer."""
        if not answer:
            return
        name = message_type(answer, _MOST_BYTES, None)
        client = cast(Client, node._session.client)
        if name == Advertise.TYPE:
            yield "joined", self.index, client.config.context.digest()
        elif name == Agree.TYPE:
            group = tuple(member for member in client.survivors if member in self._studies.honest)
            yield "agreed", self.index, client.config.context.digest(), group
        elif name == Close.TYPE:
            yield "signed", self.index, client.statement
            yield "checked", self.index, client.statement
        elif name == Offer.TYPE:
            yield "signed", self.index, decode(Offer, answer, self._limits, self.index).statement

    def _start(self, store: NodeStore, entries: frozenset[tuple[str, int]] = frozenset()) -> Node:
        """The node on this store and these ledger entries, as after a restart."""
        studies = self._studies
        parts = NodeParts(
            name=studies.study.roster[self.index].name,
            identity=studies.keys[self.index],
            policy=policy_of(studies.rules.minimum),
            ledger=cast(Ledger, _RoundLedger(entries)),
            store=store,
            trainer=_WatchedTrainer(studies.study, self.index),
        )
        return Node(studies.study, parts)

    def _state_of(self, node: Node, facts: int) -> int:
        """The number of this local state; a new one the first time."""
        client = node._session.client
        if client is not None and client.state not in _LIVE:
            node._session.client = client = None  # it gives no new answers any more
        key = (
            facts,
            _rows(node.parts.store),
            _ledger(node).entries,
            node.chain.head,
            None if client is None else (client.config.context.digest(), client.state, client.survivors),
        )
        if key not in self._known:
            self._known[key] = len(self._nodes)
            self._nodes.append(node)
            self._facts.append(facts)
            within = [(request.text, self._ways(request)) for request in self._in_session(node)]
            crash: tuple[str, list[tuple[int, tuple[bytes, ...]]]] = ("crash and restart", [(0, ())])
            self._requests.append([_Asked(text, ways) for text, ways in (*within, *self._between, crash)])
        return self._known[key]


def explored_entropy(studies: Studies) -> AbstractContextManager[object]:
    """While this is active, nodes draw their session secrets from `Studies.entropy`."""

    def client(config: SessionConfig, index: int, *arguments: Any, **rest: Any) -> Client:
        return Client(config, index, *arguments, entropy=studies.entropy(index, config.context.digest()), **rest)

    return patch("secfed.node.session.Client", client)


def _ledger(node: Node) -> _RoundLedger:
    return cast(_RoundLedger, node.parts.ledger)


def _marks(node: Node) -> _Key:
    """A value that changes if a request has any effect on the node."""
    client = node._session.client
    session = None if client is None else (id(client), client.state, len(client._answers))
    return node.parts.store._database.total_changes, node.chain.length, _ledger(node).entries, session


def _rows(store: NodeStore) -> _Key:
    """Everything on disk, except the peers' ledger numbers, which never change here."""
    return tuple(
        tuple(store._database.execute(f"SELECT * FROM {table} ORDER BY 1, 2"))  # noqa: S608 - names from this line
        for table in ("floor", "attempts", "locks", "links")
    )
