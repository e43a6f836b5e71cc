"""A receipt convinces somebody who has the study and the roster, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crypto.kdf import digest
from protocols.aggregator import Stage
from protocols.errors import (
    BadSignature,
    CohortTooSmall,
    LocalError,
    NotCanonical,
    ProtocolError,
    RemoteError,
    RoundVoid,
    WrongLength,
    WrongSession,
)
from protocols.messages import Signature
from protocols.parameters import CohortRules
from protocols.receipts import SIGNING_LABEL, Receipt, Statement, verify_receipt
from protocols.wire import decode, encode
from tests.protocols.rounds import STUDY, configure, identities
from tests.protocols.stages import NEW_STATE, Walk, replaced

CONFIG = configure(7, dropouts=2, colluders=1)  # quorum 5
KEYS = identities(7)
OTHER = digest("something else")


def receipt() -> Receipt:
    walk = Walk(CONFIG).finish({Stage.SHARE: {6}, Stage.MASKED_INPUT: {5}})
    return walk.aggregator.receipt()


@pytest.fixture(scope="module")
def honest() -> Receipt:
    return receipt()


def verify(candidate: Receipt, rules: CohortRules = CONFIG.rules, study: bytes = STUDY) -> None:
    verify_receipt(candidate, study=study, predecessor=STUDY, rules=rules, roster=CONFIG.roster)


def signed(statement: Statement, signers: tuple[int, ...]) -> Receipt:
    """A receipt whose signatures are all good: only what the statement says can be wrong."""
    content = statement.digest()
    return Receipt(statement, tuple(Signature(node, KEYS[node].sign(SIGNING_LABEL, content)) for node in signers))


def changed(honest: Receipt, **changes: Any) -> Receipt:
    return signed(replaced(honest.statement, **changes), (0, 1, 2, 3, 4))


def test_an_honest_receipt_is_accepted_and_travels(honest: Receipt) -> None:
    verify(honest)
    verify(changed(honest))
    again = decode(Receipt, encode(honest), CONFIG.limits, None)
    assert again == honest
    verify(again)
    assert honest.statement.cohort == tuple(range(7))
    assert honest.statement.sharers == (0, 1, 2, 3, 4, 5)
    assert honest.statement.survivors == (0, 1, 2, 3, 4)
    assert honest.statement.new_state == NEW_STATE


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"study": OTHER}, WrongSession, "study"),
        ({"predecessor": OTHER}, WrongSession, "predecessor"),
        ({"survivors": (0, 1, 2, 3, 4, 6)}, NotCanonical, "survivors"),
        ({"sharers": (0, 1, 2, 3)}, NotCanonical, "survivors"),
        ({"cohort": (0, 1, 2, 3, 4)}, NotCanonical, "survivors"),
        ({"cohort": (0, 1, 2, 3, 4, 5, 7)}, WrongLength, "cohort"),
        ({"cohort": (-1, 0, 1, 2, 3, 4, 5)}, WrongLength, "cohort"),
        ({"survivors": (0, 1, 2, 3)}, CohortTooSmall, None),
        ({"survivors": ()}, CohortTooSmall, None),
        ({"quorum": 4}, WrongLength, "quorum"),
        ({"quorum": 6}, WrongLength, "quorum"),
        ({"quorum": 0}, WrongLength, "quorum"),
    ],
)
def test_a_well_signed_receipt_with_a_wrong_statement_is_refused(
    honest: Receipt, changes: dict[str, Any], error: type[RemoteError], field: str | None
) -> None:
    with pytest.raises(error) as caught:
        verify(changed(honest, **changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "rules",
    [CohortRules(7, 1, 0, 3), CohortRules(7, 1, 2, 3, site_minimum=6), CohortRules(7, 1, 2, 3, site_honest_minimum=5)],
)
def test_a_receipt_below_the_verifiers_own_rules_is_refused(honest: Receipt, rules: CohortRules) -> None:
    with pytest.raises(CohortTooSmall):
        verify(honest, rules)


@pytest.mark.parametrize(
    "change",
    [
        lambda signatures: signatures[:4],
        lambda signatures: (),
        lambda signatures: (*signatures[:4], replaced(signatures[4], signature=bytes(64))),
        lambda signatures: (*signatures[:4], replaced(signatures[3], signer=4)),
        lambda signatures: tuple(replaced(entry, signer=index) for index, entry in enumerate(reversed(signatures))),
    ],
)
def test_fewer_than_the_quorum_of_distinct_valid_signatures_are_refused(
    honest: Receipt, change: Callable[[Any], tuple[Signature, ...]]
) -> None:
    with pytest.raises(BadSignature):
        verify(Receipt(honest.statement, change(honest.signatures)))


def test_a_signer_counts_once_however_often_it_is_listed(honest: Receipt) -> None:
    with pytest.raises(NotCanonical, match="each once"):
        verify(Receipt(honest.statement, (*honest.signatures[:4], honest.signatures[0])))


@pytest.mark.parametrize("signers", [(0, 1, 2, 3, 5), (0, 1, 2, 3, 6)])
def test_only_survivors_signatures_count(honest: Receipt, signers: tuple[int, ...]) -> None:
    with pytest.raises(NotCanonical, match="not survivors"):
        verify(signed(honest.statement, signers))


@pytest.mark.parametrize("name", sorted(set(Statement.__dataclass_fields__)))
def test_the_signatures_cover_every_field_of_the_statement(honest: Receipt, name: str) -> None:
    value = getattr(honest.statement, name)
    other = OTHER if isinstance(value, bytes) else value + 1 if isinstance(value, int) else (*value[:-1], 6)
    bent = replaced(honest.statement, **{name: other})
    if bent == honest.statement:  # the cohort is everybody already
        bent = replaced(honest.statement, **{name: value[:-1]})
    assert bent.digest() != honest.statement.digest()
    with pytest.raises(ProtocolError):
        verify(Receipt(bent, honest.signatures))


def test_a_receipts_digest_does_not_depend_on_who_signed(honest: Receipt) -> None:
    assert Receipt(honest.statement, honest.signatures[1:]).digest() == honest.digest()
    assert changed(honest, new_state=OTHER).digest() != honest.digest()


def test_every_client_closes_on_the_receipts_own_statement() -> None:
    walk = Walk(CONFIG).finish()
    for client in walk.clients.values():
        assert client.statement == walk.aggregator.receipt().statement


def test_fewer_closing_signatures_than_the_quorum_make_no_receipt() -> None:
    walk = Walk(CONFIG).to(Stage.CLOSE)
    walk.collect({0, 1, 2})
    walk.hand_over()
    with pytest.raises(RoundVoid, match="4 signatures where 5 are needed"):
        walk.aggregator.receipt()


def test_a_node_that_reached_another_state_does_not_sign_this_receipt() -> None:
    walk = Walk(CONFIG).to(Stage.CLOSE)
    walk.clients[3].receive(walk.outgoing[3])
    closing = walk.clients[3].close(OTHER)
    walk.collect({3})
    walk.answers[3] = closing
    walk.hand_over()
    assert [(rejected.sender, rejected.fault.field) for rejected in walk.rejected] == [(3, "statement")]
    assert 3 not in [entry.signer for entry in walk.aggregator.receipt().signatures]


def test_there_is_no_receipt_before_the_coordinators_own_state() -> None:
    walk = Walk(CONFIG).to(Stage.CLOSE)
    with pytest.raises(LocalError):
        walk.aggregator.receipt()
    with pytest.raises(LocalError):
        walk.aggregator.advance()
