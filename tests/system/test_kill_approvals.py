"""An approval that is killed at any step leaves nothing approved that is not paid for, and can be given again."""

from __future__ import annotations

import pytest

from tests.system.kill_runs import run_kills


def kills(*arguments: str) -> tuple[int, str]:
    return run_kills("tests.system.kill_approvals", *arguments)


@pytest.mark.sweep
@pytest.mark.parametrize(("kind", "stride"), [("call", "3"), ("line", "29")])
def test_a_killed_approval_is_paid_for_or_none_and_is_mended_by_approving_again(kind: str, stride: str) -> None:
    code, output = kills("--kind", kind, "--stride", stride)
    assert code == 0, output
    assert "\n0 kills" not in f"\n{output}"


@pytest.mark.sweep
def test_an_approval_that_signed_before_it_reserved_would_be_found() -> None:
    code, output = kills("--kind", "call", "--stride", "5", "--weakened")
    assert code == 1
    assert "it counts as approved, and the ledger has ['grant']" in output
