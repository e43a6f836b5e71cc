"""The table of a session's states is what the specification shows, and what a node really does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import protocols
from protocols import diagram
from protocols.aggregator import Stage
from protocols.client import STEPS, Client
from protocols.errors import LocalError
from protocols.steps import Received, State
from protocols.wire import message_type
from tests.protocols.client_walks import NODE, five
from tests.protocols.stages import NEW_STATE, Walk

SPEC = Path(protocols.__file__).parent / "SPEC.md"


def name_of(message: bytes) -> str:
    return message_type(message, 1 << 20, None)


def walked() -> Iterator[tuple[Client, str]]:
    """A real node in every state of an honest session, and what brought it there in the words of the diagram."""
    walk = Walk(five())
    client = walk.clients[NODE]
    yield client, ""
    while True:
        request = walk.outgoing[NODE]
        name = name_of(request)
        if walk.stage is Stage.MASKED_INPUT:
            client.receive(request)
            yield client, name
            call, sent = "the node's submit", client.submit(walk.vectors[NODE])
        elif walk.stage is Stage.CLOSE:
            client.receive(request)
            yield client, name
            call, sent = "the node's close", client.close(NEW_STATE)
        else:
            call, sent = "", walk.answer(NODE, request)
        to = f", the answer to {name}" if call else ""
        yield client, f"{call or name:24}sends {name_of(sent)}{to}"
        walk.collect()
        assert walk.answers[NODE] == sent
        if walk.stage is Stage.CLOSE:
            return
        walk.hand_over()


def in_state(state: State) -> Client:
    return next(client for client, _ in walked() if client.state is state)


def test_the_specification_shows_the_table_of_now() -> None:
    page = SPEC.read_text(encoding="utf-8")
    assert diagram.redrawn(page) == page


def test_a_page_has_one_place_for_the_diagram() -> None:
    place = f"{diagram.MARK}\n```\nbefore\n```\n"
    assert diagram.redrawn(place) == f"{diagram.MARK}\n```\n{diagram.draw()}```\n"
    for page in ("", "```\nbefore\n```\n", 2 * place):
        with pytest.raises(ValueError, match="one block"):
            diagram.redrawn(page)


def test_the_diagram_is_what_a_node_goes_through() -> None:
    lines = [line for client, how in walked() for line in ([f" |  {how}"] if how else []) + [client.state.name]]
    assert diagram.draw().splitlines()[:-2] == lines
    assert {State[line] for line in lines if not line.startswith(" ")} == set(State) - {State.FAILED}


@pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED])
def test_a_session_that_is_given_up_has_failed_unless_it_had_closed(state: State) -> None:
    client = in_state(state)
    client.abandon()
    assert client.state is (State.CLOSED if state is State.CLOSED else State.FAILED)


@pytest.mark.parametrize("state", [state for state in State if state is not State.FAILED])
def test_a_call_out_of_turn_is_refused_and_ends_nothing(state: State) -> None:
    client, step = in_state(state), STEPS.get(state)
    calls = {"submit": lambda: client.submit(np.zeros(7, dtype=np.int64)), "close": lambda: client.close(NEW_STATE)}
    for name, call in calls.items():
        if step is None or isinstance(step, Received) or name != step.name:
            with pytest.raises(LocalError, match=f"{name} is called out of turn, in a session that is {state.value}"):
                call()
            assert client.state is state
    if step is not None and not isinstance(step, Received):
        assert calls[step.name]()
        assert client.state is step.then
