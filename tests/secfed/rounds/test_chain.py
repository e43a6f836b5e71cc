"""What a chain refuses although enough survivors signed it: the colluders of a whole quorum, or nodes with a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from protocols.errors import RemoteError, WrongSession
from protocols.messages import Signature
from protocols.receipts import SIGNING_LABEL, Receipt, Statement
from protocols.wire import encode, fields_of
from secfed.aggregator.coordinator import Coordinator
from secfed.rounds.channel import EchoRequest, Link, StudyClosing
from tests.secfed.federation import Federation, cut, make_study


def signed(federation: Federation, statement: Statement, signers: tuple[int, ...]) -> tuple[Signature, ...]:
    keys = [node.parts.identity for node in federation.nodes]
    return tuple(Signature(node, keys[node].sign(SIGNING_LABEL, statement.digest())) for node in signers)


def after_one_round(folder: Path) -> tuple[Federation, Coordinator]:
    """A federation whose node 4 was away in round 1, and so is one receipt behind."""
    federation = Federation(make_study(), folder, cuts=(cut(4, 1, "advertise"),))
    coordinator = federation.coordinator()
    assert not coordinator.run_round(1).void
    return federation, coordinator


def renumbered(federation: Federation, coordinator: Coordinator, number: int) -> Link:
    """Round 1's receipt as if it were this round's, its context and signatures included."""
    link = coordinator.links[0]
    context = federation.nodes[4].chain.context(number).digest()
    statement = Statement(**{**fields_of(link.receipt.statement), "round_number": number, "context": context})
    return Link(Receipt(statement, signed(federation, statement, statement.survivors)), link.vector)


@pytest.mark.parametrize("number", [5, 2**52])
def test_a_receipt_of_a_round_beyond_the_study_is_not_adopted(tmp_path: Path, number: int) -> None:
    federation, coordinator = after_one_round(tmp_path)
    node = federation.nodes[4]
    with pytest.raises(WrongSession, match="round_number"):
        node.handle(encode(StudyClosing((renumbered(federation, coordinator, number),))))
    assert node.chain.length == 0


def test_a_receipt_may_pass_over_void_rounds(tmp_path: Path) -> None:
    federation, coordinator = after_one_round(tmp_path)
    node = federation.nodes[4]
    node.handle(encode(StudyClosing((renumbered(federation, coordinator, 3),))))
    assert (node.chain.length, node.chain.round_number) == (1, 3)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_receipt_that_follows_the_last_has_a_later_round(tmp_path: Path, number: int) -> None:
    """Its place in the chain is right; a second release of one round would be another look at one set of coins."""
    federation, coordinator = after_one_round(tmp_path)
    chain = federation.nodes[0].chain
    first = coordinator.links[0]
    chain.adopt(first.receipt, first.vector)
    coordinator.run_round(2)
    second = coordinator.links[1]
    chain.adopt(second.receipt, second.vector)
    context = chain.context(number)
    packed = second.vector
    following = chain.next_state(packed, second.receipt.statement.survivors)
    fields = {**fields_of(second.receipt.statement), "round_number": number, "predecessor": chain.head}
    fields |= {"context": context.digest(), "old_state": context.state, "new_state": following.digest(chain.layout)}
    statement = Statement(**fields)
    receipt = Receipt(statement, signed(federation, statement, statement.survivors))
    if number > 2:
        chain.adopt(receipt, packed)
        assert chain.round_number == number
    else:
        with pytest.raises(WrongSession, match="out of order"):
            chain.adopt(receipt, packed)
        assert chain.length == 2


WRONG_STATEMENTS: list[dict[str, Any]] = [
    {"predecessor": bytes(32)},
    {"quorum": 3},
    {"survivors": (0, 2, 3)},
    {"sharers": (0, 1, 2)},
    {"cohort": (0, 1, 2, 3, 7)},
]


@pytest.mark.parametrize("wrong", WRONG_STATEMENTS, ids=lambda wrong: next(iter(wrong)))
def test_an_echo_is_given_for_no_statement_that_no_receipt_could_carry(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Signatures of more than c survivors do not make up for a wrong quorum, wrong sets or a wrong place."""
    federation = Federation(make_study(), tmp_path, cuts=tuple(cut(node, 1, "close") for node in (0, 1)))
    coordinator = federation.coordinator()
    coordinator.run_round(1)
    node = federation.nodes[0]
    link = offered(federation)
    statement = Statement(**{**fields_of(link.statement), **wrong})
    survivors = tuple(member for member in statement.survivors if member in (2, 3))
    packed = link.vector
    if "survivors" in wrong:  # the state that these survivors would lead to: the sets alone are wrong
        following = node.chain.next_state(packed, statement.survivors)
        statement = Statement(**{**fields_of(statement), "new_state": following.digest(node.chain.layout)})
    with pytest.raises(RemoteError):
        node.handle(encode(EchoRequest(statement, packed, signed(federation, statement, survivors))))
    assert node.parts.store.locked(federation.study.digest, 1) is None


def test_the_same_echo_of_the_right_statement_is_given(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path, cuts=tuple(cut(node, 1, "close") for node in (0, 1)))
    federation.coordinator().run_round(1)
    node, right = federation.nodes[0], offered(federation)
    assert node.handle(encode(EchoRequest(right.statement, right.vector, signed(federation, right.statement, (2, 3)))))
    assert node.parts.store.locked(federation.study.digest, 1) is not None


def offered(federation: Federation) -> Any:
    """What node 2 signed for round 1."""
    from protocols.wire import decode
    from secfed.rounds.channel import Offer

    node = federation.nodes[2]
    return decode(Offer, node.parts.store.locked(federation.study.digest, 1) or b"", node.chain.limits, 2)
