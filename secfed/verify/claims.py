"""Checks `summary.json`: what it says about the run must follow from the study and the evidence.

Checked are the promise and against whom it holds, epsilon, digests, cohorts, survivors, quorums, ledgers and budgets.
How the study ran must be what the nodes signed in their ledgers, and the engine's name must fit that. Accuracy, times,
traffic and the rest of `secfed.rounds.run_facts.coordinators_word` are the coordinator's word: nothing in the folder
proves or refutes them.

A complaint about a node must be signed by the node that is said to make it; whether it is right is not checked. The
verifier computes epsilon again with its own accountant.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocols.complaints import Complaint, is_valid
from protocols.errors import FaultKind
from protocols.receipts import Receipt
from secfed.reports.folder import ADAPTER, SUMMARY, receipt_file
from secfed.rounds.faults import kind_name
from secfed.rounds.run_facts import RunKind, against_in_short, coordinators_word, how_it_ran
from secfed.study.account import ACCOUNTANTS_DIFFER, epsilon_by_round
from secfed.study.manifest import Study
from secfed.verify.evidence import Broken, agree, claim, read_json, shortened
from secfed.verify.ledgers import Account
from secfed.verify.rounds import History

_CLAIM = ("accused", "by", "kind", "signature")
"""The keys of a claim about a node's fault."""


def check_summary(
    folder: Path, study: Study, history: History, adapter: str, accounts: Sequence[Account]
) -> dict[str, Any]:
    """Check `summary.json` against everything that was verified before it. Returns what it holds.

    Raises:
        Broken: naming the first claim that does not hold, or a receipt that the summary lists and the folder lacks.
    """
    summary = read_json(folder, SUMMARY)
    chain = history.chain
    agree(SUMMARY, summary, "study", study.name)
    agree(SUMMARY, summary, "study_digest", study.digest.hex())
    agree(SUMMARY, summary, "mode", study.privacy.mode)
    agree(SUMMARY, summary, "unit", study.privacy.protects.value)
    agree(SUMMARY, summary, "clip", chain.state.clip)
    kind = _check_how_it_ran(summary, study, accounts)
    agree(SUMMARY, summary, "against", against_in_short(study, kind))
    if claim(SUMMARY, summary, "adapter_digest", str) != adapter:
        raise Broken(ADAPTER, f"its files are not those that {SUMMARY} names")
    agree(SUMMARY, summary, "state_digest", chain.state.digest(chain.layout).hex())
    last = 0
    for each in claim(SUMMARY, summary, "rounds", list):
        number = claim(SUMMARY, each, "number", int)
        if not last < number <= study.algorithm.rounds:
            raise Broken(SUMMARY, f"round {number} is out of order")
        last = number
        if claim(SUMMARY, each, "attempt_void", bool):
            _check_void(each, number, history)
        elif number not in history.receipts:
            raise Broken(receipt_file(number), f"is missing: {SUMMARY} lists it")
        else:
            _check_completed(each, study, history, history.receipts[number])
        _check_faults(each, number, study)
    told = {each["number"] for each in summary["rounds"]}
    for number in history.receipts:
        if number not in told:
            raise Broken(SUMMARY, f"round {number} has a receipt and is not listed")
    _check_hospitals(summary, study, history, accounts)
    return summary


def _check_how_it_ran(summary: dict[str, Any], study: Study, accounts: Sequence[Account]) -> RunKind:
    """How the summary says the study ran must be what the nodes signed, and its engine must be theirs."""
    engine = claim(SUMMARY, summary, "engine", str)
    for entry, account in zip(study.roster, accounts, strict=True):
        for facts in account.facts:
            if not engine.startswith(facts.engine):
                raise Broken(
                    SUMMARY,
                    f"engine is {shortened(engine)}, but {entry.name} signed that its engine was {facts.engine}",
                )
    how = how_it_ran([entry.name for entry in study.roster], [account.facts for account in accounts])
    agree(SUMMARY, summary, "how_it_ran", how)
    agree(SUMMARY, summary, "coordinators_word", coordinators_word(study))
    return RunKind(how["kind"])


def _check_void(each: dict[str, Any], number: int, history: History) -> None:
    if number in history.receipts:
        raise Broken(SUMMARY, f"round {number} is marked void, but it has a receipt")
    for name in ("receipt_digest", "sum_digest"):
        agree(SUMMARY, each, name, "")
    agree(SUMMARY, each, "survivors", [])


