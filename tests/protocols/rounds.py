"""Whole rounds in memory: real clients, a real aggregator, and a plan of who falls silent at which stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crypto.identity import Identity
from crypto.kdf import digest
from protocols.aggregator import Aggregator, Stage
from protocols.client import Client
from protocols.events import Rejected, answer
from protocols.parameters import CohortRules, RoundShape
from protocols.receipts import Receipt
from protocols.session import Context, SessionConfig

STUDY = digest("test study")


def identities(count: int) -> list[Identity]:
    return [Identity(digest("test identity", bytes([node]))) for node in range(count)]


def seeded_entropy(seed: bytes) -> Callable[[int], bytes]:
    """A deterministic entropy source, so that a failing round can be run again."""
    return lambda size: hashlib.shake_256(seed).digest(size)


def configure(
    roster_size: int,
    *,
    dropouts: int = 0,
    colluders: int = 0,
    minimum: int | None = None,
    dimension: int = 7,
    ring_bits: int = 32,
    round_number: int = 1,
) -> SessionConfig:
    rules = CohortRules(roster_size, colluders, dropouts, minimum if minimum is not None else colluders + 2)
    shape = RoundShape(dimension, ring_bits)
    context = Context(STUDY, round_number, STUDY, digest("base"), digest("state"), shape)
    magnitude = ((1 << (ring_bits - 1)) - 1) // roster_size
    return SessionConfig(rules, tuple(identity.public for identity in identities(roster_size)), context, magnitude)


def random_vectors(config: SessionConfig, seed: int) -> dict[int, NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    size = config.context.shape.dimension
    return {
        node: generator.integers(-config.magnitude, config.magnitude, size, endpoint=True)
        for node in range(len(config.roster))
    }


@dataclass
class Outcome:
    """What came of a round that was not void."""

    aggregator: Aggregator
    clients: dict[int, Client]
    totals: dict[int, NDArray[np.int64]]
    receipt: Receipt
    rejected: list[Rejected] = field(default_factory=list)


@dataclass
class Round:
    """One round. `absent` says who does not answer at a stage; `tamper` may change an answer on its way."""

    config: SessionConfig
    vectors: Mapping[int, NDArray[np.int64]]
    absent: Mapping[Stage, frozenset[int]] = field(default_factory=dict)
    tamper: Callable[[Stage, int, bytes], bytes] = lambda stage, node, data: data
    client_class: Callable[..., Client] = Client
    aggregator_class: Callable[..., Aggregator] = Aggregator
    seed: bytes = b"round"

    def run(self) -> Outcome:
        keys = identities(len(self.config.roster))
        clients = {
            node: self.client_class(
                self.config, node, key, ledger_sequence=1, entropy=seeded_entropy(self.seed + bytes([node]))
            )
            for node, key in enumerate(keys)
        }
        aggregator = self.aggregator_class(self.config)
        rejected: list[Rejected] = []
        totals: dict[int, NDArray[np.int64]] = {}
        outgoing = aggregator.open()
        while True:
            stage = aggregator.stage
            if stage is Stage.CLOSE:
                aggregator.expect_state(digest("next state"))
            for node, data in outgoing.items():
                if node in self.absent.get(stage, frozenset()):
                    continue
                said = self._answer(clients[node], data, totals)
                event = aggregator.receive(node, self.tamper(stage, node, said))
                if isinstance(event, Rejected):
                    rejected.append(event)
            if stage is Stage.CLOSE:
                return Outcome(aggregator, clients, totals, aggregator.receipt(), rejected)
            outgoing = aggregator.advance()

    def _answer(self, client: Client, data: bytes, totals: dict[int, NDArray[np.int64]]) -> bytes:
        def close(total: NDArray[np.int64]) -> bytes:
            totals[client.index] = total
            return client.close(digest("next state"))

        return answer(client.receive(data), lambda: client.submit(self.vectors[client.index]), close)


def plain_sum(config: SessionConfig, vectors: Mapping[int, NDArray[np.int64]], survivors: tuple[int, ...]) -> list[int]:
    """The survivors' sum in Python integers, modulo 2^b and centred: what the protocol must publish."""
    modulus = 1 << config.context.shape.ring_bits
    sums = [sum(int(vectors[node][at]) for node in survivors) % modulus for at in range(config.context.shape.dimension)]
    return [total - modulus if total >= modulus // 2 else total for total in sums]
