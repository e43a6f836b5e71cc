"""A site that is not connected when a study is submitted is let in between two rounds, and no round is spent on it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.demo.loopback import SERVER
from secfed.engines.flare.jobs import connect
from tests.flare import federation

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
ROUNDS = 12


def test_a_site_that_connects_late_takes_part(tmp_path: Path) -> None:
    with federation(tmp_path, ROUNDS, gathering_seconds=5.0) as processes:
        *early, late = processes.names
        for name in (SERVER, *early):
            processes.loopback.start(name)
        processes.wait_for_sites(early)
        with connect(processes.operator) as operator:
            operator.submit(processes.study)
        processes.closed(1)
        processes.loopback.start(late)
        summary = processes.finished()
        with_it = [late in each["survivors"] for each in summary["rounds"]]
        assert not any(each["attempt_void"] for each in summary["rounds"])
        assert not with_it[0]
        assert with_it[-1]
