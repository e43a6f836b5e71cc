"""Checks the ledgers: each belongs to its node, and agrees with the receipts.

`dp.ledger_copy` checks the chain and signatures of a ledger's copy. `dp.bookkeeping` checks that a ledger would have
accepted the entries that the copy shows: a budget granted once, nothing beyond it, and nothing taken back that a commit
has spent. This module checks that

- the node reserved the study, for at least what it can spend and at most what it promises;
- the node said how it ran before its first commit;
- the node committed every update that is in a sum, before it sent it;
- every release has its receipt;
- the node closed the study with the model that the receipt of the last round gives.

A commit whose round gave no sum, or dropped its node, is legal and costs the same: it is counted, not refused. Entries
of other studies are not shown: for their totals there is only the node's word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dp.bookkeeping import first_fault
from dp.entries import Entry, delta_amount, epsilon_amount
from dp.errors import LedgerCorrupt
from dp.ledger_copy import LedgerCopy, read_copy
from protocols.receipts import Receipt
from secfed.errors import UserError
from secfed.reports.folder import LEDGERS, STUDY, ledger_file, receipt_file
from secfed.rounds.run_facts import EMBEDDED, FLARE, RunFacts
from secfed.study.account import ACCOUNTANTS_DIFFER, figure_of_record, least_price
from secfed.study.manifest import Study
from secfed.study.signing import entry_check
from secfed.verify.evidence import Broken, file_names, read_file
from secfed.verify.rounds import History


@dataclass(frozen=True, slots=True)
class Account:
    """What one node's ledger says, after the checks."""

    copy: LedgerCopy
    committed: frozenset[int]
    """Rounds of this study."""
    released: frozenset[int]
    facts: tuple[RunFacts, ...]
    """How each of its processes ran the study."""


def check_ledgers(folder: Path, study: Study, history: History, leave_out: Sequence[str] = ()) -> tuple[Account, ...]:
    """Check every node's ledger. Returns them in roster order.

    Args:
        folder, study, history: of the run.
        leave_out: ledgers that are not there yet.

    Raises:
        Broken: naming the first ledger, or receipt, that does not hold.
    """
    expected = {ledger_file(entry.name) for entry in study.roster}
    for name in file_names(folder, LEDGERS):
        if f"{LEDGERS}/{name}" not in expected:
            raise Broken(f"{LEDGERS}/{name}", "no node of the roster has this ledger")
    there = [node for node, entry in enumerate(study.roster) if ledger_file(entry.name) not in leave_out]
    return tuple(check_ledger(folder, study, node, history) for node in there)


def check_ledger(folder: Path, study: Study, node: int, history: History) -> Account:
    """Check one node's ledger. Raises Broken as `check_ledgers` does."""
    place, identity = ledger_file(study.roster[node].name), study.identities[node]
    try:
        copy = read_copy(
            read_file(folder, place),
            study.digest,
            entry_check(identity),
        )
    except LedgerCorrupt as error:
        raise Broken(place, str(error)) from error
    fault = first_fault(copy.entries, whole=len(copy.entries) == len(copy.lines))
    if fault is not None:
        raise Broken(place, f"{_line(fault[0])} {fault[1]}")
    own = [entry for entry in copy.entries if entry.kind != "grant"]
    _check_reservation(place, study, own)
    facts = _check_facts(place, own)
    committed, released = _check_rounds(place, study, own, history.receipts)
    for number, receipt in history.receipts.items():
        took_part = node in receipt.statement.survivors
        if took_part and number not in committed:
            raise Broken(place, f"its update is in the sum of round {number}, which it never committed")
        if not took_part and number in released:
            raise Broken(place, f"it released round {number}, but its update is not in that sum")
    held = history.states.get(copy.closing["round"])
    if held is None or held.hex() != copy.closing["state"]:
        raise Broken(place, "it closes the study with a model that no receipt of that round gives")
    return Account(copy, committed, released, facts)


def _line(entry: Entry) -> str:
    return f"line {entry.sequence + 1}"  # the head is the first


def _check_facts(place: str, own: Sequence[Entry]) -> tuple[RunFacts, ...]:
    """How the node ran the study; it must say so before its first commit."""
    kinds = [entry.kind for entry in own]
    if "run" not in kinds or ("commit" in kinds and kinds.index("commit") < kinds.index("run")):
        raise Broken(place, "it does not say, before its first commit, how its node ran the study")
    facts = tuple(RunFacts.of(entry.body) for entry in own if entry.kind == "run")
    if any(each.engine not in (EMBEDDED, FLARE) for each in facts):
        raise Broken(place, "it names an unknown engine")
    return facts


def _check_reservation(place: str, study: Study, own: Sequence[Entry]) -> None:
    reservations = [entry for entry in own if entry.kind == "reserve"]
    if len(reservations) != 1 or own[0] != reservations[0]:
        raise Broken(place, "this study must be reserved exactly once, before its first round")
    body, privacy = reservations[0].body, study.privacy
    if (delta_amount(body["delta"]), body["rounds"]) != (delta_amount(privacy.delta), study.algorithm.rounds):
        raise Broken(place, "what it reserved is not what the study asks for")
    least = least_price(study, _figure(study))  # a node may also have reserved all that is promised
    if not least <= epsilon_amount(body["epsilon"]) <= epsilon_amount(privacy.epsilon):
        raise Broken(
            place,
            f"it reserved epsilon {body['epsilon']}, but the study spends {least} and promises {privacy.epsilon:g}",
        )


def _figure(study: Study) -> float:
    """The study's figure of record. Raises Broken if the study's noise does not keep its promise."""
    try:
        found = figure_of_record(study)
    except UserError as error:
        raise Broken(STUDY, error.what) from error
    if found > study.privacy.epsilon * (1 + ACCOUNTANTS_DIFFER):
        raise Broken(STUDY, f"it promises epsilon {study.privacy.epsilon:g}, but its noise gives {found:.4f}")
    return found


def _check_rounds(
    place: str, study: Study, own: Iterable[Entry], receipts: Mapping[int, Receipt]
) -> tuple[frozenset[int], frozenset[int]]:
    """The rounds that were committed and released: each once, the commit first, and none beyond the study."""
    committed: set[int] = set()
    released: set[int] = set()
    for entry in own:
        if entry.kind not in ("commit", "release"):
            continue
        number, line = entry.body["round"], _line(entry)
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
