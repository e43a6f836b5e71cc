"""A small world in memory: real nodes, and an aggregator that may do anything.

The nodes are `protocols.client.Client`, unchanged. The aggregator is a `Conversation`: for every stage one method that
takes the receivers and what to show them. So an attack can show different sets to different nodes, repeat, go back, or
send any bytes. Corrupt nodes are real clients that the attacker controls ("puppets"): it may start several of one node
and read their memory. Everything that it learns goes to `audits.simulator.knowledge`, which really computes with it.

Everything follows from the world's seed, except the randomness of HPKE, on which no outcome depends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from audits.simulator.knowledge import Knowledge
from audits.simulator.removal import place_of
from crypto.identity import Identity
from crypto.kdf import digest
from crypto.prg import keystream
from crypto.randomness import Entropy
from protocols import checksum, encoding
from protocols.client import Client
from protocols.errors import ProtocolError
from protocols.events import answer
from protocols.messages import (
    FROM_NODE,
    Advertise,
    Agree,
    Agreement,
    Cohort,
    Delivery,
    Published,
    Share,
    Signature,
    Survivors,
)
from protocols.parameters import CohortRules, RoundShape
from protocols.session import Context, SessionConfig
from protocols.wire import Message, Record, decode, encode, fields_of, message_type, most_map_bytes

STUDY = digest("audited study")
DIMENSION = 4
RING_BITS = 32
MAGNITUDE = 1 << 24
SEVEN = CohortRules(roster_size=7, colluders=1, tolerated_dropouts=2, minimum=3)
"""N = 7, c = 1, f = 2: the quorum is 5, and with a quorum of 4 a split of the roster would succeed."""
VICTIM = 0
CORRUPT = 6

AnyRecord = TypeVar("AnyRecord", bound=Record)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An honest node refused to go on."""

    node: int
    error: Exception
    place: str
    """File and line of the refusal, such as `protocols/client.py:312`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attack ended."""

    achieved: bool
    """Whether the goal was reached, computed from what the attacker holds or from what the nodes did."""
    refusals: tuple[Refusal, ...]
    """The refusals of honest nodes meanwhile, in order."""


_ENDS: ContextVar[tuple[type[Exception], ...]] = ContextVar("ends", default=(ProtocolError,))


@contextmanager
def broken_nodes() -> Iterator[None]:
    """While active, a node may end with any error: without its checks it may lack the data to continue.

    Real nodes end with a ProtocolError. Any other error is a bug in them, and stops the audit.
    """
    token = _ENDS.set((Exception,))
    try:
        yield
    finally:
        _ENDS.reset(token)


def node_ends() -> tuple[type[Exception], ...]:
    """The errors with which a node may end."""
    return _ENDS.get()


