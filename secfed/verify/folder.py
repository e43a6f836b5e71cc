"""Checks a run's folder, part by part: what the nodes agreed to, what happened, and what the run claims about it.

The verifier cannot know whether noise was really added, or how the saved adapter performs. It also cannot know whether
the newest receipts were withheld from everybody; a node knows, and so does a ledger that was not cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from secfed.errors import UserError
from secfed.reports.folder import ADAPTER, FIRST_STATE, RECEIPTS, REPORT, STUDY, SUMMARY
from secfed.study.approvals import SIGNATURES
from secfed.study.manifest import Study
from secfed.verify.adapter import check_adapter
from secfed.verify.approval import check_approval, read_study
from secfed.verify.claims import check_summary
from secfed.verify.evidence import Broken
from secfed.verify.ledgers import Account, check_ledgers
from secfed.verify.report import check_report
from secfed.verify.rounds import History, check_rounds
from secfed.verify.unfinished import NotFinished, missing_files


@dataclass(frozen=True, slots=True)
class Checked:
    """One kind of evidence that holds."""

    kind: str
    counts: Mapping[str, int]
    """What was counted, for programs."""
    text: str
    """The same for people."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What holds, and the first thing that does not."""

    checked: tuple[Checked, ...]
    problem: Broken | None
    """`NotFinished` if nothing is broken, but the last files of a run are missing."""

    @property
    def missing(self) -> tuple[str, ...]:
        """The missing files of a run that is only unfinished; empty if the run is broken or whole."""
        return self.problem.missing if isinstance(self.problem, NotFinished) else ()


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
    """Raises Broken at the first thing that does not hold, and NotFinished if all that is there holds."""
    missing = missing_files(folder, _sites(folder))
    study = _check_study(folder, missing, done)
    if study is None or FIRST_STATE in missing:
        raise NotFinished(missing)
    history = check_rounds(folder, study, is_whole=not missing)
    done(_told_rounds(history))
    adapter = ""
    if not any(place.startswith(f"{ADAPTER}/") for place in missing):
        adapter = check_adapter(folder, history.chain)
        tensors, numbers = len(history.chain.layout), history.chain.state.adapter.size
        done(
            Checked(
                "adapter",
                {"tensors": tensors, "numbers": numbers},
                f"its {numbers} trained numbers are those that the sums lead to, bit for bit",
            )
        )
    accounts = check_ledgers(folder, study, history, leave_out=missing)
    if accounts or not missing:
        done(_told_ledgers(accounts))
    if SUMMARY not in missing:
        summary = check_summary(folder, study, history, adapter, accounts)
        rounds = {"rounds": len(summary["rounds"])}
        done(Checked("summary", rounds, "agrees with all of that, and with the account of the study"))
        if REPORT not in missing:
            failed = check_report(folder, study, summary, with_page=not missing)
            text = "; ".join(
                ["follows from study and summary" + (", and its page shows it" if not missing else ""), *failed]
            )
            done(Checked("report", {**rounds, "cross_checks_failed": len(failed)}, text))
    if missing:
        raise NotFinished(missing)


def _sites(folder: Path) -> tuple[str, ...]:
    """The sites whose ledgers belong here; none if there is no study."""
    return tuple(entry.name for entry in read_study(folder).roster) if (folder / STUDY).exists() else ()


def _check_study(folder: Path, missing: Sequence[str], done: Callable[[Checked], None]) -> Study | None:
    """The study and who signed it; None if it is not there yet."""
    if STUDY in missing:
        return None
    if SIGNATURES in missing:
        study = read_study(folder)
        done(Checked("study", {"signatures": 0}, f"can be read and names {len(study.roster)} nodes; no signatures yet"))
        return study
    study = check_approval(folder)
    nodes = len(study.roster)
    done(Checked("study", {"signatures": nodes}, f"signed by all {nodes} nodes of its roster, every byte of it"))
    return study


def _told_rounds(history: History) -> Checked:
    count = len(history.receipts)
    text = (
        f"{count} in one chain from the study, {history.signatures} signatures, every quorum and cohort recomputed; "
        "each sum leads to the state that its receipt names"
        if count
        else "none: no round gave a sum, and only the run's author vouches for the first state"
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
        f"{len(accounts)} with {entries} signed entries, of which {shown} are shown because they concern this study; "
        f"every update in a sum was committed first; {commits} commits, {releases} of them with a receipt",
    )
