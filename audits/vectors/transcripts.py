"""Transcripts: one session played by the reference or by the real machines, every message kept.

`play` runs a scenario on either implementation. HPKE draws its own randomness, which nobody can inject. So one of the
two seals for real and the other uses the envelopes of the first (`Envelopes`): it passes key, context and plaintext,
gets the recorded bytes if they open to that plaintext, and computes everything around them itself. Then two transcripts
of one scenario are equal byte for byte, or one of the implementations violates the SPEC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from unittest.mock import patch

import numpy as np

from audits.reference import machines as reference
from audits.reference.notation import KDF, C, E, H, Message, idx, parse_cbor, seal, seal_public, unseal
from crypto.identity import Identity, PublicIdentity
from crypto.kdf import encode_parts
from crypto.sealing import SealingPublicKey
from protocols import aggregator, client
from protocols.events import Rejected, answer
from protocols.parameters import CohortRules, RoundShape
from protocols.session import Context, SessionConfig
from protocols.wire import encode

STAGES = ("advertise", "share", "masked input", "agree", "unmask", "close")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that fixes a session, except HPKE's randomness."""

    round: reference.Round
    identities: tuple[bytes, ...]
    """32-byte Ed25519 seeds, in roster order."""
    roots: tuple[bytes, ...]
    """The 32-byte root of every node's session secrets."""
    ledger_sequences: tuple[int, ...]
    vectors: tuple[tuple[int, ...], ...]
    absent: Mapping[int, str]
    """Node -> the first stage that it does not answer."""
    new_state: bytes

    def answers(self, node: int, stage: str) -> bool:
        """Whether the node still answers at this stage."""
        return node not in self.absent or STAGES.index(stage) < STAGES.index(self.absent[node])


@dataclass(frozen=True, slots=True)
class Transcript:
    """All messages: for each stage, in order, those to each node and the answers."""

    to_nodes: Mapping[str, Mapping[int, bytes]]
    from_nodes: Mapping[str, Mapping[int, bytes]]
    receipt: bytes
    total: tuple[int, ...]
    """The published sum, lifted."""
    tag: bytes
    statement_digest: bytes


class Machines(Protocol):
    """All parties of one session, of one implementation."""

    def open(self) -> dict[int, bytes]:
        """What the aggregator sends at stage 0."""

    def answer(self, stage: str, node: int, data: bytes) -> bytes:
        """A node's answer."""

    def advance(self, stage: str, answers: Mapping[int, bytes]) -> dict[int, bytes]:
        """The aggregator's messages after the answers of a stage."""

    def receipt(self, answers: Mapping[int, bytes]) -> bytes:
        """The receipt, from the answers of the last stage."""