class FreshEntropy:
    """A stand-in for the operating system's entropy at one node: deterministic, and different at each draw."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._draws = 0

    def __call__(self, size: int) -> bytes:
        return _stretch(self._seed, self.next_draw(), size)

    def next_draw(self) -> int:
        """The number of this draw."""
        self._draws += 1
        return self._draws


class World:
    """One study's honest nodes, and what they refused."""

    def __init__(self, rules: CohortRules = SEVEN, *, seed: bytes = b"audit", corrupt: Collection[int] = ()) -> None:
        """
        Args:
            rules: the study's cohort rules; they give the size of the roster.
            seed: everything follows from it.
            corrupt: nodes in the attacker's hands; the last of the roster when empty, as many as the rules expect.
        """
        self.seed = seed
        self.rules = rules
        size = rules.roster_size
        self.corrupt = frozenset(corrupt or range(size - rules.colluders, size))
        self.keys = [Identity(digest("audited identity", seed, bytes([node]))) for node in range(size)]
        self.vectors = {node: self._vector(node) for node in range(size)}
        self.shape = RoundShape(DIMENSION, RING_BITS)
        self.ledgers = dict.fromkeys(range(size), 5)
        """Ledger numbers that the nodes advertise."""
        self.seen_ledgers: dict[int, int] = {}
        """The largest numbers that every honest node remembers of its peers."""
        self.contexts: dict[int, Context] = {}
        """Nodes whose study, model or round differs from the others'."""
        self.configs: dict[int, SessionConfig] = {}
        """Nodes that derive a completely different configuration."""
        self.refusals: list[Refusal] = []
        self.totals: dict[int, NDArray[np.int64]] = {}
        """The sum that each honest node accepted and signed."""
        self._clients: dict[int, Client] = {}
        self._entropy: dict[int, FreshEntropy] = {}

    @property
    def honest(self) -> tuple[int, ...]:
        return tuple(node for node in range(self.rules.roster_size) if node not in self.corrupt)

    @property
    def everyone(self) -> tuple[int, ...]:
        return tuple(range(self.rules.roster_size))

    def context(self, node: int = VICTIM) -> Context:
        """The context to which this node believes the round is bound."""
        usual = Context(STUDY, 1, STUDY, digest("base"), digest("state"), self.shape)
        return self.contexts.get(node, usual)

    def config(self, node: int = VICTIM) -> SessionConfig:
        """The configuration that this node derives for the round, from its own study and model."""
        if node in self.configs:
            return self.configs[node]
        roster = tuple(key.public for key in self.keys)
        return SessionConfig(self.rules, roster, self.context(node), MAGNITUDE)

    def start(self, node: int, entropy: Entropy) -> Client:
        """A new session of this node."""
        return Client(
            self.config(node),
            node,
            self.keys[node],
            ledger_sequence=self.ledgers[node],
            last_ledger_sequences=self.seen_ledgers,
            entropy=entropy,
        )

    def client(self, node: int) -> Client:
        """The honest node's one session."""
        if node not in self._clients:
            self.restart(node)
        return self._clients[node]

    def restart(self, node: int) -> None:
        """The node begins a new session, as after a crash, with fresh entropy."""
        entropy = self._entropy.setdefault(node, FreshEntropy(digest("node entropy", self.seed, bytes([node]))))
        self._clients[node] = self.start(node, entropy)

    def refuse(self, node: int, error: Exception) -> None:
        """Note that an honest node left, and where."""
        self.refusals.append(Refusal(node, error, place_of(error)))

    def recovers(self, victim: int, candidate: NDArray[np.int64] | None) -> bool:
        """Whether this is the victim's own vector, to the last bit."""
        return candidate is not None and np.array_equal(candidate, self.vectors[victim])

    def is_sum_of(self, nodes: Iterable[int], candidate: NDArray[np.int64] | None) -> bool:
        """Whether this is the sum of exactly these nodes' vectors."""
        return candidate is not None and np.array_equal(candidate, sum(self.vectors[node] for node in nodes))

    def outcome(self, achieved: bool) -> Outcome:
        """The outcome, with the refusals in this world.

        Args:
            achieved: whether the attacker reached its goal.
        """
        return Outcome(achieved, tuple(self.refusals))

    def _vector(self, node: int) -> NDArray[np.int64]:
        raw = keystream(digest("audited vector", self.seed, bytes([node]))).update(bytes(8 * DIMENSION))
        return np.frombuffer(raw, dtype="<u8").astype(np.int64) >> np.int64(64 - 20)


