"""Targets that are whole nodes: `Node.handle`, for every kind of request that a coordinator sends.

A federation runs once, with a node that misses the end of a round, so that every kind of request is made. Before each
request to that node everything that it remembers is kept; every input then goes to a node made from it, its ledger and
its store in memory.
"""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cbor2

from dp.errors import DPError
from dp.ledger import Ledger
from protocols.client import Client
from protocols.complaints import Complaint, Faults, Finding
from protocols.errors import FaultKind, ProtocolError
from protocols.messages import FROM_NODE
from protocols.sharing import sign
from protocols.wire import Limits, decode, encode, fields_of
from secfed.aggregator.coordinator import Coordinator
from secfed.engines.embedded.channel import EmbeddedChannel, Simulation
from secfed.node.node import Node
from secfed.node.store import NodeStore
from secfed.rounds.chain import Chain
from secfed.rounds.channel import Offer, RoundOpening, Standing, StudyClosing
from secfed.rounds.faults import NodeClaims
from tests.fuzz.machines import copied
from tests.fuzz.mutators import cbor_mutator
from tests.fuzz.resigning import resigner
from tests.fuzz.target import Target, check_text, need
from tests.secfed.federation import Federation, FormulaTrainer, cut, identities, make_study

_NODE = 1
_CUTS = (cut(_NODE, 2, "close"), cut(2, 2, "close"))
_PROMISE = "a ProtocolError or DPError, or an answer in this node's own name; ledger and store stay whole"


@dataclass(frozen=True, slots=True)
class Moment:
    """A node just before a request."""

    node: Node
    client: Client | None
    chain: Mapping[str, Any]
    ledger: bytes
    store: bytes

    @classmethod
    def of(cls, node: Node) -> Moment:
        return cls(
            node,
            None if node._session.client is None else copied(node._session.client),
            dict(vars(node.chain)),
            _image(node.parts.ledger._connection),
            _image(node.parts.store._database),
        )

    def again(self) -> Node:
        """A node that remembers exactly what that one did, and shares nothing that changes with it."""
        ledger, store = object.__new__(Ledger), object.__new__(NodeStore)
        for name, value in vars(self.node.parts.ledger).items():
            setattr(ledger, name, value)
        ledger._connection = _database(self.ledger)
        store._database = _database(self.store)
        twin = object.__new__(Node)
        for name, value in vars(self.node).items():
            setattr(twin, name, value)
        twin.parts = replace(
            self.node.parts, ledger=ledger, store=store, trainer=FormulaTrainer(self.node.study, _NODE)
        )
        study, identity = self.node.study, self.node.parts.identity
        twin._claims = NodeClaims(study, self.node.index, identity, lambda text: None)
        twin._replica = copy.copy(self.node._replica)
        twin._replica.chain = object.__new__(Chain)
        for name, value in self.chain.items():
            setattr(twin.chain, name, value)
        twin._session = copy.copy(self.node._session)
        twin._session.client = None if self.client is None else copied(self.client)
        return twin


def _image(database: sqlite3.Connection) -> bytes:
    """The bytes of a database, without the write-ahead log that a database in memory cannot have."""
    image = bytearray(database.serialize())
    image[18:20] = b"\1\1"
    return bytes(image)


def _database(image: bytes) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    database.deserialize(image)
    return database


@dataclass
class RecordingChannel:
    """Passes everything on, and keeps what goes to one node and what it was before."""

    federation: Federation
    moments: dict[str, tuple[Moment, bytes]] = field(default_factory=dict)
    """Kind of request -> the node before the last one of it, and the request."""
    messages: list[bytes] = field(default_factory=list)
    """Requests and answers that are not the protocol's own."""

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        channel = EmbeddedChannel(self.federation.nodes, Simulation(cut=_CUTS), lambda name, reason: None)
        node = self.federation.nodes[_NODE]
        request = requests.get(_NODE)
        if request is not None and not channel._is_cut(node.parts.name, round_number, stage):
            self.moments[cbor2.loads(request)["type"]] = Moment.of(node), request
        answers = channel.exchange(requests, round_number=round_number, stage=stage)
        self.messages += [*dict.fromkeys(requests.values()), *answers.values()]
        return answers


@dataclass
class Recorded:
    """What one federation sent."""

    folder: Path
    moments: dict[str, tuple[Moment, bytes]] = field(init=False)
    messages: list[bytes] = field(init=False)
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        federation = Federation(make_study(), self.folder)
        channel = RecordingChannel(federation)
        start = FormulaTrainer.first_state()
        curve = (1.0, 2.0, 3.0, 4.0)
        coordinator = Coordinator(
            federation.study,
            FormulaTrainer.layout,
            start,
            channel,
            show=lambda event: None,
            keep=lambda receipt, packed: None,
            epsilon_by_round=curve,
        )
        coordinator.run()
        self.moments = channel.moments
        self.messages = list(dict.fromkeys(channel.messages))
        self.messages += [encode(link.receipt) for link in coordinator.links]
        self.limits = federation.nodes[_NODE].chain.limits
        faults = _faults(federation)
        self.messages.append(encode(faults.complaints[0]))
        for kind in (RoundOpening, StudyClosing):
            moment, request = self.moments[kind.TYPE]
            message: Any = decode(kind, request, self.limits, None)
            self.moments[kind.TYPE] = moment, encode(kind(**{**fields_of(message), "faults": faults}))


def _faults(federation: Federation) -> Faults:
    """One claim of either sort, about the first round."""
    complaint = Complaint(federation.study.digest, 1, 3, 2, int(FaultKind.SHARE), b"")
    return Faults((sign(complaint, identities(5)[3]),), (Finding(1, 4, int(FaultKind.SIGNATURE)),))


def node_targets(recorded: Recorded) -> Iterator[Target]:
    """A node before every kind of request."""
    mutate = cbor_mutator(resigner(identities(5)))
    requests = tuple(request for _, request in recorded.moments.values())
    for kind, (moment, request) in recorded.moments.items():
        seeds = (request, *(other for other in requests if other != request))
        yield Target(f"node/{kind}", _PROMISE, _handles(moment, recorded.limits), seeds, mutate)


def _handles(moment: Moment, limits: Limits) -> Callable[[bytes], None]:
    kinds = {kind.TYPE: kind for kind in (*FROM_NODE, Offer, Standing, Complaint)}

    def check(data: bytes) -> None:
        node = moment.again()
        try:
            answer = node.handle(data)
        except (ProtocolError, DPError) as error:
            check_text(error)
            answer = b""
        if answer:
            message: Any = decode(kinds[cbor2.loads(answer)["type"]], answer, limits, _NODE)
            need(message.sender == _NODE, "an answer in another's name")
        node.parts.ledger.verify(lambda entry, signature: True)
        need(len(list(node.parts.store.links(node.study.digest))) == node.chain.length, "a link that is not on disk")
        node.parts.ledger.close()
        node.parts.store.close()

    return check
