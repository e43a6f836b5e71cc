"""A hospital that is killed at any step loses no spend, sends nothing twice, and comes back.

`python -m tests.system.kills` kills at every step; here, at every step of a ledger and at some of a study. It runs in a
process of its own, for it forks, and pytest's has threads.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.killing import Kind


def kills(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `python -m tests.system.kills`."""
    command = [sys.executable, "-m", "tests.system.kills", *arguments]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr, done.stderr
    if "cannot count calls" in done.stdout:
        pytest.skip("system calls are counted on Linux on x86-64, where processes may be traced")
    return done.returncode, done.stdout


@pytest.mark.parametrize("kind", ["line", "call"])
def test_a_ledger_killed_at_any_step_holds_what_it_said_it_had_written(kind: Kind) -> None:
    code, output = kills("--play", "ledger", "--kind", kind)
    assert code == 0, output
    assert f"ledger, every {kind}: " in output
    assert " 0 kills" not in output


@pytest.mark.parametrize(("kind", "stride"), [("line", "311"), ("call", "11")])
def test_a_hospital_killed_in_a_study_has_committed_what_it_sent_and_takes_part_again(kind: Kind, stride: str) -> None:
    code, output = kills("--play", "study", "--kind", kind, "--stride", stride)
    assert code == 0, output
    assert " 0 kills" not in output


def test_a_ledger_that_answers_before_it_has_written_is_found() -> None:
    code, output = kills("--play", "ledger", "--kind", "line", "--stride", "7", "--weakened", "late-ledger")
    assert code == 1
    assert "entries were written, it said, and the ledger holds" in output


@pytest.mark.parametrize(
    ("weakened", "finding"),
    [
        ("late-ledger", "peers have seen 2 entries of a ledger that holds 1"),
        ("uploads-first", "upload 1 left, and the ledger knows nothing"),
        ("floor-forgotten", "two different answers of kind advertise left in one session"),
    ],
)
def test_a_kill_shows_what_a_weakened_hospital_does(weakened: str, finding: str) -> None:
    where = ("--play", "study", "--kind", "call", "--at", "to ledger", "--stride", "2", "--until-broken")
    code, output = kills(*where, "--weakened", weakened)
    assert code == 1
    assert finding in output
