"""Checks whether a ledger would have accepted these entries in this order: figures and rules over entries. No files.

Chain and signatures show that a node wrote the entries. This module checks that no budget was granted twice or
exceeded, that no reservation was withdrawn after a commit had spent it, and that a closed study's totals are right. A
node's owner checks a whole ledger; a reader of a copy (`dp.ledger_copy`) checks the entries that it shows, beside which
there may be other studies.
"""

from __future__ import annotations

from collections.abc import Sequence

from dp.budgets import Grant, grant_problem, granted, reservation_problem
from dp.entries import EXACT, Entry, Totals, balance_from, delta_amount, epsilon_amount, totals_of


def first_fault(entries: Sequence[Entry], whole: bool) -> tuple[Entry, str] | None:
    """The first entry that a ledger would have refused, and what is wrong with it; None if there is none.

    Args:
        entries: those of a whole ledger, or of one study with the grant that pays for it.
        whole: whether they are a whole ledger.
    """
    holding: set[str] = set()
    spent: set[str] = set()
    for position, entry in enumerate(entries):
        problem = None
        if entry.kind == "grant":
            problem = _grant_problem(entries[:position], entry)
        elif entry.kind == "reserve":
            problem = _reserve_problem(entries[:position], entry)
            holding.add(entry.body["study"])
        elif entry.kind == "run":
            continue  # it spends nothing
        elif entry.kind == "close":
            problem = _close_problem(entries[:position], entry, whole)
        elif entry.body["study"] not in holding:
            problem = f"is a {entry.kind} of a study that holds no reservation"
        elif entry.kind == "commit":
            spent.add(entry.body["study"])
        elif entry.kind == "withdraw":
            problem = "withdraws a study that has committed a round" if entry.body["study"] in spent else None
            holding.remove(entry.body["study"])
        if problem is not None:
            return entry, problem
    return None


def _grant_problem(before: Sequence[Entry], entry: Entry) -> str | None:
    body = entry.body
    try:
        grant = Grant(body["population"], body["patients"], body["epsilon"], body["delta"], body["disjoint"])
    except ValueError as error:
        return f"makes a grant that is not allowed: {error}"
    if granted(before, grant.population) is not None:
        return "grants a budget a second time"
    problem = grant_problem(before, grant)
    return None if problem is None else f"makes a grant that is not allowed: {problem}"


def _reserve_problem(before: Sequence[Entry], entry: Entry) -> str | None:
    body = entry.body
    amounts = epsilon_amount(body["epsilon"]), delta_amount(body["delta"])
    problem = reservation_problem(before, body["population"], body["study"], *amounts)
    return None if problem is None else f"makes a reservation that is not allowed: {problem}"


def _close_problem(before: Sequence[Entry], entry: Entry, whole: bool) -> str | None:
    """The totals of a closing entry must equal those of the entries; if other studies are hidden, they must be at least
    as large, and within the grant."""
    population, told = entry.body["population"], Totals.of(entry.body)
    known, grant = totals_of(before, population), granted(before, population)
    if grant is None:
        return f"closes a study that no grant to {population} pays for"
    amounts = epsilon_amount(grant.body["epsilon"]), delta_amount(grant.body["delta"])
    left = balance_from(*amounts, told)
    more = [EXACT.subtract(getattr(told, name), getattr(known, name)) for name in Totals.__slots__]
    if whole and any(more):
        return "counts other studies, or more or less of them, than the ledger holds"
    if min(more) < 0 or told.spent_epsilon > told.reserved_epsilon or told.spent_delta > told.reserved_delta:
        return "counts less than the study's own entries add up to, or more spent than was reserved"
    if left.left_epsilon < 0 or left.left_delta < 0:
        return f"counts more than was granted to {population}"
    return None
