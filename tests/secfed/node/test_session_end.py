"""A session that is not finished in time ends, and its secrets go, whether or not another message comes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("nvflare")

from protocols.client import Client
from protocols.errors import ProtocolError
from protocols.messages import Cohort, Survivors
from protocols.steps import State
from protocols.wire import encode, message_type
from secfed.engines.flare.worker import NodeWorker
from secfed.node.node import Node
from secfed.node.policy import PacePolicy
from secfed.rounds.channel import RoundOpening
from secfed.rounds.deadlines import Deadlines
from tests.secfed.federation import Federation, make_study

SECONDS = PacePolicy().session_ends_after_seconds


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def on_clock(federation: Federation, index: int, clock: Callable[[], float], **pace: float) -> Node:
    """The node, started anew on this clock."""
    before = federation.nodes[index]
    policy = before.parts.policy.model_copy(update={"pace": PacePolicy(**pace)})
    node = Node(
        federation.study,
        replace(before.parts, policy=policy),
        tell_owner=lambda name, text: federation.told.append((name, text)),
        clock=clock,
    )
    federation.nodes[index] = node
    return node


def wiped(client: Client | None) -> bool:
    return client is not None and client._secrets.wiped and not (client._received or client._pair_seeds)


def opening_of(federation: Federation, number: int = 1) -> bytes:
    return encode(RoundOpening((), federation.coordinator().chain.context(number).opening()))


def late_at(federation: Federation, node: Node, clock: Clock, kind: Any) -> None:
    """The node gets its first message of this kind when the time of its session is over."""
    handle = node.handle

    def late(request: bytes) -> bytes:
        if message_type(request, 1 << 20, None) == kind.TYPE:
            clock.now += SECONDS
        return handle(request)

    node.handle = late  # type: ignore[method-assign]


def test_the_usual_time_is_twice_the_longest_stage() -> None:
    usual = Deadlines()
    assert 2 * max(usual.stage_seconds, usual.training_seconds) == SECONDS


@pytest.mark.parametrize("kind", [Cohort, Survivors])
def test_a_message_after_the_time_finds_no_session(tmp_path: Path, kind: Any) -> None:
    federation, clock = Federation(make_study(), tmp_path), Clock()
    node = on_clock(federation, 2, clock)
    late_at(federation, node, clock, kind)
    record = federation.coordinator().run_round(1)
    assert record.dropped == (("hospital-2", {Cohort: "share", Survivors: "agree"}[kind]),)
    assert wiped(node._session.client)
    assert [name for name, text in federation.told if "session_ends_after_seconds" in text] == ["hospital-2"]


def test_the_secrets_go_without_any_message(tmp_path: Path) -> None:
    federation, clock = Federation(make_study(), tmp_path), Clock()
    node = on_clock(federation, 0, clock)
    assert node.end_overdue() is None, "no session is open"
    node.handle(opening_of(federation))
    client = node._session.client
    assert node.end_overdue() == SECONDS
    clock.now += SECONDS - 1
    assert node.end_overdue() == 1
    assert not wiped(client)
    clock.now += 1
    assert node.end_overdue() is None
    assert wiped(client)
    assert client is not None
    assert client.state is State.FAILED
    told = len(federation.told)
    assert node.end_overdue() is None
    assert len(federation.told) == told == 1
    with pytest.raises(ProtocolError):
        node.handle(opening_of(federation))


def test_the_next_round_has_its_whole_time(tmp_path: Path) -> None:
    federation, clock = Federation(make_study(), tmp_path), Clock()
    node = on_clock(federation, 0, clock)
    node.handle(opening_of(federation))
    clock.now += SECONDS + 5
    assert node.handle(opening_of(federation, 2))
    assert node.end_overdue() == SECONDS


def test_a_finished_session_needs_no_end(tmp_path: Path) -> None:
    federation, clock = Federation(make_study(), tmp_path), Clock()
    node = on_clock(federation, 0, clock)
    federation.coordinator().run_round(1)
    clock.now += 2 * SECONDS
    assert node.end_overdue() is None
    assert federation.told == []


@pytest.mark.parametrize("during", [True, False], ids=["while it trains", "at its end"])
def test_training_that_takes_too_long_spends_nothing(tmp_path: Path, during: bool) -> None:
    federation, clock = Federation(make_study(), tmp_path), Clock()
    node, trainer = on_clock(federation, 2, clock), federation.trainers[2]
    steps = []

    def contribute(state: Any, number: int, secret: Any, progress: Callable[[int], None]) -> Any:
        if during:
            clock.now += SECONDS
        progress(1)
        steps.append(1)
        clock.now += SECONDS
        return trainer.vector(state, number)

    trainer.contribute = contribute  # type: ignore[method-assign]
    record = federation.coordinator().run_round(1)
    assert record.dropped == (("hospital-2", "masked input"),)
    assert steps == ([] if during else [1])
    assert not node.parts.ledger.holds("commit", federation.study.digest, 1)
    assert wiped(node._session.client)


def test_uploads_are_not_held_back_beyond_the_end() -> None:
    with pytest.raises(ValidationError, match="set the latter to more than a whole round"):
        PacePolicy(upload_after_seconds=7200)
    PacePolicy(upload_after_seconds=7200, session_ends_after_seconds=9000)


def test_a_worker_ends_a_session_that_nothing_more_comes_for(tmp_path: Path) -> None:
    """With the real clock, and a real timer: nobody asks the node anything."""
    federation = Federation(make_study(), tmp_path)
    request, ended = opening_of(federation), threading.Event()
    opened: list[Node] = []

    @contextmanager
    def open_node() -> Iterator[Node]:
        federation.nodes[0] = federation.start_node(0)  # its databases belong to the worker's thread
        node = on_clock(federation, 0, time.monotonic, session_ends_after_seconds=0.3)
        node.tell_owner = lambda text: None
        node._session.end._tell_owner = lambda text: ended.set()
        opened.append(node)
        yield node

    worker = NodeWorker(open_node, lambda: bytes(64), lambda text: None)
    worker.start()
    try:
        while not worker.most_request_bytes:
            time.sleep(0.01)
        assert worker.ask(request)
        client = opened[0]._session.client
        assert not wiped(client)
        assert ended.wait(30)
        assert wiped(client)
        assert worker.ask(opening_of(federation, 2)), "and it goes on"
    finally:
        worker.stop(5)
