"""An approval that is killed at any step leaves nothing approved that is not paid for, and can be given again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def kills(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `python -m tests.system.kill_approvals`."""
    command = [sys.executable, "-m", "tests.system.kill_approvals", *arguments]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert not done.stderr, done.stderr
    if "cannot count calls" in done.stdout:
        pytest.skip("system calls are counted on Linux on x86-64, where processes may be traced")
    return done.returncode, done.stdout


@pytest.mark.parametrize(("kind", "stride"), [("call", "3"), ("line", "29")])
def test_a_killed_approval_is_paid_for_or_none_and_is_mended_by_approving_again(kind: str, stride: str) -> None:
    code, output = kills("--kind", kind, "--stride", stride)
    assert code == 0, output
    assert "\n0 kills" not in f"\n{output}"


def test_an_approval_that_signed_before_it_reserved_would_be_found() -> None:
    code, output = kills("--kind", "call", "--stride", "5", "--weakened")
    assert code == 1
    assert "it counts as approved, and the ledger has ['grant']" in output