def _check_completed(each: dict[str, Any], study: Study, history: History, receipt: Receipt) -> None:
    statement = receipt.statement
    agree(SUMMARY, each, "receipt_digest", receipt.digest().hex())
    agree(SUMMARY, each, "sum_digest", statement.sum_digest.hex())
    agree(SUMMARY, each, "cohort", [study.roster[node].name for node in statement.cohort])
    agree(SUMMARY, each, "survivors", [study.roster[node].name for node in statement.survivors])
    agree(SUMMARY, each, "quorum", statement.quorum)
    agree(SUMMARY, each, "ring_bits", history.chain.shape.ring_bits)
    agree(SUMMARY, each, "dimension", history.chain.shape.dimension)


def _check_faults(each: dict[str, Any], number: int, study: Study) -> None:
    """Every claim about a node must be a possible one, and every complaint must be signed by the node that it names."""
    names = [entry.name for entry in study.roster]
    kinds = {kind_name(kind): kind for kind in FaultKind}
    survivors = claim(SUMMARY, each, "survivors", list)
    seen: set[tuple[str, str]] = set()
    for told in claim(SUMMARY, each, "faults", list):
        accused, by, kind, signature = (claim(SUMMARY, told, name, str) for name in _CLAIM)
        if set(told) != set(_CLAIM) or accused not in names or kind not in kinds or (by, accused) in seen:
            raise Broken(SUMMARY, f"round {number}: a claim about a node's fault is not well-formed, or is made twice")
        seen.add((by, accused))
        if not by:
            agree(SUMMARY, told, "signature", "")
        elif by not in names or by in survivors:
            raise Broken(SUMMARY, f"round {number}: {by} cannot have left it with a complaint")
        else:
            complaint = Complaint(
                study.digest, number, names.index(by), names.index(accused), int(kinds[kind]), _signature(signature)
            )
            if not is_valid(complaint, study.digest, study.identities):
                raise Broken(SUMMARY, f"round {number}: the complaint of {by} about {accused} is not signed by {by}")


def _signature(text: str) -> bytes:
    """The bytes of a signature in lower-case hex; no bytes, which are never a valid signature, for any other text."""
    try:
        signature = bytes.fromhex(text)
    except ValueError:
        return b""
    return signature if signature.hex() == text else b""


def _check_hospitals(summary: dict[str, Any], study: Study, history: History, accounts: Sequence[Account]) -> None:
    hospitals = claim(SUMMARY, summary, "hospitals", list)
    if len(hospitals) != len(study.roster):
        raise Broken(SUMMARY, "its sites are not those of the roster")
    curve = (0.0, *epsilon_by_round(study))
    numbers = [each["number"] for each in summary["rounds"]]
    for index, (each, entry, account) in enumerate(zip(hospitals, study.roster, accounts, strict=True)):
        copy, balance, totals = account.copy, account.copy.balance, account.copy.totals
        for name, found in (
            ("name", entry.name),
            ("index", index),
            ("population", copy.population),
            ("patients_nominal", entry.patients),
            ("delta", study.privacy.delta),
            ("noise_multiplier", study.privacy.noise_multiplier),
            ("ledger_sequence", len(copy.lines)),
            ("ledger_head", copy.lines[-1].digest.hex()),
            ("rounds_committed", len(account.committed)),
            ("rounds_released", len(account.released)),
            ("budget_epsilon", float(balance.granted_epsilon)),
            ("budget_delta", float(balance.granted_delta)),
            ("budget_since", copy.grant.time if copy.grant is not None else ""),
            ("disjoint", str(copy.grant.body["disjoint"]) if copy.grant is not None else ""),
            ("studies", totals.studies),
            ("reserved_epsilon", float(totals.reserved_epsilon)),
            ("reserved_delta", float(totals.reserved_delta)),
            ("spent_epsilon", float(totals.spent_epsilon)),
            ("spent_delta", float(totals.spent_delta)),
            ("state_digest", copy.closing["state"]),
            ("left_epsilon", float(balance.left_epsilon)),
            ("left_delta", float(balance.left_delta)),
        ):
            agree(SUMMARY, each, name, found)
        spent = [curve[sum(booked <= number for booked in account.committed)] for number in numbers]
        agree(SUMMARY, each, "epsilon", curve[-1], ACCOUNTANTS_DIFFER)
        agree(SUMMARY, each, "epsilon_by_round", spent, ACCOUNTANTS_DIFFER)
