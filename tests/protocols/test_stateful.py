"""Whatever the network does, a session keeps its promises; and a party that breaks one is found by the same search."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from audits.adversaries.weakened import secrets_not_wiped
from protocols.aggregator import Aggregator, Stage
from protocols.client import STEPS, Client
from protocols.errors import ProtocolError
from protocols.events import Send
from protocols.messages import Agreement, ReleasedShare, Unmask
from protocols.receipts import Receipt
from protocols.steps import Received, State, received
from protocols.wire import decode, encode, message_type
from tests.protocols.network import Network
from tests.protocols.stages import replaced

CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


def test_nothing_that_the_network_does_breaks_a_promise() -> None:
    Network.ends.clear()
    run_state_machine_as_test(
        Network,
        settings=settings(deadline=None, max_examples=60, stateful_step_count=60, suppress_health_check=CHECKS),
    )
    # Or all of that would say little.
    assert Network.ends["receipt"] >= 1, Network.ends
    assert Network.ends["void"] >= 1, Network.ends


# Weakened parties break a promise in front of the machine.


def secrets_outlive_a_failure() -> AbstractContextManager[object]:
    """A node that ends a session where it is, and keeps what it knows."""

    def abandon(node: Client) -> None:
        node._answers.clear()
        node.state = State.FAILED

    return patch.object(Client, "abandon", abandon)


def another_set_is_answered() -> AbstractContextManager[object]:
    """A node that takes a second, different message of a kind as if the first had not been."""
    honest = Client._dispatch

    def dispatch(node: Client, data: bytes) -> Any:
        name = message_type(data, node._most_bytes(), None)
        if name in node._answers:
            node.state = next(
                state for state, step in STEPS.items() if isinstance(step, Received) and name == step.kind.TYPE
            )
            del node._answers[name]
        return honest(node, data)

    return patch.object(Client, "_dispatch", dispatch)


def both_kinds_of_share_released() -> AbstractContextManager[object]:
    """A node that says everything it knows at Unmask."""
    honest = Client._unmask

    def unmask(node: Client, message: Agreement) -> Any:
        held = dict(node._received)
        (sent,) = honest(node, message)
        said = decode(Unmask, sent.data, node.config.limits, None)
        everything = tuple(ReleasedShare(owner, held[owner].mask_key) for owner in node.sharers)
        return (Send(encode(node._signed(replaced(said, mask_key_shares=everything)))),)

    return patch.dict(STEPS, {State.AGREED: received(Agreement, unmask, State.UNMASKED)})


def repeated_inputs_counted_again() -> AbstractContextManager[object]:
    """An aggregator that adds up whatever arrives."""
    honest = Aggregator.receive

    def receive(aggregator: Aggregator, sender: int, data: bytes) -> Any:
        if aggregator.stage is Stage.MASKED_INPUT:
            aggregator._answered.discard(sender)
            aggregator._counted.clear()
        return honest(aggregator, sender, data)

    return patch.object(Aggregator, "receive", receive)


def receipts_without_a_quorum() -> AbstractContextManager[object]:
    """An aggregator that holds signatures back."""
    honest = Aggregator.receipt

    def receipt(aggregator: Aggregator) -> Receipt:
        whole = honest(aggregator)
        return replaced(whole, signatures=whole.signatures[:2])

    return patch.object(Aggregator, "receipt", receipt)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("weakening", "promise"),
    [
        (secrets_not_wiped, "no_secrets_are_left"),
        (secrets_outlive_a_failure, "no_secrets_are_left"),
        (another_set_is_answered, "a_node_answers_one_message"),
        (both_kinds_of_share_released, "a_node_releases_one_kind"),
        (repeated_inputs_counted_again, "a_published_sum_is"),
        (receipts_without_a_quorum, "a_receipt_verifies"),
    ],
)
def test_the_machine_finds_a_party_that_breaks_a_promise(
    weakening: Callable[[], AbstractContextManager[object]], promise: str
) -> None:
    search = settings(
        deadline=None,
        max_examples=2000,
        stateful_step_count=60,
        suppress_health_check=CHECKS,
        phases=[Phase.generate],  # the first example is enough: it need not be a small one
        report_multiple_bugs=False,
        derandomize=True,
        database=None,
    )
    with weakening(), pytest.raises((AssertionError, ProtocolError)) as found:
        run_state_machine_as_test(Network, settings=search)
    assert any(entry.name.startswith(promise) for entry in found.traceback), found.getrepr(style="short")
