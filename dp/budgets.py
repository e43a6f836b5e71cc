"""What a population of patients may spend: figures and rules over a ledger's entries. No files.

A budget belongs to people, not to files or studies: all training on the same patients is paid from one budget. A node
has one population. It has a second only if its owner attests, in words that stay in the ledger, that no patient is in
both: a patient in two populations would be promised one epsilon and pay two.

Each population has one delta, fixed when it is granted and split over its studies, and at most 1/(10 N) for its N
patients (`dp.delta_limit`). The limit of a study's own delta takes N from the union of its roster, which is larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from dp.delta_limit import check_delta_for
from dp.entries import Amount, Entry, balance_of, delta_amount, epsilon_amount, find, is_label
from dp.errors import (
    AlreadyReserved,
    BudgetExceeded,
    GrantDiffers,
    LedgerError,
    NoGrant,
    NotDisjoint,
)

PATIENTS_MAX = 10**9


@dataclass(frozen=True, slots=True)
class Grant:
    """What the owner of a population allows, once and for all.

    Raises:
        ValueError: a figure is out of range, or a text is not a valid label.
        DeltaTooLarge: delta is above 1/(10 N); this is a ValueError, too.
    """

    population: str
    """Whose budget it is. Auditors read it in the ledger: name a group, never a person."""
    patients: int
    """N: its nominal size, a rounded constant, not a count."""
    epsilon: Amount
    delta: Amount
    disjoint: str = ""
    """The owner's attestation that no patient of this population is in another population of this node: who vouches,
    and why. Empty for a node's only population."""

    def __post_init__(self) -> None:
        if not is_label(self.population) or not (self.disjoint == "" or is_label(self.disjoint)):
            raise ValueError("a population's name, and an attestation, are printable text without spaces around it")
        if not 1 <= self.patients <= PATIENTS_MAX:
            raise ValueError(f"a population has 1 to {PATIENTS_MAX} patients, and not what this says")
        epsilon_amount(self.epsilon)
        check_delta_for(delta_amount(self.delta), self.patients, "the patients of this population")

    def body(self) -> dict[str, str | int]:
        """Its fields in a ledger's entry."""
        return {
            "population": self.population,
            "patients": self.patients,
            "epsilon": str(epsilon_amount(self.epsilon)),
            "delta": str(delta_amount(self.delta)),
            "disjoint": self.disjoint,
        }


def granted(entries: Sequence[Entry], population: str) -> Entry | None:
    """The entry that granted a population its budget."""
    for entry in entries:
        if entry.kind == "grant" and entry.body["population"] == population:
            return entry
    return None


def grant_problem(entries: Sequence[Entry], grant: Grant) -> LedgerError | None:
    """Why this grant is not allowed, or None. Repeating the same grant is allowed."""
    before = granted(entries, grant.population)
    if before is not None and _is_same(before, grant):
        return None
    if before is not None:
        return GrantDiffers(
            f"the budget of {grant.population} is epsilon {before.body['epsilon']}, delta {before.body['delta']} for "
            f"{before.body['patients']} patients since {before.time}, and is granted once: keep it, attestation "
            "included, or start a ledger for other patients"
        )
    others = [entry.body["population"] for entry in entries if entry.kind == "grant"]
    if others and not grant.disjoint:
        return NotDisjoint(
            f"this ledger's budget is for {', '.join(others)}, and the one asked for is for {grant.population}: name "
            "the population as it was, or, if no patient is in both, have the owner attest it with the grant"
        )
    return None


def reservation_problem(
    entries: Sequence[Entry], population: str, study: str, epsilon: Decimal, delta: Decimal
) -> LedgerError | None:
    """Why this reservation is not allowed, or None."""
    if granted(entries, population) is None:
        return NoGrant(f"no privacy budget is granted to {population} yet: set one in this node's policy")
    if find(entries, "reserve", study) is not None:
        was = "reserved and withdrawn" if find(entries, "withdraw", study) is not None else "reserved"
        return AlreadyReserved(
            f"study {study[:16]} was {was} before, and a study is reserved once, or a second run of it would spend "
            "twice: start a new study for it"
        )
    balance = balance_of(entries, population)
    if epsilon > balance.left_epsilon or delta > balance.left_delta:
        return BudgetExceeded(
            f"this study asks for epsilon {epsilon}, delta {delta}; left of the budget of {population} are "
            f"epsilon {balance.left_epsilon}, delta {balance.left_delta} "
            f"(granted {balance.granted_epsilon} and {balance.granted_delta}). "
            "Ask for a study that costs less; what was spent does not come back"
        )
    return None


def study_problem(
    entries: Sequence[Entry], grant: Grant, study: str, epsilon: Decimal, delta: Decimal
) -> LedgerError | None:
    """Why this grant, and then this reservation, are not allowed, or None."""
    problem = grant_problem(entries, grant)
    if problem is not None:
        return problem
    if granted(entries, grant.population) is None:
        entries = (*entries, Entry(len(entries) + 1, "grant", "", grant.body(), b"", b""))
    return reservation_problem(entries, grant.population, study, epsilon, delta)


def _is_same(entry: Entry, grant: Grant) -> bool:
    body = grant.body()
    amounts = all(Decimal(entry.body[name]) == Decimal(body[name]) for name in ("epsilon", "delta"))
    return amounts and all(entry.body[name] == body[name] for name in ("patients", "disjoint"))
