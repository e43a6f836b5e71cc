"""Whole studies over a network that loses, repeats, delays and bends, with nodes that crash: safety holds, and liveness
comes back.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from audits.adversaries.weakened import floor_forgotten
from dp.errors import DPError
from protocols import encoding
from protocols.errors import ProtocolError
from protocols.wire import parse_canonical
from secfed.aggregator.coordinator import Coordinator
from secfed.rounds.strategies import first_state, next_state
from tests.secfed.federation import ALGORITHMS, Federation, make_study

FAULTS = (
    "lose request",
    "lose answer",
    "delay request",
    "delay answer",
    "repeat request",
    "repeat an old request",
    "truncate answer",
    "bend answer",
    "crash",
    "crash and repeat request",
)
MOSTLY_WELL: tuple[str | None, ...] = (None,) * 16 * len(FAULTS) + FAULTS
"""What may happen to an exchange: nothing, sixteen times out of seventeen."""


class ChaoticChannel:
    """Does to each exchange what the test draws; everything else arrives."""

    def __init__(self, federation: Federation, data: st.DataObject, fates: tuple[str | None, ...]) -> None:
        self._federation = federation
        self._data = data
        self._fates = fates
        self._earlier: dict[int, list[bytes]] = defaultdict(list)
        self._late_requests: dict[int, list[bytes]] = defaultdict(list)
        self._late_answers: dict[int, list[bytes]] = defaultdict(list)
        self.faults: set[str] = set()
        self.said: dict[tuple[int, str, object], set[bytes]] = defaultdict(set)
        """Node, kind of answer, and the round or session that it belongs to -> every such answer."""

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        answers = {}
        for index, request in requests.items():
            fault = self._data.draw(st.sampled_from(self._fates), label=f"{round_number} {stage} {index}")
            answer = self._deliver(index, request, fault)
            if answer:
                answers[index] = answer
        return answers

    def _deliver(self, index: int, request: bytes, fault: str | None) -> bytes:
        """One exchange: the answer that the aggregator gets, if it gets any."""
        self.faults |= {fault} if fault else set()
        if fault == "delay request":
            self._late_requests[index].append(request)
        if fault in ("lose request", "delay request"):
            return self._late_answer(index)
        self._overtaken_requests(index, fault)
        self._earlier[index].append(request)
        answer = self._ask(index, request)
        if fault == "repeat request":
            again = self._ask(index, request)
            assert again == answer, "the same request was answered differently"
        if fault in ("crash", "crash and repeat request"):
            self._crash(index)
            answer = self._ask(index, request) if fault == "crash and repeat request" else answer
        if fault == "delay answer" and answer:
            self._late_answers[index].append(answer)
            return b""
        if not answer or fault == "lose answer":
            return self._late_answer(index)
        if self._late_answers[index] and self._data.draw(st.booleans()):
            self._late_answers[index].append(answer)  # the two arrive in the other order
            return self._late_answers[index].pop(0)
        if fault == "truncate answer":
            return answer[: self._data.draw(st.integers(0, len(answer) - 1))]
        if fault == "bend answer":
            at = self._data.draw(st.integers(0, len(answer) - 1))
            return answer[:at] + bytes([answer[at] ^ (1 << self._data.draw(st.integers(0, 7)))]) + answer[at + 1 :]
        return answer

    def _overtaken_requests(self, index: int, fault: str | None) -> None:
        """Requests that arrive now though they were sent before: late ones for the first time, old ones again."""
        if self._late_requests[index] and self._data.draw(st.booleans()):
            self._ask(index, self._late_requests[index].pop())
        if fault == "repeat an old request" and self._earlier[index]:
            self._ask(index, self._data.draw(st.sampled_from(self._earlier[index])))

    def _late_answer(self, index: int) -> bytes:
        """An answer of an earlier stage, where there is none of this one."""
        return self._late_answers[index].pop(0) if self._late_answers[index] else b""

    def _crash(self, index: int) -> None:
        """The node loses its memory and starts again on its store and its ledger."""
        parts = self._federation.nodes[index].parts
        parts.ledger.close()
        parts.store.close()
        self._federation.nodes[index] = self._federation.start_node(index)

    def _ask(self, index: int, request: bytes) -> bytes:
        try:
            answer = self._federation.nodes[index].handle(request)
        except (ProtocolError, DPError):
            return b""
        if answer:
            value: Any = parse_canonical(answer, None)
            belongs_to = value.get("context") or value.get("session") or value.get("statement", {}).get("round_number")
            if belongs_to:  # where a node stands may change
                self.said[index, value["type"], belongs_to].add(answer)
        return answer


def check_every_sum(federation: Federation, coordinator: Coordinator) -> None:
    """Each published sum is that of its survivors' encoded updates, in integers, from the state of its round."""
    study = federation.study
    state = first_state(study, federation.trainers[0].first_state().adapter)
    for receipt, packed in federation.kept:
        statement = receipt.statement
        vectors = []
        for node in statement.survivors:
            trainer = federation.trainers[node]
            vectors.append(trainer.vector(state, statement.round_number).tolist())
        shape = coordinator.chain.shape
        total = encoding.from_ring(encoding.unpack(packed, shape), shape)
        assert total.tolist() == [sum(column) for column in zip(*vectors, strict=True)]
        state = next_state(study, state, total, statement.survivors)
    assert coordinator.chain.state.digest(coordinator.chain.layout) == state.digest(coordinator.chain.layout)


def play(data: st.DataObject, fates: tuple[str | None, ...]) -> None:
    """A study in which everything may happen, and what must hold after it."""
    with tempfile.TemporaryDirectory() as folder:
        algorithm = data.draw(st.sampled_from(list(ALGORITHMS.values())), label="algorithm")
        federation = Federation(make_study(algorithm=algorithm), Path(folder))
        coordinator = federation.coordinator()
        channel = ChaoticChannel(federation, data, fates)
        coordinator._channel = channel
        records = coordinator.run()
        event(f"{sum(not record.void for record in records)} of 4 rounds completed")
        for fault in channel.faults:
            event(fault)

        assert all(len(answers) == 1 for answers in channel.said.values()), "a node said two things in one session"
        numbers = [receipt.statement.round_number for receipt, _ in federation.kept]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == sum(not record.void for record in records)
        check_every_sum(federation, coordinator)
        on_the_chain = {coordinator.study.digest, *(receipt.digest() for receipt, _ in federation.kept)}
        for node in federation.nodes:
            assert node.chain.head in on_the_chain
            committed = sum(entry.kind == "commit" for entry in node.parts.ledger.entries())
            uploaded = sum(node.index in receipt.statement.survivors for receipt, _ in federation.kept)
            assert committed >= uploaded

        # Once the network is well again, the closing header brings everybody to one state.
        coordinator._channel = federation.coordinator()._channel
        coordinator.close_study()
        assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.sweep
@settings(deadline=None, max_examples=25, suppress_health_check=CHECKS)
@given(data=st.data())
def test_nothing_that_the_network_does_makes_a_wrong_sum_or_two_chains(data: st.DataObject) -> None:
    play(data, MOSTLY_WELL)


def test_a_node_that_forgets_its_rounds_in_a_crash_is_found() -> None:
    search = settings(
        deadline=None,
        max_examples=50,
        suppress_health_check=CHECKS,
        phases=[Phase.generate],  # the first example is enough: it need not be a small one
        database=None,
        derandomize=True,
    )
    with floor_forgotten(), pytest.raises(AssertionError, match="two things in one session"):
        search(given(data=st.data(), fates=st.just((*(None,) * 8, "crash and repeat request")))(play))()