class Conversation:
    """The aggregator's side of one session, or of one of several faces that it shows in it."""

    def __init__(self, world: World, knowledge: Knowledge | None = None) -> None:
        self.world = world
        self.advertisements: dict[int, Advertise] = {}
        self.knowledge = knowledge or Knowledge(world.config())
        self.agreements: dict[int, Agree] = {}
        self.tamper: Callable[[int, bytes], bytes] = lambda node, data: data
        """May change what is sent to a node."""
        self._puppets: dict[int, Client] = {}
        self.cohort: tuple[Advertise, ...] = ()

    def fork(self) -> Conversation:
        """A second face of the same session: the same envelopes, new puppets, and shared knowledge."""
        twin = Conversation(self.world, self.knowledge)
        twin.advertise(sorted(self._puppets))
        twin.advertisements = self.advertisements
        twin.show_cohort(sorted(self._puppets), self.cohort)
        return twin

    def send(self, node: int, data: bytes) -> Message | None:
        """Give a node any bytes, and learn its answer; None if it does not answer or refuses."""
        client = self._client(node)

        def close(total: NDArray[np.int64]) -> bytes:
            closing = client.close(digest("next state", total.tobytes()))
            if node not in self.world.corrupt:
                self.world.totals[node] = total
            return closing

        try:
            events = client.receive(self.tamper(node, data))
            said = answer(events, lambda: client.submit(self.world.vectors[node]), close)
        except node_ends() as error:
            if node not in self.world.corrupt:
                self.world.refuse(node, error)
            return None
        if node in self.world.corrupt:
            self.knowledge.search(client)
        return self._learn(node, said) if said else None

    def advertise(self, nodes: Iterable[int], **changes: Any) -> None:
        """Stage 0: open the round to these nodes, with a header in which some fields are changed."""
        for node in nodes:
            answer = self.send(node, encode(replaced(self.world.context(node).opening(), **changes)))
            if isinstance(answer, Advertise):
                self.advertisements[node] = answer

    def show_cohort(self, nodes: Iterable[int], cohort: Iterable[int] | tuple[Advertise, ...]) -> None:
        """Stage 1: show these nodes a U1, given by index or as ready advertisements."""
        chosen = [self.advertisements.get(entry) if isinstance(entry, int) else entry for entry in cohort]
        self.cohort = tuple(entry for entry in chosen if entry is not None)
        self.knowledge.show_cohort(self.cohort)
        for node in nodes:
            self.send(node, encode(Cohort(self.cohort)))

    def delivery(self, node: int, sharers: Iterable[int]) -> Delivery:
        """What this node would be given if U2 were `sharers`."""
        shares = [self.knowledge.shares[peer] for peer in sorted(sharers) if peer in self.knowledge.shares]
        return Delivery(
            self.knowledge.session,
            tuple(envelope for share in shares for envelope in share.shares if envelope.receiver == node),
            tuple(envelope for share in shares for envelope in share.seeds if envelope.receiver == node),
        )

    def deliver(self, nodes: Iterable[int], sharers: Collection[int]) -> None:
        """Stage 2: show these nodes a U2. They upload."""
        for node in nodes:
            self.knowledge.sharers[node] = frozenset(sharers)
            self.send(node, encode(self.delivery(node, sharers)))

    def announce(self, nodes: Iterable[int], survivors: Collection[int]) -> None:
        """Stage 3: show these nodes a U3. They sign."""
        for node in nodes:
            answer = self.send(node, encode(Survivors(self.knowledge.session, tuple(sorted(survivors)))))
            if isinstance(answer, Agree):
                self.agreements[node] = answer

    def agreement(self, signers: Iterable[int]) -> Agreement:
        """The existing signatures of these nodes."""
        signed = [node for node in sorted(signers) if node in self.agreements]
        signatures = tuple(Signature(node, self.agreements[node].signature) for node in signed)
        return Agreement(self.knowledge.session, signatures)

    def agree(self, nodes: Iterable[int], signers: Iterable[int]) -> None:
        """Stage 4: show these nodes the signatures of `signers`. They release shares."""
        message = encode(self.agreement(signers))
        for node in nodes:
            self.send(node, message)

    def publish(self, nodes: Iterable[int], survivors: Collection[int]) -> None:
        """Stage 5: publish the sum over these survivors, if the attacker can compute it."""
        total = self.knowledge.unmask(survivors)
        if total is not None:
            packed = encoding.pack(total.vector, self.knowledge.shape)
            message = encode(Published(self.knowledge.session, packed, checksum.encode_tag(total.tag)))
            for node in nodes:
                self.send(node, message)

    def upload(self, cohort: Collection[int]) -> None:
        """Honest play up to the masked inputs of a whole cohort."""
        self.advertise(cohort)
        self.show_cohort(cohort, sorted(cohort))
        self.deliver(cohort, cohort)

    def release(self, cohort: Collection[int]) -> None:
        """Honest play up to the released shares of a whole cohort: everything except the sum."""
        self.upload(cohort)
        self.announce(cohort, cohort)
        self.agree(cohort, cohort)

    def finish(self, survivors: Collection[int]) -> None:
        """Honest play from the masked inputs to the sum over these survivors."""
        self.announce(survivors, survivors)
        self.agree(survivors, survivors)
        self.publish(survivors, survivors)

    def _client(self, node: int) -> Client:
        if node not in self.world.corrupt:
            return self.world.client(node)
        if node not in self._puppets:
            seed = digest("puppet entropy", self.world.seed, bytes([node]))
            self._puppets[node] = self.world.start(node, lambda size: _stretch(seed, 0, size))
        return self._puppets[node]

    def _learn(self, node: int, answer: bytes) -> Message:
        limits = self.knowledge.limits
        most = max(most_map_bytes(each, limits) for each in FROM_NODE)
        name = message_type(answer, most, node)
        kind = next(each for each in FROM_NODE if name == each.TYPE)
        message = decode(kind, answer, limits, node)
        # A second face of a session repeats the puppets' envelopes: the first ones are those that were passed on.
        if not (isinstance(message, Share) and node in self.knowledge.shares):
            self.knowledge.learn(node, message)
        return message


def replaced(record: AnyRecord, **changes: Any) -> AnyRecord:
    """A copy of a record with some fields replaced."""
    return type(record)(**{**fields_of(record), **changes})


def _stretch(seed: bytes, draw: int, size: int) -> bytes:
    return hashlib.shake_256(seed + draw.to_bytes(8, "big")).digest(size)
