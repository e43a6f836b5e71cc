"""A ledger that its node wrote to its own liking: every entry that no ledger would have taken is found."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dp.bookkeeping import first_fault
from dp.budgets import Grant
from dp.entries import Entry, totals_of
from dp.ledger import Ledger

STUDY, OTHER = (bytes([number]) * 32 for number in (1, 7))
STAMPED = {"epsilon": "1", "delta": "1e-7"}
FACTS: dict[str, str | int] = {
    "engine": "embedded",
    "process": "1" * 64,
    "home": "2" * 64,
    "machine": "",
    "hold_back": 0,
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """What a ledger takes; each forgery below follows as entry 4."""
    ledger = Ledger(tmp_path / "ledger.sqlite", lambda digest: digest)
    ledger.grant(Grant("adults", 1000, 10, 1e-5))
    ledger.reserve("adults", STUDY, 8, 5e-6, 4)
    ledger.commit(STUDY, 1)
    return ledger


def fault_after(ledger: Ledger, body: dict[str, Any]) -> str:
    """What is found once this entry is there, too."""
    ledger._append(ledger.entries(), body)
    found = first_fault(ledger.entries(), whole=True)
    assert found is not None
    assert found[0].sequence == 4
    return found[1]


def test_what_a_ledger_writes_itself_holds(ledger: Ledger) -> None:
    ledger.run(STUDY, FACTS)
    ledger.release(STUDY, 1, OTHER)
    ledger.reserve("adults", OTHER, 1, 1e-6, 1)
    ledger.close_study(STUDY, 1, OTHER)
    ledger.withdraw(OTHER)
    ledger.close_study(STUDY, 2, OTHER)
    ledger.run(OTHER, FACTS)
    ledger.close_study(OTHER, 2, OTHER)  # its owner withdrew it, and the others went on
    assert first_fault(ledger.entries(), whole=True) is None
    totals = totals_of(ledger.entries(), "adults")
    assert (totals.studies, totals.reserved_epsilon, totals.spent_epsilon) == (1, Decimal(8), Decimal(8))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"kind": "withdraw", "study": STUDY.hex()}, "withdraws a study that has committed a round"),
        ({"kind": "withdraw", "study": OTHER.hex()}, "is a withdraw of a study that holds no reservation"),
        ({"kind": "commit", "study": OTHER.hex(), "round": 1}, "is a commit of a study that holds no reservation"),
        (
            {"kind": "grant", "population": "adults", "patients": 1000, "disjoint": "", **STAMPED},
            "grants a budget a second time",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 1000, "disjoint": "", **STAMPED},
            "makes a grant that is not allowed: this ledger's budget is for adults",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 10**7, "disjoint": "they say", **STAMPED},
            "makes a grant that is not allowed: a delta of 1E-7 is above 1/(10 N)",
        ),
        (
            {"kind": "grant", "population": "more", "patients": 10**200, "disjoint": "they say", **STAMPED},
            "makes a grant that is not allowed: a population has 1 to",
        ),
        (
            {"kind": "reserve", "population": "more", "study": OTHER.hex(), "rounds": 1, **STAMPED},
            "makes a reservation that is not allowed: no privacy budget is granted to more",
        ),
        (
            {"kind": "reserve", "population": "adults", "study": OTHER.hex(), "rounds": 1, **STAMPED, "epsilon": "2.5"},
            "makes a reservation that is not allowed: this study asks for epsilon 2.5",
        ),
    ],
)
def test_an_entry_that_frees_or_moves_what_is_spent_is_found_though_its_node_signed_it(
    ledger: Ledger, body: dict[str, Any], reason: str
) -> None:
    assert fault_after(ledger, body).startswith(reason)


def test_a_closing_that_counts_wrongly_is_found_in_the_whole_ledger(ledger: Ledger) -> None:
    totals = totals_of(ledger.entries(), "adults").body()
    told = {"kind": "close", "study": STUDY.hex(), "population": "adults", "round": 1, "state": "", "lines": 3}
    assert "more or less of them, than the ledger holds" in fault_after(ledger, {**told, **totals, "studies": 2})


def test_an_empty_ledger_has_no_fault() -> None:
    entries: tuple[Entry, ...] = ()
    assert first_fault(entries, whole=True) is None
