"""A round one stage at a time, so that a test can change what travels and look at every party in between.

`rounds.Round` plays a whole round and lets errors through; `Walk` stops before any stage, and a client that refuses to
go on has left, with its error noted, as it would in a hospital.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from crypto.kdf import digest
from protocols import sharing
from protocols.aggregator import Aggregator, Stage
from protocols.client import Client
from protocols.errors import ProtocolError
from protocols.events import Accepted, Rejected, answer
from protocols.messages import (
    Advertise,
    Agree,
    Agreement,
    Close,
    Cohort,
    Delivery,
    MaskedInput,
    Opening,
    Published,
    Share,
    Survivors,
    Unmask,
)
from protocols.session import SessionConfig
from protocols.wire import Message, Record, SignedMessage, decode, encode, fields_of
from tests.protocols.rounds import identities, random_vectors, seeded_entropy

NEW_STATE = digest("next state")

TO_NODE: dict[Stage, type[Message]] = {
    Stage.ADVERTISE: Opening,
    Stage.SHARE: Cohort,
    Stage.MASKED_INPUT: Delivery,
    Stage.AGREE: Survivors,
    Stage.UNMASK: Agreement,
    Stage.CLOSE: Published,
}
FROM_NODE: dict[Stage, type[Message]] = {
    Stage.ADVERTISE: Advertise,
    Stage.SHARE: Share,
    Stage.MASKED_INPUT: MaskedInput,
    Stage.AGREE: Agree,
    Stage.UNMASK: Unmask,
    Stage.CLOSE: Close,
}

AnyRecord = TypeVar("AnyRecord", bound=Record)
AnySigned = TypeVar("AnySigned", bound=SignedMessage)


class Walk:
    """One round in memory. `outgoing` is what the aggregator wants delivered next; tests may change it first."""

    def __init__(
        self,
        config: SessionConfig,
        *,
        client_class: Callable[..., Client] = Client,
        seen_ledgers: Mapping[int, int] | None = None,
        seed: bytes = b"walk",
    ) -> None:
        self.config = config
        self.vectors = random_vectors(config, seed=1)
        self.keys = identities(len(config.roster))
        self.clients = {
            node: client_class(
                config,
                node,
                key,
                ledger_sequence=5,
                last_ledger_sequences=seen_ledgers,
                entropy=seeded_entropy(seed + bytes([node])),
            )
            for node, key in enumerate(self.keys)
        }
        self.aggregator = Aggregator(config)
        self.outgoing = self.aggregator.open()
        self.answers: dict[int, bytes] = {}
        self.totals: dict[int, NDArray[np.int64]] = {}
        self.left: dict[int, ProtocolError] = {}
        """Clients that refused to go on, and why."""
        self.rejected: list[Rejected] = []

    @property
    def stage(self) -> Stage:
        return self.aggregator.stage

    def answer(self, node: int, data: bytes) -> bytes:
        """What the node answers to these bytes, through to the end of the stage."""
        client = self.clients[node]

        def close(total: NDArray[np.int64]) -> bytes:
            self.totals[node] = total
            return client.close(NEW_STATE)

        return answer(client.receive(data), lambda: client.submit(self.vectors[node]), close)

    def collect(self, absent: frozenset[int] | set[int] = frozenset()) -> None:
        """Deliver `outgoing` and note the answers; the aggregator does not have them yet."""
        self.answers = {}
        for node, data in self.outgoing.items():
            if node in absent:
                continue
            try:
                self.answers[node] = self.answer(node, data)
            except ProtocolError as error:
                self.left[node] = error

    def hand_over(self) -> None:
        """Give the aggregator the noted answers and close the stage."""
        if self.stage is Stage.CLOSE:
            self.aggregator.expect_state(NEW_STATE)
        for node, data in self.answers.items():
            event = self.aggregator.receive(node, data)
            if isinstance(event, Rejected):
                self.rejected.append(event)
            else:
                assert isinstance(event, Accepted)
        if self.stage is not Stage.CLOSE:
            self.outgoing = self.aggregator.advance()

    def to(self, stage: Stage, absent: Mapping[Stage, set[int]] | None = None) -> Walk:
        """Go on until `outgoing` holds what starts this stage."""
        while self.stage is not stage:
            self.collect((absent or {}).get(self.stage, set()))
            self.hand_over()
        return self

    def finish(self, absent: Mapping[Stage, set[int]] | None = None) -> Walk:
        """Go on to the receipt."""
        self.to(Stage.CLOSE, absent)
        self.collect()
        self.hand_over()
        return self

    def read(self, kind: type[Any], data: bytes) -> Any:
        return decode(kind, data, self.config.limits, None)

    def bend(self, node: int, **changes: Any) -> bytes:
        """The message waiting for this node, with some fields replaced."""
        message = self.read(TO_NODE[self.stage], self.outgoing[node])
        return encode(replaced(message, **changes))

    def bend_answer(self, node: int, **changes: Any) -> None:
        """Replace fields of a node's noted answer and sign it again: what a dishonest node would send."""
        message = self.read(FROM_NODE[self.stage], self.answers[node])
        self.answers[node] = encode(sharing.sign(replaced(message, **changes), self.keys[node]))


def replaced(record: AnyRecord, **changes: Any) -> AnyRecord:
    """A copy of a record with some fields replaced."""
    return type(record)(**{**fields_of(record), **changes})


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit turned over."""
    bit %= 8 * len(data)
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)
