"""Targets that are state machines: a client in every state, and the aggregator at every stage.

One real round is walked through once, with a node that drops out. Before every step each machine is copied, and every
input goes to a fresh copy of the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from protocols.aggregator import Aggregator, Stage
from protocols.client import Client
from protocols.derivations import SessionSecrets
from protocols.errors import ProtocolError, RemoteError, RoundVoid
from protocols.events import Accepted, Rejected, Send
from protocols.messages import FROM_NODE
from protocols.steps import State
from protocols.wire import decode, encode, message_type, most_map_bytes
from tests.fuzz.messages import SENDER
from tests.fuzz.mutators import cbor_mutator
from tests.fuzz.resigning import resigner
from tests.fuzz.target import Target, check_text, need
from tests.protocols.rounds import configure
from tests.protocols.stages import NEW_STATE, Walk

_NODE = SENDER
"""The node whose client is fuzzed, and in whose name the aggregator is: it has peers before and after it."""
_DROPPED = 3
_CLIENT_PROMISE = "a ProtocolError and the session's end with all secrets wiped, or one answer, the same every time"
_AGGREGATOR_PROMISE = "never raises; blames nobody but the sender; what it accepts does not spoil the stage's end"

AnyMachine = TypeVar("AnyMachine", Client, Aggregator)


@dataclass
class WalkedRound:
    """One round, with copies of its machines from every point of it."""

    walk: Walk = field(default_factory=lambda: Walk(configure(5, dropouts=2)))
    clients: dict[State, tuple[Client, bytes]] = field(default_factory=dict)
    """A client in each state, and the message that it waits for there; where it waits for none, the one before."""
    aggregators: dict[Stage, tuple[Aggregator, dict[int, bytes]]] = field(default_factory=dict)
    """The aggregator at the start of each stage, and everybody's answers."""
    messages: list[bytes] = field(default_factory=list)
    """Everything that travelled."""

    def __post_init__(self) -> None:
        walk = self.walk
        for stage in Stage:
            client, request = walk.clients[_NODE], walk.outgoing[_NODE]
            self.clients[client.state] = copied(client), request
            self._keep_states_between(copied(client), request)
            walk.collect({_DROPPED} if stage is Stage.MASKED_INPUT else set())
            if stage is Stage.CLOSE:
                walk.aggregator.expect_state(NEW_STATE)
            self.aggregators[stage] = copied(walk.aggregator), dict(walk.answers)
            self.messages += [*dict.fromkeys(walk.outgoing.values()), *walk.answers.values()]
            walk.hand_over()
        receipt = walk.aggregator.receipt()
        self.clients[State.CLOSED] = copied(walk.clients[_NODE]), request
        self.messages.append(encode(receipt))

    def _keep_states_between(self, client: Client, request: bytes) -> None:
        """A copy that has the message and has not been asked for its own part yet: READY, SUMMED."""
        client.receive(request)
        if client.state in (State.READY, State.SUMMED):
            self.clients[client.state] = client, request


def copied(machine: AnyMachine) -> AnyMachine:
    """A machine in the same state that shares nothing that changes. The real ones refuse to be copied, rightly."""
    twin = object.__new__(type(machine))
    for name, value in vars(machine).items():
        setattr(twin, name, _fresh(value))
    return twin


def _fresh(value: Any) -> Any:
    match value:
        case SessionSecrets():
            twin = object.__new__(SessionSecrets)
            twin._root = None if value._root is None else bytearray(value._root)
            return twin
        case dict() | set() | list() | np.ndarray():
            return value.copy()
    return value


def client_targets(walked: WalkedRound) -> Iterator[Target]:
    """A client in every state."""
    mutate = cbor_mutator(resigner(walked.walk.keys))
    requests = tuple(dict.fromkeys(request for _, request in walked.clients.values()))
    for state, (client, request) in walked.clients.items():
        seeds = (request, *(other for other in requests if other != request))
        yield Target(f"client/{state.value}", _CLIENT_PROMISE, _receives(client), seeds, mutate)


def _receives(pristine: Client) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        client = copied(pristine)
        try:
            events = client.receive(data)
        except ProtocolError as error:
            check_text(error)
            ended = client.state in (State.FAILED, State.CLOSED)
            need(ended and client._secrets.wiped, "a refusal that leaves the session open or secrets behind")
            need(not client._received and not client._pair_seeds, "a refusal that leaves shares or seeds behind")
            return
        answers = [event for event in events if isinstance(event, Send)]
        for answer in answers:
            _check_answer(answer.data, client)
        need(list(client.receive(data)) == answers, "the same bytes got another answer")

    return check


def _check_answer(data: bytes, client: Client) -> None:
    limits = client.config.limits
    name = message_type(data, max(most_map_bytes(kind, limits) for kind in FROM_NODE), client.index)
    kind = next(kind for kind in FROM_NODE if name == kind.TYPE)
    message: Any = decode(kind, data, limits, client.index)
    need(message.sender == client.index, "an answer in another's name")


def aggregator_targets(walked: WalkedRound) -> Iterator[Target]:
    """The aggregator at every stage: an answer of one node, and then the honest answers of the others."""
    mutate = cbor_mutator(resigner(walked.walk.keys))
    for stage, (aggregator, answers) in walked.aggregators.items():
        others = {node: answer for node, answer in answers.items() if node != _NODE}
        # Fresh keys are known to nobody before the cohort is shown: whoever had them could announce them first.
        known = () if stage is Stage.ADVERTISE else others.values()
        seeds = (answers[_NODE], *known)
        yield Target(f"aggregator/{stage.value}", _AGGREGATOR_PROMISE, _takes_answer(aggregator, others), seeds, mutate)


def _takes_answer(pristine: Aggregator, others: Mapping[int, bytes]) -> Callable[[bytes], None]:
    def check(data: bytes) -> None:
        aggregator = copied(pristine)
        event = aggregator.receive(_NODE, data)
        if isinstance(event, Rejected):
            check_text(event.fault)
            need(event.sender == _NODE and event.fault.sender == _NODE, "another than the sender is blamed")
            return
        need(isinstance(event, Accepted), "an answer that was never given counts as given")
        for node, answer in others.items():
            need(isinstance(aggregator.receive(node, answer), Accepted), f"node {node} is refused for another's answer")
        try:
            aggregator.receipt() if aggregator.stage is Stage.CLOSE else aggregator.advance()
        except RoundVoid as error:
            check_text(error)
            need(error.blamed <= {_NODE}, "another than the sender is blamed")
        except RemoteError as error:
            raise AssertionError("advance raises RoundVoid alone") from error

    return check
