"""Whole sites under a malicious aggregator: real nodes, ledgers, stores and chains; only training is a formula.

`audits.simulator.world` covers sessions; this module covers what lies between them: round numbers, locks, attempts,
receipts and models. The aggregator follows the protocol, but accepts a cohort of any size; an attack may change what it
sends to a node, and may send any bytes to any node.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audits.simulator.studies import policy_of, study_of
from audits.simulator.world import World, node_ends
from crypto.identity import Identity
from crypto.kdf import DIGEST_BYTES, digest
from crypto.randomness import NoiseSecret
from dp.ledger import Ledger
from protocols.aggregator import Aggregator, Stage
from protocols.errors import CohortTooSmall, ProtocolError
from protocols.messages import Advertise, Opening
from protocols.parameters import CohortRules
from protocols.receipts import Receipt
from protocols.session import SessionConfig
from protocols.wire import AnyMessage, Limits, decode, encode
from secfed.aggregator.handover import HospitalEnd, read_handover
from secfed.node.answers import answer_of
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.store import NodeStore
from secfed.rounds.chain import Chain
from secfed.rounds.channel import Link, RoundOpening
from secfed.rounds.handover import HandoverRequest
from secfed.rounds.strategies import Layout, ModelState
from secfed.study.manifest import Study

SIZE = 7
RULES = CohortRules(roster_size=SIZE, colluders=1, tolerated_dropouts=2, minimum=3)
ROUNDS = 6
FILE = digest("federation study file")
"""The study's file, which every node has approved."""
LAYOUT: Layout = (("a", (2,)), ("b", (2,)))


class FormulaTrainer:
    """An update that depends only on the node and the model, not on data."""

    layout = LAYOUT

    def __init__(self, study: Study, index: int) -> None:
        self._study = study
        self._index = index

    @staticmethod
    def first_state() -> ModelState:
        return ModelState(np.linspace(-1, 1, 4, dtype=np.float32))

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        return self.vector(state)

    def vector(self, state: ModelState) -> NDArray[np.int64]:
        """This node's contribution to a round on this state."""
        update = (state.adapter * np.float32(0.01 * (self._index + 1))).astype(np.float32)
        return self._study.mechanism.upload(update, self._index)


class _NoMinima(CohortRules):
    """The aggregator's rules: only the nodes object to a cohort that is too small."""

    def quorum(self, cohort_size: int) -> int:
        try:
            return min(super().quorum(cohort_size), cohort_size)
        except CohortTooSmall:
            return cohort_size

    def check_stage(self, name: str, size: int, cohort_size: int) -> None:
        pass