class Envelopes:
    """Recorded envelopes, by public key and context: a stand-in for sealing."""

    def __init__(self, scenario: Scenario, transcript: Transcript) -> None:
        self._sealed: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}
        ads = {u: parse_cbor(data) for u, data in transcript.from_nodes["advertise"].items()}
        for u, data in transcript.from_nodes["share"].items():
            share = parse_cbor(data)
            kinds = (("shares", "shares envelope", "channel"), ("seeds", "pair seed envelope", "mask"))
            for field, purpose, key in kinds:
                for envelope in share[field]:
                    v = envelope["receiver"]
                    info = E(purpose, share["session"], idx(u), idx(v))
                    seed = KDF(scenario.roots[v], f"{key} seed")
                    self._sealed[ads[v][f"{key}_key"], info] = (envelope["sealed"], seed)

    def seal(self, public: bytes, plaintext: bytes, info: bytes) -> bytes:
        """The recorded envelope. Raises ValueError unless it was made for this key and context from this plaintext."""
        sealed, seed = self._sealed.get((public, info), (b"", b""))
        if not sealed or seal_public(seed) != public or unseal(seed, sealed, info) != plaintext:
            raise ValueError("nothing recorded was sealed to this key, in this context, from this plaintext")
        return sealed

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The real implementation seals with these inside the `with` block."""

        def recorded(key: SealingPublicKey, plaintext: bytes, label: str, *binding: bytes) -> bytes:
            if label == "trial":  # the aggregator tries every advertised key; the result is not used
                return real(key, plaintext, label, *binding)
            return self.seal(key.raw, plaintext, encode_parts(label, *binding))

        real = SealingPublicKey.seal
        with patch.object(SealingPublicKey, "seal", recorded):
            yield


class ReferenceMachines:
    """The second implementation."""

    def __init__(self, scenario: Scenario, sealing: reference.Seal = seal) -> None:
        self.scenario = scenario
        self.aggregator = reference.Aggregator(scenario.round)
        keys = zip(scenario.identities, scenario.roots, strict=True)
        self.nodes = [reference.Node(scenario.round, u, *pair, sealing) for u, pair in enumerate(keys)]

    def open(self) -> dict[int, bytes]:
        return dict.fromkeys(range(len(self.nodes)), self.scenario.round.opening())

    def answer(self, stage: str, node: int, data: bytes) -> bytes:
        machine, scenario = self.nodes[node], self.scenario
        match stage:
            case "advertise":
                return machine.advertise(data, scenario.ledger_sequences[node])
            case "share":
                return machine.share(data)
            case "masked input":
                return machine.masked_input(data, scenario.vectors[node])
            case "agree":
                return machine.agree(data)
            case "unmask":
                return machine.unmask(data)
        return machine.close(data, scenario.new_state)

    def advance(self, stage: str, answers: Mapping[int, bytes]) -> dict[int, bytes]:
        got = dict(answers)
        match stage:
            case "advertise":
                return dict.fromkeys(sorted(got), self.aggregator.cohort(got))
            case "share":
                return self.aggregator.deliveries(got)
            case "masked input":
                return dict.fromkeys(sorted(got), self.aggregator.survivors(got))
            case "agree":
                return dict.fromkeys(sorted(got), self.aggregator.agreement(got))
        return dict.fromkeys(sorted(got), self.aggregator.published(got))

    def receipt(self, answers: Mapping[int, bytes]) -> bytes:
        return self.aggregator.receipt(dict(answers), self.scenario.new_state)


class RealMachines:
    """`protocols.client` and `protocols.aggregator`, with the session roots as their entropy."""

    def __init__(self, scenario: Scenario, seen_ledgers: Mapping[int, int] | None = None) -> None:
        self.scenario = scenario
        config = configuration(scenario.round)
        self.aggregator = aggregator.Aggregator(config)
        self.clients = [
            client.Client(
                config,
                u,
                Identity(scenario.identities[u]),
                ledger_sequence=scenario.ledger_sequences[u],
                last_ledger_sequences=seen_ledgers,
                entropy=partial(_exactly, scenario.roots[u]),
            )
            for u in range(len(scenario.roots))
        ]

    def open(self) -> dict[int, bytes]:
        return self.aggregator.open()

    def answer(self, stage: str, node: int, data: bytes) -> bytes:
        machine, vector = self.clients[node], np.array(self.scenario.vectors[node], dtype=np.int64)
        return answer(
            machine.receive(data), lambda: machine.submit(vector), lambda _: machine.close(self.scenario.new_state)
        )

    def advance(self, stage: str, answers: Mapping[int, bytes]) -> dict[int, bytes]:
        self.take(answers)
        return self.aggregator.advance()

    def receipt(self, answers: Mapping[int, bytes]) -> bytes:
        self.aggregator.expect_state(self.scenario.new_state)
        self.take(answers)
        return encode(self.aggregator.receipt())

    def take(self, answers: Mapping[int, bytes]) -> None:
        """Give the aggregator these answers. Raises the fault of the first rejected one."""
        for node, data in answers.items():
            event = self.aggregator.receive(node, data)
            if isinstance(event, Rejected):
                raise event.fault


def play(scenario: Scenario, machines: Machines) -> Transcript:
    """The whole session, to the receipt."""
    outgoing = machines.open()
    to_nodes: dict[str, Mapping[int, bytes]] = {}
    from_nodes: dict[str, Mapping[int, bytes]] = {}
    for stage in STAGES:
        answers = {u: machines.answer(stage, u, data) for u, data in outgoing.items() if scenario.answers(u, stage)}
        to_nodes[stage], from_nodes[stage] = outgoing, answers
        if stage != "close":
            outgoing = machines.advance(stage, answers)
    receipt = machines.receipt(from_nodes["close"])
    published: Message = parse_cbor(outgoing[min(outgoing)])
    total = tuple(scenario.round.lift(scenario.round.unpack(published["vector"])))
    digest = H("statement", C(parse_cbor(receipt)["statement"]))
    return Transcript(to_nodes, from_nodes, receipt, total, published["tag"], digest)


def replay_on_real(scenario: Scenario, recorded: Transcript) -> Transcript:
    """The messages of the real machines with the recorded envelopes."""
    with Envelopes(scenario, recorded).installed():
        return play(scenario, RealMachines(scenario))


def replay_on_reference(scenario: Scenario, recorded: Transcript) -> Transcript:
    """The messages of the reference with the recorded envelopes."""
    return play(scenario, ReferenceMachines(scenario, Envelopes(scenario, recorded).seal))


def configuration(of: reference.Round) -> SessionConfig:
    """The same session for the real machines."""
    rules = CohortRules(len(of.roster), of.colluders, of.dropouts, of.smallest_cohort)
    shape = RoundShape(of.dimension, of.ring_bits)
    context = Context(of.study, of.round_number, of.predecessor, of.base_model, of.state, shape)
    return SessionConfig(rules, tuple(PublicIdentity(key) for key in of.roster), context, of.largest_element)


class _Draws:
    """A stream of bytes from a seed, so that a seed can name a scenario."""

    def __init__(self, seed: str) -> None:
        self._seed, self._count = seed, 0

    def bytes(self, what: str, length: int = 32) -> bytes:
        self._count += 1
        return hashlib.shake_256(f"{self._seed}/{self._count}/{what}".encode()).digest(length)

    def between(self, least: int, most: int) -> int:
        """A number from least to most, inclusive."""
        return least + int.from_bytes(self.bytes("number", 16), "big") % (most - least + 1)


def scenario_from(
    seed: str,
    *,
    size: int,
    colluders: int,
    dropouts: int,
    smallest_cohort: int,
    largest_element: int,
    absent: Mapping[int, str],
    dimension: int = 5,
) -> Scenario:
    """The scenario of this seed: identities, roots, inputs, digests."""
    draws = _Draws(seed)
    identities = tuple(draws.bytes("identity") for _ in range(size))
    digests = [draws.bytes("digest") for _ in range(4)]
    of = reference.Round(
        roster=tuple(Identity(key).public.raw for key in identities),
        dropouts=dropouts,
        colluders=colluders,
        smallest_cohort=smallest_cohort,
        largest_element=largest_element,
        study=digests[0],
        round_number=draws.between(1, 1000),
        predecessor=digests[1],
        base_model=digests[2],
        state=digests[3],
        dimension=dimension,
    )
    return Scenario(
        round=of,
        identities=identities,
        roots=tuple(draws.bytes("root") for _ in range(size)),
        ledger_sequences=tuple(draws.between(0, 300) for _ in range(size)),
        vectors=tuple(
            tuple(draws.between(-largest_element, largest_element) for _ in range(dimension)) for _ in range(size)
        ),
        absent=absent,
        new_state=draws.bytes("new state"),
    )


def random_scenario(seed: str) -> Scenario:
    """A small session of 3 to 5 nodes: any legal c and f, up to the tolerated number of dropouts, at any stages."""
    draws = _Draws(f"{seed}/shape")
    size = draws.between(3, 5)
    colluders = draws.between(0, 3) // 3
    most = min(size - (size + colluders) // 2 - 1, size - colluders - 2)
    dropouts = max(draws.between(0, most), draws.between(0, most))
    leaving, first = draws.between(0, dropouts), draws.between(0, size - 1)
    return scenario_from(
        seed,
        size=size,
        colluders=colluders,
        dropouts=dropouts,
        smallest_cohort=draws.between(colluders + 2, size - dropouts),
        largest_element=2 ** draws.between(1, 56),
        absent={(first + k) % size: STAGES[draws.between(0, len(STAGES) - 1)] for k in range(leaving)},
        dimension=draws.between(1, 9),
    )


def _exactly(root: bytes, size: int) -> bytes:
    if size != len(root):
        raise ValueError(f"a session draws its root of {len(root)} bytes and nothing else, not {size}")
    return root
