"""The whole of a run's folder, part by part, from what was agreed to what is claimed about it.

What the verifier cannot know: whether the newest receipts were withheld from everybody (a ledger that was not cut, or
a node, knows), whether noise was really added, and how the saved adapter performs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from secfed.errors import UserError
from secfed.run_folder import RECEIPTS, SIGNATURES, SUMMARY
from secfed.verify.adapter import check_adapter
from secfed.verify.approval import check_approval
from secfed.verify.claims import check_summary
from secfed.verify.evidence import Broken
from secfed.verify.ledgers import Account, check_ledgers
from secfed.verify.report import check_report
from secfed.verify.rounds import History, check_rounds


@dataclass(frozen=True, slots=True)
class Checked:
    """One kind of evidence that holds."""

    kind: str
    counts: Mapping[str, int]
    """What was counted, for machines."""
    text: str
    """The same for people."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What holds, and the first thing that does not."""

    checked: tuple[Checked, ...]
    problem: Broken | None


def verify_folder(folder: Path) -> Verdict:
    """Check a run's folder. Stops at the first thing that does not hold.

    Raises:
        UserError: the folder holds no run.
    """
    if not any((folder / name).exists() for name in (SIGNATURES, RECEIPTS, SUMMARY)):
        raise UserError(
            f"{folder} is not the folder of a run: it holds no receipts, signatures or summary",
            "Give the folder that `secfed run` or `secfed demo` wrote",
        )
    checked: list[Checked] = []
    try:
        _check(folder, checked.append)
    except Broken as problem:
        return Verdict(tuple(checked), problem)
    return Verdict(tuple(checked), None)


def _check(folder: Path, done: Callable[[Checked], None]) -> None:
    study = check_approval(folder)
    nodes = len(study.roster)
    done(Checked("study", {"signatures": nodes}, f"signed by all {nodes} nodes of its roster, every byte of it"))
    history = check_rounds(folder, study)
    done(_told_rounds(history))
    adapter = check_adapter(folder, history.chain)
    tensors, numbers = len(history.chain.layout), history.chain.state.adapter.size
    done(
        Checked(
            "adapter",
            {"tensors": tensors, "numbers": numbers},
            f"its {numbers} trained numbers are those that the sums lead to, bit for bit",
        )
    )
    accounts = check_ledgers(folder, study, history)
    done(_told_ledgers(accounts))
    summary = check_summary(folder, study, history, adapter, accounts)
    rounds = {"rounds": len(summary["rounds"])}
    done(Checked("summary", rounds, "agrees with all of that, and with the account of the study"))
    failed = check_report(folder, study, summary)
    text = "; ".join(["is what study and summary give, and so is its page", *failed])
    done(Checked("report", {**rounds, "cross_checks_failed": len(failed)}, text))


def _told_rounds(history: History) -> Checked:
    count = len(history.receipts)
    text = (
        f"{count} in one chain from the study on, {history.signatures} signatures, every quorum and cohort recomputed; "
        "each sum leads to the state that its receipt names"
        if count
        else "none: no round gave a sum, and nobody but the run's author vouches for the first state"
    )
    return Checked("receipts", {"receipts": count, "signatures": history.signatures, "sums": count}, text)


def _told_ledgers(accounts: tuple[Account, ...]) -> Checked:
    entries = sum(len(account.copy.lines) for account in accounts)
    shown = sum(len(account.copy.entries) for account in accounts)
    commits = sum(len(account.committed) for account in accounts)
    releases = sum(len(account.released) for account in accounts)
    return Checked(
        "ledgers",
        {"ledgers": len(accounts), "entries": entries, "shown": shown, "commits": commits, "releases": releases},
        f"{len(accounts)} with {entries} signed entries, {shown} of them shown, which are this study's; every update "
        f"in a sum was committed first; {commits} commits, "
        f"{releases} of them with a receipt",
    )
