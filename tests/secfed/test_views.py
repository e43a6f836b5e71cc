"""A node that was shown other sets than its receipt names tells its owner, and does not co-sign that round."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from audits.adversaries import weakened
from audits.federation import Federation
from audits.simulator import VICTIM, replaced
from protocols.errors import WrongSession
from protocols.messages import Delivery, Signature, Survivors
from protocols.receipts import Receipt
from protocols.wire import decode, encode, message_type
from secfed.channel import EchoRequest

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
        node.tell_owner = lines[index].append
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


def test_a_round_with_unequal_sharers_does_not_close_and_if_it_could_both_owners_would_know(
    federation: Federation, told: dict[int, list[str]]
) -> None:
    federation.tamper = hide(federation, VICTIM, OTHER)
    with ExitStack() as without:
        without.enter_context(weakened.unchecked_sum())
        assert federation.round(1, federation.everyone) is None, "the sum is noise: their masks cancel with nobody's"
    with ExitStack() as without:
        without.enter_context(weakened.masks_not_bound_to_the_view())
        without.enter_context(weakened.unchecked_sum())
        closed = federation.round(2, federation.everyone)
        assert closed is not None
        federation.adopt(closed)
    for node, name in ((VICTIM, "hospital-1"), (OTHER, "hospital-0")):
        (line,) = told[node]
        assert "other sharers (U2)" in line
        assert f"the two differ in {name}." in line
    assert not any(lines for node, lines in told.items() if node not in (VICTIM, OTHER))


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
