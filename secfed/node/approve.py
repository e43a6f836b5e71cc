"""What a node's owner does with a study: inspect it, approve it, withdraw the approval.

All checks run before the owner is asked.

Approving reserves the study's whole budget in the ledger, then signs, then stores. After a crash in between, the budget
is reserved but nothing is stored; approving again continues from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from secfed.errors import UserError
from secfed.node.attempts import allow_attempts
from secfed.node.data_watch import DataWatch, data_digest
from secfed.node.home import MODELS, Approved, Home
from secfed.node.pace import warning
from secfed.node.privacy_plan import privacy_plan
from secfed.node.settings import Dataset
from secfed.node.sites import LEDGER_FILE, STORE_FILE, Site, check_budget, reserve_once
from secfed.node.store import open_store
from secfed.node.texts import TextFigures, check_texts, told
from secfed.rounds.run_facts import RunKind
from secfed.study import account
from secfed.study.approvals import StudyFile, sign_study
from secfed.study.diff import differences
from secfed.study.manifest import Study
from secfed.study.signing import entry_check
from secfed.study.text import in_columns, study_text


@dataclass(frozen=True, slots=True)
class Candidate:
    """A study that passed every check that a node can make before the study starts."""

    file: StudyFile
    index: int
    dataset: Dataset
    data_digest: str
    """SHA-256 of the data file, as it was read."""
    site: Site
    model: str
    """One line: what is trained."""
    texts: TextFigures
    """How well the base model's tokenizer reads the data."""
    epsilon: float
    """The study's cost, from this node's own accountant."""
    last: Approved | None
    """The last study that was approved here."""


def examine(home: Home, path: Path, data: str | None) -> Candidate:
    """Check a study exactly as the node will when it runs it. Writes nothing.

    Args:
        home: the node's home.
        path: the study file.
        data: the name of the data file to train on; may be omitted if the node has only one.

    Raises:
        UserError, DPError: the study cannot be approved; the text says why and gives the next step.
    """
    from secfed.models.trainers import open_study_model
    from secfed.study.base import find_base_among  # loads torch

    file = StudyFile.read(path)
    study, index = file.study, home.index_in(file.study)
    dataset = home.node.dataset(data)
    digest = data_digest(Path(dataset.file))
    watch = DataWatch(Path(dataset.file), digest, dataset.name)
    site = home.site(study, dataset)
    watch.check()  # otherwise the owner would approve something other than what was shown
    if not _holds_reservation(home, study):
        check_budget(study, site)
    epsilon = account.check_noise(study)
    opened = open_study_model(study, find_base_among(study, home.path / MODELS))
    texts = check_texts(site, opened.tokenizer, study)
    return Candidate(file, index, dataset, digest, site, opened.model.describe(), texts, epsilon, last_approved(home))


def earlier_approval(home: Home, path: Path) -> Approved | None:
    """The approval of this study, if it was approved before.

    Raises:
        UserError: the same values were approved in a file with different text, or the stored study is not what was
            approved.
    """
    file = StudyFile.read(path)
    if not home.study_folder(file.study.digest).exists():
        return None
    kept = home.stored(file.study.digest)
    if kept.file.data != file.data:
        raise UserError(
            f"this node approved the same values in a different file text on {kept.approval.approved}",
            f"Use the text that was signed: {kept.folder / 'study.toml'}",
        )
    return kept


def last_approved(home: Home) -> Approved | None:
    """The most recently approved study whose approval is still valid."""
    kept = []
    for digest in home.digests():
        try:
            kept.append(home.stored(digest))
        except UserError:
            continue  # `secfed doctor` and `secfed node status` report it
    return max(kept, key=lambda each: datetime.fromisoformat(each.approval.approved), default=None)


