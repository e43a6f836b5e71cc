"""The ledgers: each one is its node's, and tells the same story as the receipts.

Chain and signatures of a ledger are checked by `dp.ledger_copy`. Here: every population's budget was granted once, and
no entry, of whatever study, goes beyond it or takes back what a commit has spent; the study was reserved, at no less
than it can spend and no more than it promises; no update is in a sum that its node had not committed first; no release
without its receipt. A commit whose round gave no sum, or dropped its node, is right and costs as much: it is counted,
not refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dp.budgets import Grant, grant_problem, granted, reservation_problem
from dp.entries import Balance, Entry, balance_of, delta_amount, epsilon_amount
from dp.errors import LedgerCorrupt
from dp.ledger_copy import read_copy
from protocols.receipts import Receipt
from secfed.account import figure_of_record, price
from secfed.errors import UserError
from secfed.run_folder import LEDGERS, STUDY, ledger_file, receipt_file
from secfed.sites import LEDGER_LABEL
from secfed.study import Study
from secfed.verify.evidence import ACCOUNTANTS_DIFFER, Broken, file_names, read_file


@dataclass(frozen=True, slots=True)
class Account:
    """What one node's ledger says, once it is checked."""

    entries: tuple[Entry, ...]
    population: str
    """Whose patients the study was reserved for."""
    balance: Balance
    """Of that population."""
    committed: frozenset[int]
    """Rounds of this study."""
    released: frozenset[int]


def check_ledgers(folder: Path, study: Study, receipts: Mapping[int, Receipt]) -> tuple[Account, ...]:
    """Check every node's ledger. Returns them in roster order.

    Raises:
        Broken: naming the first ledger, or receipt, that does not hold.
    """
    expected = {ledger_file(entry.name) for entry in study.roster}
    for name in file_names(folder, LEDGERS):
        if f"{LEDGERS}/{name}" not in expected:
            raise Broken(f"{LEDGERS}/{name}", "no node of the roster has this ledger")
    return tuple(check_ledger(folder, study, node, receipts) for node in range(len(study.roster)))


def check_ledger(folder: Path, study: Study, node: int, receipts: Mapping[int, Receipt]) -> Account:
    """Check one node's ledger. Raises Broken as `check_ledgers` does."""
    place, identity = ledger_file(study.roster[node].name), study.identities[node]
    try:
        entries = read_copy(
            read_file(folder, place),
            lambda message, signature: identity.verifies(signature, LEDGER_LABEL, message),
        )
    except LedgerCorrupt as error:
        raise Broken(place, str(error)) from error
    _check_budgets(place, entries)
    own = [entry for entry in entries if entry.body.get("study") == study.digest.hex()]
    population = _check_reservation(place, study, own)
    committed, released = _check_rounds(place, study, own, receipts)
    for number, receipt in receipts.items():
        took_part = node in receipt.statement.survivors
        if took_part and number not in committed:
            raise Broken(place, f"its update is in the sum of round {number}, which it never committed")
        if not took_part and number in released:
            raise Broken(place, f"it released round {number}, whose sum its update is not in")
    return Account(entries, population, balance_of(entries, population), committed, released)


def _check_budgets(place: str, entries: tuple[Entry, ...]) -> None:
    """Every entry, of whatever study, is one that a ledger with those before it would have taken."""
    holding: set[str] = set()
    spent: set[str] = set()
    for position, entry in enumerate(entries):
        problem = None
        if entry.kind == "grant":
            problem = _grant_problem(entries[:position], entry)
        elif entry.kind == "reserve":
            problem = _reserve_problem(entries[:position], entry)
            holding.add(entry.body["study"])
        elif entry.body["study"] not in holding:
            problem = f"is a {entry.kind} of a study that holds no reservation"
        elif entry.kind == "commit":
            spent.add(entry.body["study"])
        elif entry.kind == "withdraw":
            problem = "withdraws a study that has committed a round" if entry.body["study"] in spent else None
            holding.remove(entry.body["study"])
        if problem is not None:
            raise Broken(place, f"line {entry.sequence} {problem}")


def _grant_problem(before: tuple[Entry, ...], entry: Entry) -> str | None:
    body = entry.body
    try:
        grant = Grant(body["population"], body["patients"], body["epsilon"], body["delta"], body["disjoint"])
    except ValueError as error:
        return f"grants what cannot be granted: {error}"
    if granted(before, grant.population) is not None:
        return "grants a budget a second time"
    problem = grant_problem(before, grant)
    return None if problem is None else f"grants what cannot be granted: {problem}"


def _reserve_problem(before: tuple[Entry, ...], entry: Entry) -> str | None:
    body = entry.body
    amounts = epsilon_amount(body["epsilon"]), delta_amount(body["delta"])
    problem = reservation_problem(before, body["population"], body["study"], *amounts)
    return None if problem is None else f"reserves what cannot be reserved: {problem}"


def _check_reservation(place: str, study: Study, own: list[Entry]) -> str:
    """Returns whose patients it was reserved for."""
    reservations = [entry for entry in own if entry.kind == "reserve"]
    if len(reservations) != 1 or own[0] != reservations[0]:
        raise Broken(place, "this study is reserved exactly once, before its first round")
    body, privacy = reservations[0].body, study.privacy
    if (delta_amount(body["delta"]), body["rounds"]) != (delta_amount(privacy.delta), study.algorithm.rounds):
        raise Broken(place, "what it reserved is not what the study asks for")
    # A node may have rounded by an accountant that differs in the last digits, or have reserved all that is promised.
    least = price(study, _figure(study) * (1 - ACCOUNTANTS_DIFFER))
    if not least <= epsilon_amount(body["epsilon"]) <= epsilon_amount(privacy.epsilon):
        raise Broken(
            place,
            f"it reserved epsilon {body['epsilon']}, where the study spends {least} and promises {privacy.epsilon:g}",
        )
    return str(body["population"])


def _figure(study: Study) -> float:
    """The study's figure of record. Raises Broken where its noise does not keep what it promises."""
    try:
        found = figure_of_record(study)
    except UserError as error:
        raise Broken(STUDY, error.what) from error
    if found > study.privacy.epsilon * (1 + ACCOUNTANTS_DIFFER):
        raise Broken(STUDY, f"it promises epsilon {study.privacy.epsilon:g}, and its noise gives {found:.4f}")
    return found


def _check_rounds(
    place: str, study: Study, own: Iterable[Entry], receipts: Mapping[int, Receipt]
) -> tuple[frozenset[int], frozenset[int]]:
    """Rounds committed and released, each once, in this order, and none beyond the study."""
    committed: set[int] = set()
    released: set[int] = set()
    for entry in own:
        if entry.kind in ("reserve", "withdraw"):
            continue  # of what is withdrawn nothing is committed
        number, line = entry.body["round"], f"line {entry.sequence}"
        if entry.kind == "commit":
            if number in committed or number > study.algorithm.rounds:
                raise Broken(place, f"{line} commits round {number}, a second time or beyond the study")
            committed.add(number)
            continue
        if number in released or number not in committed:
            raise Broken(place, f"{line} releases round {number}, a second time or without a commit")
        if number not in receipts:
            raise Broken(receipt_file(number), f"is missing: {place} names it")
        if entry.body["receipt"] != receipts[number].digest().hex():
            raise Broken(place, f"{line} releases round {number} with another receipt")
        released.add(number)
    return frozenset(committed), frozenset(released)
