"""A session over a network that reorders, repeats, loses, cuts and misdirects messages, and shows nodes different sets.

A Hypothesis state machine: the rules are what may happen next, the invariants what a session promises after every step.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from protocols import encoding
from protocols.aggregator import Aggregator, Stage
from protocols.client import Client
from protocols.errors import ProtocolError, RoundVoid
from protocols.events import answer
from protocols.messages import Agreement, Cohort, Delivery, Survivors, Unmask
from protocols.receipts import Receipt, verify_receipt
from protocols.steps import State
from protocols.wire import decode, encode, message_type
from tests.protocols.rounds import configure, identities, plain_sum, random_vectors
from tests.protocols.stages import NEW_STATE, replaced

NODES = 5
WITHOUT_SECRETS = {State.UNMASKED, State.SUMMED, State.CLOSED, State.FAILED}
SETS = {Cohort: "advertisements", Delivery: "shares", Survivors: "survivors", Agreement: "signatures"}
"""Messages that show a node a set, and where in them it is."""
ANY = st.integers(0, 1 << 16)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way between one node and the aggregator."""

    node: int
    up: bool
    """From the node."""
    data: bytes


def kind_of(data: bytes) -> str:
    return message_type(data, 1 << 20, None)


class Network(RuleBasedStateMachine):
    """Five nodes, t = 3, one aggregator, and everything that can happen to what they send."""

    ends: ClassVar[Counter[str]] = Counter()
    """How the sessions of a test ended."""

    def __init__(self) -> None:
        super().__init__()
        self.config = configure(NODES, dropouts=2)
        self.vectors = random_vectors(self.config, seed=1)
        self.clients = [Client(self.config, node, key, ledger_sequence=1) for node, key in enumerate(identities(NODES))]
        self.aggregator = Aggregator(self.config)
        self.over = False
        self.receipt: Receipt | None = None
        self.harm = 0
        self.travelling: list[Letter] = []
        self.arrived: list[Letter] = []
        # What the nodes did, for the invariants.
        self.answers: dict[tuple[int, bytes], set[bytes]] = defaultdict(set)
        self.answered: dict[tuple[int, str], set[bytes]] = defaultdict(set)
        self.said: dict[tuple[int, str], set[bytes]] = defaultdict(set)
        self.released: dict[tuple[int, int], set[str]] = defaultdict(set)
        self.totals: dict[int, list[int]] = {}
        self.post(self.aggregator.open())

    def post(self, outgoing: dict[int, bytes]) -> None:
        self.travelling += [Letter(node, False, data) for node, data in outgoing.items()]

    # What the network does.

    @precondition(lambda self: self.travelling)
    @rule(which=ANY)
    def a_message_arrives(self, which: int) -> None:
        self.arrive(self.travelling.pop(which % len(self.travelling)))

    @precondition(lambda self: self.travelling)
    @rule(order=ANY)
    def everything_arrives_in_some_order(self, order: int) -> None:
        self.arrive_all(order)

    @rule(ago=st.integers(0, 30))
    def a_message_arrives_again(self, ago: int) -> None:
        if self.arrived:
            self.arrive(self.arrived[-1 - ago % len(self.arrived)])

    @precondition(lambda self: self.travelling)
    @rule(which=ANY)
    def a_message_is_lost(self, which: int) -> None:
        self.travelling.pop(which % len(self.travelling))

    @precondition(lambda self: self.travelling and self.harm < 3)
    @rule(which=ANY, length=ANY)
    def a_message_arrives_cut(self, which: int, length: int) -> None:
        self.harm += 1
        letter = self.travelling.pop(which % len(self.travelling))
        self.give(Letter(letter.node, letter.up, letter.data[: length % len(letter.data)]))

    @precondition(lambda self: self.travelling and self.harm < 3)
    @rule(which=ANY, node=st.integers(0, NODES - 1))
    def a_message_arrives_at_or_from_another_node(self, which: int, node: int) -> None:
        self.harm += 1
        letter = self.travelling[which % len(self.travelling)]
        self.arrive(Letter(node, letter.up, letter.data))

    @precondition(lambda self: self.arrived and self.harm < 3)
    @rule(which=ANY, node=st.integers(0, NODES - 1))
    def a_node_is_shown_another_set(self, which: int, node: int) -> None:
        shown = [letter.data for letter in self.arrived if not letter.up and letter.node == node]
        sets = [(kind, data) for data in shown for kind in SETS if kind_of(data) == kind.TYPE]
        if not sets:
            return
        kind, data = sets[which % len(sets)]
        message: Any = decode(kind, data, self.config.limits, None)
        members = getattr(message, SETS[kind])[1:]
        self.harm += 1
        self.arrive(Letter(node, False, encode(replaced(message, **{SETS[kind]: members}))))

    @precondition(lambda self: not self.over and (len(self.aggregator._answered) >= 3 or not self.travelling))
    @rule()
    def the_stage_ends(self) -> None:
        self.end_stage()

    @precondition(lambda self: not self.over)
    @rule(order=ANY)
    def a_stage_goes_well(self, order: int) -> None:
        self.arrive_all(order)
        self.end_stage()

    def arrive_all(self, order: int) -> None:
        chance = random.Random(order)
        while self.travelling:
            self.arrive(self.travelling.pop(chance.randrange(len(self.travelling))))

    def end_stage(self) -> None:
        try:
            if self.aggregator.stage is Stage.CLOSE:
                self.receipt, self.over = self.aggregator.receipt(), True
                return
            self.post(self.aggregator.advance())
            if self.aggregator.stage is Stage.CLOSE:
                self.aggregator.expect_state(NEW_STATE)
        except RoundVoid:
            self.over = True

    def arrive(self, letter: Letter) -> None:
        self.arrived.append(letter)
        self.give(letter)

    def give(self, letter: Letter) -> None:
        if not letter.up:
            self.ask(letter.node, letter.data)
        elif not self.over:
            self.aggregator.receive(letter.node, letter.data)

    def ask(self, node: int, data: bytes) -> None:
        client = self.clients[node]

        def close(total: NDArray[np.int64]) -> bytes:
            self.totals[node] = total.tolist()
            return client.close(NEW_STATE)

        try:
            said = answer(client.receive(data), lambda: client.submit(self.vectors[node]), close)
        except ProtocolError:
            return
        if not said:
            return
        self.answers[node, data].add(said)
        self.answered[node, kind_of(data)].add(data)
        self.said[node, kind_of(said)].add(said)
        if kind_of(said) == Unmask.TYPE:
            unmask = decode(Unmask, said, self.config.limits, None)
            for kind in ("self_mask_shares", "mask_key_shares"):
                for share in getattr(unmask, kind):
                    self.released[node, share.owner].add(kind)
        self.travelling.append(Letter(node, True, said))

    # What a session promises.

    @invariant()
    def a_node_answers_one_message_of_each_kind_with_one_answer(self) -> None:
        assert all(len(messages) == 1 for messages in self.answered.values())
        assert all(len(answers) == 1 for answers in self.said.values())

    @invariant()
    def the_same_bytes_are_answered_with_the_same_bytes(self) -> None:
        assert all(len(answers) == 1 for answers in self.answers.values())

    @invariant()
    def a_node_releases_one_kind_of_share_for_each_peer(self) -> None:
        assert all(len(kinds) == 1 for kinds in self.released.values())

    @invariant()
    def no_secrets_are_left_after_unmask_and_after_a_failure(self) -> None:
        for client in self.clients:
            if client.state in WITHOUT_SECRETS:
                assert client._secrets.wiped
                assert not client._received
                assert not client._pair_seeds
            if client.state in WITHOUT_SECRETS - {State.UNMASKED}:
                assert not client.checksum_contributions

    @invariant()
    def a_published_sum_is_that_of_the_survivors(self) -> None:
        published = list(self.totals.values())
        shape = self.config.context.shape
        if self.aggregator.stage is Stage.CLOSE:
            packed = self.aggregator.packed_sum
            published.append(encoding.from_ring(encoding.unpack(packed, shape), shape).tolist())
        if published:
            expected = plain_sum(self.config, self.vectors, self.aggregator.survivors)
            assert all(total == expected for total in published)

    @invariant()
    def a_receipt_verifies(self) -> None:
        if self.receipt is not None:
            context = self.config.context
            verify_receipt(
                self.receipt,
                study=context.study,
                predecessor=context.predecessor,
                rules=self.config.rules,
                roster=self.config.roster,
            )

    def teardown(self) -> None:
        self.ends["receipt" if self.receipt else "void" if self.over else self.aggregator.stage.value] += 1
