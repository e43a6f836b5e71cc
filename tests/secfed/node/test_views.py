"""A node that was shown other sets than its receipt names tells its owner, and does not co-sign that round."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from audits.adversaries import weakened
from audits.simulator.federation import Federation, FormulaTrainer
from audits.simulator.world import VICTIM, replaced
from protocols import encoding
from protocols.errors import WrongSession
from protocols.messages import Agreement, Cohort, Delivery, Published, Signature, Survivors
from protocols.receipts import Receipt
from protocols.wire import Message, decode, encode, message_type
from secfed.rounds.channel import EchoRequest, RoundOpening

OTHER = 1
MOST = 1 << 20


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return Federation(tmp_path)


@pytest.fixture
def told(federation: Federation) -> dict[int, list[str]]:
    """What each node tells its owner."""
    lines: dict[int, list[str]] = {node: [] for node in federation.everyone}
    for index, node in enumerate(federation.nodes):
        node._session._views._tell_owner = lines[index].append
    return lines


def finish(federation: Federation, **how: tuple[int, ...]) -> tuple[Receipt, bytes]:
    closed = federation.round(1, federation.everyone, **how)
    assert closed is not None
    return closed


def hide(federation: Federation, one: int, other: int) -> Callable[[int, bytes], bytes]:
    """Show each of two nodes a U2 without the other."""
    missing = {one: other, other: one}

    def tamper(node: int, data: bytes) -> bytes:
        if node not in missing or message_type(data, MOST, None) != Delivery.TYPE:
            return data
        delivery = decode(Delivery, data, federation.limits, None)
        return encode(
            replaced(
                delivery,
                shares=tuple(each for each in delivery.shares if each.sender != missing[node]),
                seeds=tuple(each for each in delivery.seeds if each.sender != missing[node]),
            )
        )

    return tamper


def other_survivors(federation: Federation) -> Callable[[int, bytes], bytes]:
    """Tell the victim that the other node has dropped out."""

    def tamper(node: int, data: bytes) -> bytes:
        if node != VICTIM or message_type(data, MOST, None) != Survivors.TYPE:
            return data
        shown = decode(Survivors, data, federation.limits, None)
        return encode(replaced(shown, survivors=tuple(each for each in shown.survivors if each != OTHER)))

    return tamper


def test_nobody_is_told_anything_of_an_honest_round(federation: Federation, told: dict[int, list[str]]) -> None:
    federation.adopt(finish(federation))
    assert not any(told.values())
    assert federation.nodes[VICTIM].chain.round_number == 1


def test_a_node_that_was_shown_other_survivors_tells_its_owner(
    federation: Federation, told: dict[int, list[str]]
) -> None:
    federation.tamper = other_survivors(federation)
    federation.adopt(finish(federation))
    (line,) = told[VICTIM]
    assert "other survivors (U3)" in line
    assert "the two differ in hospital-1." in line
    assert not any(lines for node, lines in told.items() if node != VICTIM)


@pytest.mark.parametrize("bound", [True, False])
def test_inputs_made_under_unequal_sharers_add_up_only_without_the_view_in_their_masks(
    federation: Federation, bound: bool
) -> None:
    federation.tamper = hide(federation, VICTIM, OTHER)
    true = sum(FormulaTrainer(federation.study, node).vector(federation.chain.state) for node in federation.everyone)
    with ExitStack() as without:
        without.enter_context(weakened.unchecked_sum())
        if not bound:
            without.enter_context(weakened.masks_not_bound_to_the_view())
        closed = federation.round(1, federation.everyone)  # noise is beyond the bound of a sum, most of the time
    summed = (
        None
        if closed is None
        else encoding.from_ring(encoding.unpack(closed[1], federation.chain.shape), federation.chain.shape)
    )
    assert np.array_equal(summed, true) is not bound


def test_a_round_with_unequal_sharers_does_not_close(federation: Federation) -> None:
    federation.tamper = hide(federation, VICTIM, OTHER)
    assert federation.round(1, federation.everyone) is None


def test_owners_would_know_of_unequal_sharers_if_such_a_round_could_close(
    federation: Federation, told: dict[int, list[str]]
) -> None:
    federation.tamper = hide(federation, VICTIM, OTHER)
    with ExitStack() as without:
        without.enter_context(weakened.masks_not_bound_to_the_view())
        without.enter_context(weakened.unchecked_sum())
        federation.adopt(finish(federation))
    for node, name in ((VICTIM, "hospital-1"), (OTHER, "hospital-0")):
        (line,) = told[node]
        assert "other sharers (U2)" in line
        assert f"the two differ in {name}." in line
    assert not any(lines for node, lines in told.items() if node not in (VICTIM, OTHER))


def test_a_node_that_was_in_another_cohort_tells_its_owner(federation: Federation, told: dict[int, list[str]]) -> None:
    def tamper(node: int, data: bytes) -> bytes:
        if node != VICTIM or message_type(data, MOST, None) != Cohort.TYPE:
            return data
        shown = decode(Cohort, data, federation.limits, None)
        return encode(Cohort(tuple(each for each in shown.advertisements if each.sender != OTHER)))

    federation.tamper = tamper
    federation.adopt(finish(federation))
    (line,) = told[VICTIM]
    assert "another session of that round" in line
    assert not any(lines for node, lines in told.items() if node != VICTIM)


def test_a_receipt_that_comes_after_the_next_opening_is_compared_with_its_own_round(
    federation: Federation, told: dict[int, list[str]]
) -> None:
    federation.tamper = other_survivors(federation)
    closed = finish(federation)
    for number in (2, 3):
        assert federation.open(VICTIM, federation.config(number).context.opening()) is not None
    federation.adopt(closed)
    (line,) = told[VICTIM]
    assert line.startswith("round 1 ")
    assert "the two differ in hospital-1." in line


def test_rounds_on_an_older_receipt_are_forgotten(federation: Federation) -> None:
    closed = finish(federation)
    federation.open(VICTIM, federation.config(2).context.opening())
    federation.adopt(closed)
    node = federation.nodes[VICTIM]
    for number in (3, 4):
        assert federation.open(VICTIM, federation.config(number).context.opening()) is not None
    assert list(node._session._views._earlier) == [3]


def lost(node: int, kind: type[Message]) -> Callable[[int, bytes], bytes]:
    """Messages of this kind do not reach the node."""
    return lambda to, data: b"" if to == node and message_type(data, MOST, None) == kind.TYPE else data


@pytest.mark.parametrize("next_is_open", [False, True])
@pytest.mark.parametrize("kind", [RoundOpening, Cohort, Delivery, Survivors, Agreement, Published])
def test_nobody_is_told_anything_when_messages_are_lost_and_receipts_come_late(
    federation: Federation, told: dict[int, list[str]], kind: type[Message], next_is_open: bool
) -> None:
    federation.tamper = lost(VICTIM, kind)
    receipt, packed = finish(federation)
    if next_is_open:
        assert federation.open(VICTIM, federation.config(2).context.opening()) is not None
    if VICTIM in receipt.statement.survivors:
        signatures = tuple(Signature(each.signer, each.signature) for each in receipt.signatures)
        assert federation.send(VICTIM, encode(EchoRequest(receipt.statement, packed, signatures)))
    federation.adopt((receipt, packed))
    assert federation.nodes[VICTIM].chain.round_number == 1
    assert not any(told.values())


def test_nobody_is_told_anything_of_honest_rounds_after_void_ones_and_repetitions(
    federation: Federation, told: dict[int, list[str]]
) -> None:
    federation.tamper = lambda node, data: data if message_type(data, MOST, None) != Survivors.TYPE or node < 4 else b""
    assert federation.round(1, federation.everyone) is None

    def twice(node: int, data: bytes) -> bytes:
        federation.send(node, data)
        return data

    federation.tamper = twice
    closed = federation.round(2, federation.everyone, without_sum=(VICTIM,))
    assert closed is not None
    assert federation.open(VICTIM, federation.config(3).context.opening()) is not None
    federation.adopt(closed)
    assert not any(told.values())


def test_a_misled_survivor_does_not_co_sign_on_the_word_of_others(
    federation: Federation, told: dict[int, list[str]]
) -> None:
    federation.tamper = other_survivors(federation)
    receipt, packed = finish(federation, without_sum=(5,))
    signatures = tuple(Signature(each.signer, each.signature) for each in receipt.signatures)
    echo = encode(EchoRequest(receipt.statement, packed, signatures))
    with pytest.raises(WrongSession, match="saw otherwise"):
        federation.nodes[VICTIM].handle(echo)
    assert "other survivors (U3)" in told[VICTIM][0]
    assert federation.nodes[5].handle(echo), "a node that saw what the statement says does co-sign"


def test_a_misled_survivor_does_not_co_sign_once_the_next_round_is_open_either(
    federation: Federation, told: dict[int, list[str]]
) -> None:
    federation.tamper = other_survivors(federation)
    receipt, packed = finish(federation, without_sum=(5,))
    signatures = tuple(Signature(each.signer, each.signature) for each in receipt.signatures)
    for node in (VICTIM, 5):
        assert federation.open(node, federation.config(2).context.opening()) is not None
    echo = encode(EchoRequest(receipt.statement, packed, signatures))
    with pytest.raises(WrongSession, match="saw otherwise"):
        federation.nodes[VICTIM].handle(echo)
    assert "other survivors (U3)" in told[VICTIM][0]
    assert federation.nodes[5].handle(echo), "a node that saw what the statement says does co-sign"
