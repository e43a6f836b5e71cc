"""A hospital that is killed at any step loses no spend, sends nothing twice, and comes back.

`python -m tests.system.kills` kills at every step; here, at every step of a ledger and at some of a study.
"""

from __future__ import annotations

import pytest

from tests.system.kill_runs import run_kills
from tests.system.killing import Kind


def kills(*arguments: str) -> tuple[int, str]:
    return run_kills("tests.system.kills", *arguments)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["line", "call"])
def test_a_ledger_killed_at_any_step_holds_what_it_said_it_had_written(kind: Kind) -> None:
    code, output = kills("--play", "ledger", "--kind", kind)
    assert code == 0, output
    assert f"ledger, every {kind}: " in output
    assert " 0 kills" not in output


@pytest.mark.sweep
@pytest.mark.parametrize(("kind", "stride"), [("line", "311"), ("call", "11")])
def test_a_hospital_killed_in_a_study_has_committed_what_it_sent_and_takes_part_again(kind: Kind, stride: str) -> None:
    code, output = kills("--play", "study", "--kind", kind, "--stride", stride)
    assert code == 0, output
    assert " 0 kills" not in output


def test_a_ledger_that_answers_before_it_has_written_is_found() -> None:
    code, output = kills("--play", "ledger", "--kind", "line", "--stride", "7", "--weakened", "late-ledger")
    assert code == 1
    assert "entries were written, it said, and the ledger holds" in output


@pytest.mark.sweep
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
