"""An owner approves a study, and the machine dies at some step: `python -m tests.system.kill_approvals`.

Killed at a line of what approves, stores or reserves, or before a system call that writes. After each kill: what counts
as approved has its budget reserved, and approving again ends with one approval, one grant and one reservation. In a
process of its own, without torch, for it forks (`tests.system.killing`).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from secfed.node.approve import Candidate, approve, earlier_approval
from secfed.node.data_watch import data_digest
from secfed.node.enrol import NewBudget, make_home, register
from secfed.node.home import Home
from secfed.node.texts import TextFigures
from secfed.study.approvals import StudyFile, sign_study
from tests.homes import COLUMNS, allow_all, approved_at
from tests.secfed.federation import identities
from tests.secfed.run_folders import study_text
from tests.system.killing import NEVER, End, Kind, Victim, can_count

FILES = frozenset(
    [
        "secfed/node/approve.py",
        "secfed/node/home.py",
        "secfed/files/whole.py",
        "secfed/study/approvals.py",
        "secfed/node/sites.py",
        "dp/ledger.py",
    ]
)


@dataclass(frozen=True, slots=True)
class Play:
    """A hospital before it approves, and the study."""

    home: Path
    study: Path

    def again(self, folder: Path) -> Play:
        """The same in a new folder."""
        shutil.copytree(self.home, folder / "home")
        return Play(folder / "home", self.study)

    def approve(self) -> None:
        """As `secfed node approve` does, but for the model, which needs torch."""
        home = Home.open(self.home)
        if earlier_approval(home, self.study) is None:
            approve(home, self.candidate(home), datetime.now(UTC))

    def candidate(self, home: Home) -> Candidate:
        """The study as it would be examined."""
        file, dataset = StudyFile.read(self.study), home.node.dataset(None)
        digest, site = data_digest(Path(dataset.file)), home.site(file.study, dataset)
        texts = TextFigures(records=100, tokens=100, unknown=0, unreadable=0, cut=0)
        return Candidate(file, 0, dataset, digest, site, "a model", texts, file.study.privacy.epsilon, None)


def set_up(folder: Path) -> Play:
    """A home whose key is the first of the formula study's roster."""
    home = make_home(folder / "home", "hospital-0")
    study = folder / "study.toml"
    study.write_text(study_text().replace(identities(1)[0].public.raw.hex(), home.identity.public.raw.hex()))
    letters = folder / "letters.jsonl"
    records = ({"patient": str(number), "text": "words", "label": "no"} for number in range(100))
    letters.write_text("".join(json.dumps(record) + "\n" for record in records))
    register(home, letters, "letters", "adults", COLUMNS, NewBudget(100, 8.0, 1e-5, ""))
    allow_all(home, StudyFile.read(study).study)
    return Play(home.path, study)


def problems(play: Play) -> list[str]:
    """What a kill has left that it must not, and what approving again does not mend."""
    found, home = [], Home.open(play.home)
    digest = StudyFile.read(play.study).study.digest
    if approved_at(home, digest) is not None and kinds(home) != ["grant", "reserve"]:
        found.append(f"it counts as approved, and the ledger has {kinds(home)}")
    play.approve()
    if approved_at(home, digest) is None:
        found.append("approving again does not approve it")
    if kinds(home) != ["grant", "reserve"]:
        found.append(f"after approving again the ledger has {kinds(home)}")
    return found


def kinds(home: Home) -> list[str]:
    """The ledger's entries."""
    with home.open_ledger() as ledger:
        return [entry.kind for entry in ledger.entries()]


def signs_first(play: Play) -> None:
    """What approving must not be: the signature is stored before the budget is reserved."""
    home = Home.open(play.home)
    candidate = play.candidate(home)
    with home.open_ledger() as ledger:  # a home with an approval and an empty ledger would be refused for that alone
        ledger.grant(candidate.site.policy.budget.grant)
    approval = sign_study(home.identity, "hospital-0", candidate.file, datetime.now(UTC))
    home.keep(candidate.file, approval, "letters", candidate.data_digest)
    approve_later = Home.keep
    try:
        Home.keep = lambda *_: play.home  # type: ignore[method-assign, assignment]
        approve(home, candidate, datetime.now(UTC))
    finally:
        Home.keep = approve_later  # type: ignore[method-assign]


def kill_at(play: Play, kind: Kind, number: int, body: Callable[[Play], None]) -> tuple[End, list[str]]:
    """Kill at one step, in a fresh copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = play.again(Path(folder))
        end = Victim(lambda connection: body(copy), kind, number, FILES).end()
        return end, problems(copy) if end.killed else []


def main() -> int:
    """Exit code 1 if a kill left what it must not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=["line", "call"], required=True)
    parser.add_argument("--stride", type=int, default=1, help="try every so many steps")
    parser.add_argument("--weakened", action="store_true", help="an approval that signs before it reserves")
    options = parser.parse_args()
    if not can_count(options.kind):
        print("cannot count calls on this machine")
        return 0
    body = signs_first if options.weakened else Play.approve
    with tempfile.TemporaryDirectory() as folder:
        play = set_up(Path(folder))
        steps = len(kill_at(play, options.kind, NEVER, body)[0].places)
        kills, broken = 0, 0
        for number in range(1, steps + 1, options.stride):
            end, found = kill_at(play, options.kind, number, body)
            kills += end.killed
            broken += bool(found)
            for problem in found:
                print(f"killed at {end.places[-1]}: {problem}")
    print(f"{kills} kills at {steps} steps of kind {options.kind}, {broken} with a problem")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
