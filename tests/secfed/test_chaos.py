"""Whole studies over a network that loses, repeats, delays and bends: safety holds, and liveness comes back."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from dp.errors import DPError
from protocols import encoding
from protocols.errors import ProtocolError
from secfed.coordinator import Coordinator
from secfed.strategies import ModelState, federated_average, fixed_point
from tests.secfed.federation import Federation, make_study

FAULTS = ("lose request", "lose answer", "repeat request", "repeat an old request", "truncate answer", "bend answer")


class ChaoticChannel:
    """Does to each exchange what the test draws; everything else arrives."""

    def __init__(self, federation: Federation, data: st.DataObject) -> None:
        self._nodes = federation.nodes
        self._data = data
        self._earlier: dict[int, list[bytes]] = {index: [] for index in range(len(federation.nodes))}

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        answers = {}
        for index, request in requests.items():
            fault = self._data.draw(st.sampled_from((None,) * 94 + FAULTS), label=f"{round_number} {stage} {index}")
            answer = self._deliver(index, request, fault)
            if answer:
                answers[index] = answer
        return answers

    def _deliver(self, index: int, request: bytes, fault: str | None) -> bytes:
        if fault == "lose request":
            return b""
        if fault == "repeat an old request" and self._earlier[index]:
            self._ask(index, self._data.draw(st.sampled_from(self._earlier[index])))
        self._earlier[index].append(request)
        answer = self._ask(index, request)
        if fault == "repeat request":
            again = self._ask(index, request)
            assert again == answer, "the same request was answered differently"
        if not answer or fault == "lose answer":
            return b""
        if fault == "truncate answer":
            return answer[: self._data.draw(st.integers(0, len(answer) - 1))]
        if fault == "bend answer":
            at = self._data.draw(st.integers(0, len(answer) - 1))
            return answer[:at] + bytes([answer[at] ^ (1 << self._data.draw(st.integers(0, 7)))]) + answer[at + 1 :]
        return answer

    def _ask(self, index: int, request: bytes) -> bytes:
        try:
            return self._nodes[index].handle(request)
        except (ProtocolError, DPError):
            return b""


def check_every_sum(federation: Federation, coordinator: Coordinator) -> None:
    """Each published sum is that of its survivors' encoded updates, in integers, from the state of its round."""
    study = federation.study
    state: ModelState = federation.trainers[0].first_state()
    for receipt, packed in federation.kept:
        statement = receipt.statement
        vectors = []
        for node in statement.survivors:
            trainer = federation.trainers[node]
            update = trainer.update(state, statement.round_number, None, lambda step: None)  # type: ignore[arg-type]
            vectors.append(fixed_point(study).encode(update, study.weights[node]).tolist())
        shape = coordinator.chain.shape
        total = encoding.from_ring(encoding.unpack(packed, shape), shape)
        assert total.tolist() == [sum(column) for column in zip(*vectors, strict=True)]
        state = federated_average(study, state, total, statement.survivors)
    assert coordinator.chain.state.adapter.tolist() == state.adapter.tolist()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_nothing_that_the_network_does_makes_a_wrong_sum_or_two_chains(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(make_study(), Path(folder))
        coordinator = federation.coordinator()
        coordinator._channel = ChaoticChannel(federation, data)
        records = coordinator.run()
        event(f"{sum(not record.void for record in records)} of 4 rounds completed")

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
        coordinator._close_study(4)
        assert federation.states() == {coordinator.chain.state.digest(coordinator.chain.layout)}
