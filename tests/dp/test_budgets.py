"""A population of patients has one budget and one delta, and a node has one population unless somebody attests more."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from dp.budgets import Grant
from dp.errors import (
    AlreadyCommitted,
    AlreadyReserved,
    BudgetExceeded,
    DeltaTooLarge,
    GrantDiffers,
    NoGrant,
    NotDisjoint,
    NotReserved,
)
from dp.ledger import Ledger
from tests.dp.test_ledger import OTHER, RECEIPT, STUDY, THIRD, check, ledger, path

__all__ = ["ledger", "path"]  # fixtures

ADULTS, CHILDREN = "patients", "children"
ATTESTED = "The head of the registry: a patient's age decides, on the day of admission"


def test_delta_may_be_a_tenth_of_one_over_the_population_and_not_more() -> None:
    assert Grant(ADULTS, 10_000, 8, "1e-5").body()["delta"] == "0.00001"
    with pytest.raises(DeltaTooLarge, match=r"above 1/\(10 N\) for N = 10001.*Use at most 9\.99e-6"):
        Grant(ADULTS, 10_001, 8, "1e-5")
    with pytest.raises(DeltaTooLarge):
        Grant(ADULTS, 10_000, 8, "0.000010000000000000000000000000000000001")


@pytest.mark.parametrize(
    "values",
    [
        ("", 1000, 8, 1e-5, ""),
        (" patients", 1000, 8, 1e-5, ""),
        ("two\nlines", 1000, 8, 1e-5, ""),
        ("p" * 501, 1000, 8, 1e-5, ""),
        (ADULTS, 0, 8, 1e-5, ""),
        (ADULTS, 10**200, 8, 1e-5, ""),
        (ADULTS, 1000, 0, 1e-5, ""),
        (ADULTS, 1000, 8, 0, ""),
        (ADULTS, 1000, 8, 1e-5, " "),
    ],
)
def test_a_grant_that_says_nothing_usable_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"not|between|text"):
        Grant(*values)


def test_a_ledger_records_whose_budget_it_is(ledger: Ledger) -> None:
    body = ledger.entries()[0].body
    assert (body["population"], body["patients"], body["disjoint"]) == (ADULTS, 1000, "")


@pytest.mark.parametrize(
    "other",
    [Grant(ADULTS, 1001, "10", "1e-5"), Grant(ADULTS, 1000, "10", "1e-5", ATTESTED)],
    ids=["another size", "an attestation added"],
)
def test_a_granted_budget_keeps_every_word_that_was_granted_with_it(ledger: Ledger, other: Grant) -> None:
    with pytest.raises(GrantDiffers, match="granted once"):
        ledger.grant(other)
    assert ledger.sequence == 1


def test_a_second_population_that_nobody_vouches_for_is_refused_in_one_line_that_names_both(ledger: Ledger) -> None:
    with pytest.raises(NotDisjoint, match="budget is for patients, and the one asked for is for children") as refused:
        ledger.grant(Grant(CHILDREN, 500, 10, "1e-5"))
    assert "\n" not in str(refused.value)
    assert ledger.sequence == 1


def test_a_second_population_has_a_budget_of_its_own_and_the_owners_words_stay_in_the_ledger(ledger: Ledger) -> None:
    ledger.grant(Grant(CHILDREN, 500, 2, "1e-6", ATTESTED))
    assert ledger.entries()[-1].body["disjoint"] == ATTESTED
    ledger.reserve(ADULTS, STUDY, 10, "1e-5", rounds=1)
    ledger.reserve(CHILDREN, OTHER, 1, "1e-6", rounds=1)
    assert ledger.balance(ADULTS).left_epsilon == 0
    assert (ledger.balance(CHILDREN).left_epsilon, ledger.balance(CHILDREN).left_delta) == (1, 0)
    with pytest.raises(BudgetExceeded, match="budget of children"):
        ledger.reserve(CHILDREN, THIRD, "0.5", "1e-7", rounds=1)
    ledger.verify(check)


def test_one_population_cannot_pay_for_another(ledger: Ledger) -> None:
    with pytest.raises(NoGrant, match="granted to children"):
        ledger.reserve(CHILDREN, STUDY, 1, "1e-6", rounds=1)
    assert ledger.sequence == 1


def test_one_delta_is_split_over_all_studies_of_a_population(ledger: Ledger) -> None:
    for number in range(10):
        ledger.reserve(ADULTS, bytes([number]) * 32, "0.1", "1e-6", rounds=1)
    assert ledger.balance(ADULTS).left_delta == 0
    with pytest.raises(BudgetExceeded):
        ledger.reserve(ADULTS, STUDY * 2, "0.1", "1e-30", rounds=1)


def test_a_study_that_has_not_committed_can_be_withdrawn_and_gives_all_back(ledger: Ledger) -> None:
    ledger.reserve(ADULTS, STUDY, "7.5", "9e-6", rounds=2)
    ledger.withdraw(STUDY)
    balance = ledger.balance(ADULTS)
    assert (balance.left_epsilon, balance.left_delta) == (Decimal(10), Decimal("1e-5"))
    assert (balance.reserved_epsilon, balance.reserved_delta) == (0, 0)
    assert [entry.kind for entry in ledger.entries()] == ["grant", "reserve", "withdraw"]
    ledger.reserve(ADULTS, OTHER, 10, "1e-5", rounds=2)
    ledger.verify(check)


@pytest.mark.parametrize("released", [True, False])
def test_a_study_that_has_committed_a_round_cannot_be_withdrawn(ledger: Ledger, released: bool) -> None:
    ledger.reserve(ADULTS, STUDY, 4, "1e-6", rounds=2)
    ledger.commit(STUDY, 1)
    if released:
        ledger.release(STUDY, 1, RECEIPT)
    before = ledger.sequence
    with pytest.raises(AlreadyCommitted, match="does not come back"):
        ledger.withdraw(STUDY)
    assert (ledger.sequence, ledger.balance(ADULTS).left_epsilon) == (before, 6)


def test_what_was_withdrawn_commits_nothing_and_is_gone_for_good(ledger: Ledger) -> None:
    with pytest.raises(NotReserved):
        ledger.withdraw(STUDY)
    ledger.reserve(ADULTS, STUDY, 4, "1e-6", rounds=2)
    ledger.withdraw(STUDY)
    for forbidden in (lambda: ledger.commit(STUDY, 1), lambda: ledger.withdraw(STUDY)):
        with pytest.raises(NotReserved, match="was withdrawn"):
            forbidden()
    with pytest.raises(AlreadyReserved, match="reserved and withdrawn before"):
        ledger.reserve(ADULTS, STUDY, 4, "1e-6", rounds=2)
    assert ledger.sequence == 3


def test_a_withdrawal_touches_no_other_study(ledger: Ledger) -> None:
    ledger.reserve(ADULTS, STUDY, 4, "1e-6", rounds=2)
    ledger.reserve(ADULTS, OTHER, 5, "1e-6", rounds=2)
    ledger.commit(OTHER, 1)
    ledger.withdraw(STUDY)
    ledger.commit(OTHER, 2)
    assert ledger.balance(ADULTS).left_epsilon == 5


def test_a_refusal_before_the_first_grant_says_what_the_grant_would_say(ledger: Ledger) -> None:
    children = Grant(CHILDREN, 500, 2, "1e-6", ATTESTED)
    assert ledger.refusal(children, STUDY, 2, "1e-6") is None
    reason = ledger.refusal(children, STUDY, "2.1", "1e-6")
    assert ledger.sequence == 1
    ledger.grant(children)
    with pytest.raises(BudgetExceeded) as refused:
        ledger.reserve(CHILDREN, STUDY, "2.1", "1e-6", rounds=1)
    assert str(refused.value) == reason