def approval_screen(candidate: Candidate) -> str:
    """What the owner sees before approving: the study, the data, the cost, and the difference from the last approved
    study.
    """
    study, site, dataset = candidate.file.study, candidate.site, candidate.dataset
    records = sum(len(own) for own in site.patients.values())
    data = (
        f"{dataset.name} ({dataset.file}): {len(site.patients)} patients with {records} records, of "
        f"{dataset.population}. These counts are shown only here"
    )
    parts = [
        study_text(study, candidate.index),
        *in_columns([("your data", data), ("its texts", told({site.name: candidate.texts}))]),
        privacy_plan(study, [site], candidate.model, candidate.epsilon, RunKind.FEDERATION),
        *in_columns([("pace", _told_pace(site))]),
        _what_is_new(candidate.last, study),
    ]
    return "\n".join(parts)


def _told_pace(site: Site) -> str:
    seconds = site.policy.pace.upload_after_seconds
    problem = warning(site.records, seconds)
    if problem is None:
        return f"every upload is held back until {seconds:g} s after the round's request"
    return f"WARNING: {problem[0]}. {problem[1]}"


def _what_is_new(last: Approved | None, study: Study) -> str:
    if last is None:
        return "this is the first study approved here"
    name, day = last.study.name, last.approval.approved[:10]
    lines = [f"  {line}" for line in differences(last.study, study)]
    return "\n".join([f"changes since {name}, approved here on {day}:", *lines])


def approve(home: Home, candidate: Candidate, now: datetime) -> Approved:
    """Reserve the budget, sign, store.

    Raises:
        UserError: the data changed after it was shown, or the store cannot be written.
        DPError: the ledger refuses the reservation.
    """
    if data_digest(Path(candidate.dataset.file)) != candidate.data_digest:
        raise UserError(
            f"{candidate.dataset.file} has changed since it was shown here",
            "Nothing was signed. Inspect the study again",
        )
    with home.open_ledger() as ledger:
        ledger.verify(entry_check(home.identity.public))
        reserve_once(candidate.file.study, candidate.site, ledger)
    approval = sign_study(home.identity, candidate.site.name, candidate.file, now)
    try:
        home.keep(candidate.file, approval, candidate.dataset.name, candidate.data_digest)
    except OSError as error:
        raise UserError(
            f"the approval cannot be stored in {home.path} ({error.strerror})",
            "The budget is reserved. Free some disk space and approve the study again",
        ) from error
    return home.stored(candidate.file.study.digest)


def withdraw(home: Home, digest: bytes) -> str:
    """Release the budget of a study that has not begun. This is final: the study cannot be approved again.

    Returns:
        The epsilon that was released.

    Raises:
        DPError: the study has begun, or holds no reservation.
    """
    with home.open_ledger() as ledger:
        held = ledger.reservation(digest)
        ledger.withdraw(digest)
    return str(held.body["epsilon"]) if held is not None else "0"


def raise_floor(home: Home, digest: bytes, round_number: int) -> None:
    """Record that this home was restored from a copy: the node counts as having joined every round up to this one.

    Raises:
        UserError: the node's own records show a later round.
    """
    try:
        with open_store(home.path / STORE_FILE) as store:
            store.raise_floor(digest, round_number)
    except ValueError as error:
        raise UserError(
            str(error), "Ask every other site for the highest round that it has seen, and give the highest of these"
        ) from error


def allow_more_attempts(home: Home, digest: bytes, more: int) -> int:
    """Let the node join more rounds on the state at which it stopped. Returns how many extra rounds are allowed on that
    state in total.

    Raises:
        UserError: the node has not stopped, or the number is above what an owner may allow.
    """
    try:
        with open_store(home.path / STORE_FILE) as store:
            return allow_attempts(store, digest, more)
    except ValueError as error:
        raise UserError(str(error), "Run `secfed node status`; docs/wrong-sums.md says how to continue") from error


def _holds_reservation(home: Home, study: Study) -> bool:
    if not (home.path / LEDGER_FILE).exists():
        return False
    with home.open_ledger() as ledger:
        return ledger.reservation(study.digest) is not None