class Federation:
    """Seven sites of one study: N = 7, c = 1, f = 2, so the quorum is 5. The last one is corrupt."""

    def __init__(self, folder: Path, **algorithm: Any) -> None:
        """
        Args:
            folder: an empty folder for the nodes' ledgers and databases.
            algorithm: changes to the study's section of this name: another strategy, with its figures.
        """
        self.folder = folder
        self.keys = [Identity(digest("federation identity", bytes([node]))) for node in range(SIZE)]
        self.study = study_of(self.keys, RULES, ROUNDS, **algorithm)
        self.log = World()
        """Records the refusals of honest nodes."""
        self.tamper: Callable[[int, bytes], bytes] = lambda node, data: data
        """May change the messages to a node in `round`."""
        self.nodes = [self._start(index, reserve=True) for index in range(SIZE)]
        self.chain = Chain(self.study, LAYOUT, FormulaTrainer.first_state())
        """The aggregator's own copy."""

    @property
    def everyone(self) -> tuple[int, ...]:
        return tuple(range(SIZE))

    @property
    def limits(self) -> Limits:
        return Limits(SIZE, self.chain.shape.packed_bytes)

    def restart(self, index: int) -> None:
        """The node crashes and starts again on its folder."""
        self.nodes[index].parts.store.close()
        self.nodes[index] = self._start(index, reserve=False)

    def copy_files(self, index: int) -> None:
        """Copy the node's ledger and database, as a backup does; the node goes on."""
        for name in _files(index):
            with (
                closing(sqlite3.connect(self.folder / name)) as source,
                closing(sqlite3.connect(self.folder / f"{name}.copy")) as target,
            ):
                source.backup(target)

    def put_back(self, index: int, *, ledger_only: bool = False) -> None:
        """The node stops, its files (or only its ledger) are restored from the copy, and it starts again."""
        parts = self.nodes[index].parts
        parts.store.close()
        parts.ledger.close()
        for name in _files(index)[: 1 if ledger_only else 2]:
            for left in ("-wal", "-shm"):
                (self.folder / f"{name}{left}").unlink(missing_ok=True)
            shutil.copy(self.folder / f"{name}.copy", self.folder / name)
        self.nodes[index] = self._start(index, reserve=False)

    def send(self, index: int, data: bytes) -> bytes:
        """The node's answer; None if it refuses."""
        try:
            return answer_of(self.nodes[index], self.nodes[index].approve(FILE), data)
        except node_ends() as error:
            if index not in self.log.corrupt:
                self.log.refuse(index, error)
            return b""

    def open(self, index: int, opening: Opening) -> Advertise | None:
        """Open a round to one node. None unless it joins."""
        answer = self.send(index, encode(RoundOpening((), opening)))
        try:
            return self.read(Advertise, answer)
        except ProtocolError:
            return None

    def hand_over(self, index: int) -> HospitalEnd | None:
        """Ask a node for its ledger, as if its study were over. None unless it gives one."""
        answer = self.send(index, encode(HandoverRequest(self.study.digest)))
        return read_handover(self.study, index, answer)

    def read(self, kind: type[AnyMessage], data: bytes) -> AnyMessage:
        """Parse a node's answer. Raises MalformedMessage when it is another kind of message."""
        return decode(kind, data, self.limits, None)

    def give(self, index: int, receipt: Receipt, packed: bytes) -> None:
        """Hand a node a link of the chain: with the opening of a round on another chain, which it cannot join."""
        elsewhere = replace(
            self.chain.context(receipt.statement.round_number).opening(), predecessor=bytes(DIGEST_BYTES)
        )
        self.send(index, encode(RoundOpening((Link(receipt, packed),), elsewhere)))

    def round(
        self, number: int, nodes: Iterable[int], *, without_sum: Collection[int] = ()
    ) -> tuple[Receipt, bytes] | None:
        """An honest round among these nodes on the aggregator's chain. Receipt and sum, or None if it fails.

        Args:
            number: the round's number.
            nodes: the nodes that take part.
            without_sum: survivors that never get the sum, so that they do not close the round.
        """
        aggregator = Aggregator(self.config(number))
        present = set(nodes)
        requests = {node: encode(RoundOpening((), aggregator.config.context.opening())) for node in aggregator.open()}
        try:
            while True:
                stage = aggregator.stage
                if stage is Stage.CLOSE:
                    present -= set(without_sum)
                for node, request in requests.items():
                    answer = self.send(node, self.tamper(node, request)) if node in present else b""
                    if answer:
                        aggregator.receive(node, answer)
                if stage is Stage.CLOSE:
                    return aggregator.receipt(), aggregator.packed_sum
                requests = aggregator.advance()
                if aggregator.stage is Stage.CLOSE:
                    following = self.chain.next_state(aggregator.packed_sum, aggregator.survivors)
                    aggregator.expect_state(following.digest(LAYOUT))
        except ProtocolError:
            return None

    def adopt(self, closed: tuple[Receipt, bytes]) -> None:
        """The aggregator and all nodes move on to this receipt."""
        self.chain.adopt(*closed)
        for node in self.everyone:
            self.give(node, *closed)

    def state(self, index: int) -> bytes:
        """Digest of the model that this node holds."""
        return self.nodes[index].chain.state.digest(LAYOUT)

    def config(self, number: int) -> SessionConfig:
        """The aggregator's configuration of this round, on its chain."""
        rules = _NoMinima(**{name: getattr(self.study.cohort_rules(), name) for name in CohortRules.__slots__})
        return SessionConfig(rules, self.study.identities, self.chain.context(number), self.study.magnitude)

    def _start(self, index: int, *, reserve: bool) -> Node:
        key = self.keys[index]
        in_ledger, in_store = _files(index)
        ledger = Ledger(self.folder / in_ledger, lambda entry: key.sign("ledger entry", entry))
        if reserve:
            budget = policy_of(RULES.minimum).budget
            ledger.grant(budget.grant)
            ledger.reserve(budget.population, self.study.digest, 8.0, 1e-5, ROUNDS)
        store = NodeStore(self.folder / in_store)
        name = self.study.roster[index].name
        trainer = FormulaTrainer(self.study, index)
        node = Node(self.study, NodeParts(name, key, policy_of(RULES.minimum), ledger, store, trainer))
        self._note_complaints(index, node)
        return node

    def _note_complaints(self, index: int, node: Node) -> None:
        """A node that leaves a round because of a peer raises no error: it complains. That is a refusal, too."""
        honest = node._claims.complain

        def complain(error: ProtocolError, round_number: int, request: bytes) -> bytes:
            answer = honest(error, round_number, request)
            if index not in self.log.corrupt:
                self.log.refuse(index, error)
            return answer

        node._claims.complain = complain  # type: ignore[method-assign]


def _files(index: int) -> tuple[str, str]:
    return f"ledger-{index}.sqlite", f"node-{index}.sqlite"
