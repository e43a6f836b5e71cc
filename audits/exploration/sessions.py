"""One whole session: every way in which honest nodes can go through it while an attacker carries their messages.

Every local state of a node is a real `protocols.client.Client`. From each, a copy really gets every message of the
pool: a message that it accepts is a move, one that it refuses is counted, and one that it sends becomes a fact.
`audits.exploration.search` then combines the nodes' states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator

from audits.exploration.pool import Candidate, Member, Pool
from audits.exploration.promises import state_after
from audits.exploration.search import Fact, Facts, Move
from protocols.client import Client
from protocols.derivations import SessionSecrets
from protocols.errors import ProtocolError
from protocols.events import ClientEvent, InputWanted, Send, SumPublished
from protocols.messages import FROM_NODE, Advertise, Agree, Close, MaskedInput, Share, Unmask
from protocols.steps import State
from protocols.wire import Message, decode, message_type

_WIPED = (State.UNMASKED, State.SUMMED, State.CLOSED, State.FAILED)
_MOST_BYTES = 1 << 20


class SessionNode:
    """One honest node's local states and moves, found by running its code."""

    def __init__(self, pool: Pool, facts: Facts, index: int) -> None:
        self.name = f"node {index}"
        self.index = index
        self.refused: Counter[str] = Counter()
        """How many messages were refused, by class of error."""
        self._pool = pool
        self._names = facts
        self._clients: list[Client] = []
        self._facts: list[int] = []
        self._moves: list[list[tuple[int, Move]]] = []
        """For each local state: the facts without which the attacker cannot build the message, and the move."""
        self._known: dict[Hashable, int] = {}
        self._said: dict[bytes, Fact] = {}
        self._state_of(pool.start((index, "A")), 0)
        for state in self._unexplored():
            self._explore(state)

    @property
    def states(self) -> int:
        """How many local states there are."""
        return len(self._facts)

    @property
    def cohorts(self) -> dict[bytes, tuple[Member, ...]]:
        """U1 of every session that this node reached."""
        return {client.session: self._pool.members(client) for client in self._clients if client.session}

    def moves(self, state: int, facts: int) -> list[Move]:
        missing = ~facts
        return [move for needs, move in self._moves[state] if not needs & missing]

    def facts(self, state: int) -> int:
        return self._facts[state]

    def _unexplored(self) -> Iterator[int]:
        while len(self._moves) < len(self._clients):
            yield len(self._moves)

    def _explore(self, state: int) -> None:
        """Give this local state every message that there is."""
        moves: list[tuple[int, Move]] = []
        client = self._clients[state]
        for candidate in self._pool.candidates(client):
            twin = copy_of(client)
            try:
                sent = self._handle(twin, candidate)
            except Exception as error:
                self.refused[type(error).__name__] += 1
                if not isinstance(error, ProtocolError):  # no message may raise an error that is not a ProtocolError
                    moves.append((self._names.bits(candidate.needs[0]), self._broken(state, error, candidate.text)))
                    continue
                sent = self._secrets_kept(twin)
                if twin.state not in (State.FAILED, State.CLOSED):
                    sent.append(("went on", self.index, twin.state.value))
                if not sent:
                    continue
            target = self._state_of(twin, self._facts[state] | self._names.bits(sent))
            if target != state:
                move = Move(target, candidate.text)
                moves += [(self._names.bits(needs), move) for needs in candidate.needs]
        self._moves.append(moves)

    def _broken(self, state: int, error: Exception, text: str) -> Move:
        """The move to a local state that must never occur: a message made the node fail."""
        fact = "broke", self.index, type(error).__name__
        return Move(self._state_of(copy_of(self._clients[state]), self._facts[state] | self._names.bits([fact])), text)

    def _handle(self, client: Client, candidate: Candidate) -> list[Fact]:
        """The facts that follow from it."""
        facts: list[Fact] = []
        for event in client.receive(candidate.data):
            facts += self._act(client, event)
        return facts + self._secrets_kept(client)

    def _act(self, client: Client, event: ClientEvent) -> list[Fact]:
        match event:
            case Send(data):
                return [self._fact(client, data)]
            case InputWanted():
                self._pool.streams.take()
                return [self._fact(client, client.submit(self._pool.vectors[self.index]))]
            case SumPublished(_, total):
                return [self._fact(client, client.close(state_after(int(total[0]))))]
        return []

    def _fact(self, client: Client, data: bytes) -> Fact:
        """The facts that everybody may know after this node has sent these bytes. The same bytes again are the same
        fact."""
        if data not in self._said:
            self._said[data] = self._read(client, data)
        return self._said[data]

    def _read(self, client: Client, data: bytes) -> Fact:
        name = message_type(data, _MOST_BYTES, None)
        kind: type[Message] = next(each for each in FROM_NODE if name == each.TYPE)
        message = decode(kind, data, self._pool.limits, None)
        match message:
            case Advertise():
                return "advertise", self.index
            case Share():
                return "share", self.index, message.session
            case MaskedInput():
                key = client._checksum_key()._stream_key
                return "upload", self.index, message.session, self._pool.streams.take(), key
            case Agree():
                return "agree", self.index, message.session, message.sharers, message.survivors
            case Unmask():
                self_masks = tuple(entry.owner for entry in message.self_mask_shares)
                mask_keys = tuple(entry.owner for entry in message.mask_key_shares)
                return "unmask", self.index, message.session, self_masks, mask_keys
            case Close():
                statement = client.statement
                return "close", self.index, statement
        raise TypeError(f"a node sent {name}")

    def _secrets_kept(self, client: Client) -> list[Fact]:
        """A fact that must never hold: secrets that outlive their use."""
        if client.state not in _WIPED:
            return []
        kept = not client._secrets.wiped or client._received or client._pair_seeds
        late = client.state is not State.UNMASKED and client.checksum_contributions
        return [("kept", self.index, client.state.value)] if kept or late else []

    def _state_of(self, client: Client, facts: int) -> int:
        """The number of this local state; a new one the first time."""
        # Which of several good messages of one kind came first does not affect what may come next: any second one is
        # refused. So the digests of received bytes are left out.
        key = (
            client.state,
            facts,
            client.session,
            tuple(client._cohort.values()),
            client.sharers,
            client.survivors,
            client._published,
            tuple(sorted(client._answers)),
        )
        if key not in self._known:
            self._known[key] = len(self._clients)
            self._clients.append(client)
            self._facts.append(facts)
        return self._known[key]


def copy_of(client: Client) -> Client:
    """A second client in the same state. A real one refuses to be copied: it would answer twice."""
    twin = object.__new__(type(client))
    for name, value in vars(client).items():
        setattr(twin, name, dict(value) if isinstance(value, dict) else value)
    secrets = object.__new__(SessionSecrets)
    root = client._secrets._root
    secrets._root = None if root is None else bytearray(root)
    twin._secrets = secrets
    return twin
