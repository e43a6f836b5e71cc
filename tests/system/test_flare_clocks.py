"""A site whose clock is an hour ahead, and one whose clock is a day behind, take part like the others, and are told."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from secfed.doctor.checkup import examine_node
from secfed.node.home import Home
from tests.fake_clock import NEEDS_FAKETIME, clock_off_by, sleeping
from tests.flare import federation, wait_until_told

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900), NEEDS_FAKETIME]
ROUNDS = 3


def clock_of(home: Home) -> str:
    """The last time in a node's log."""
    return (home.path / "node.log").read_text().splitlines()[-1].split()[0]


def test_sites_whose_clocks_are_off_take_part(tmp_path: Path) -> None:
    with federation(tmp_path, ROUNDS) as processes:
        ahead, behind, *others = processes.names
        for name in (SERVER, *others):
            processes.launch(name)
        for name, offset in ((ahead, "+1h"), (behind, "-24h")):
            with clock_off_by(offset):
                seen = subprocess.check_output([sys.executable, "-c", "import time; print(time.time())"])
                assert abs(float(seen) - datetime.now(UTC).timestamp()) > 3000
                processes.hooks[name] = sleeping(tmp_path / "hooks" / name)
                processes.launch(name)
        submit_when_connected(processes.operator, processes.study, processes.loopback)
        summary = processes.finished()
        for each in summary["rounds"]:
            assert set(each["survivors"]) == set(processes.names), each
        homes = {home.name: home for home in processes.homes}
        wait_until_told(homes[ahead], "this machine's clock is 60 minutes ahead of the aggregator's", 5.0)
        wait_until_told(homes[behind], "this machine's clock is 24 hours behind the aggregator's", 5.0)
        for name in others:
            assert "clock" not in (homes[name].path / "node.log").read_text()
        # Their logs show that the clocks were off, and their ledgers are whole all the same.
        assert clock_of(homes[behind]) < clock_of(homes[others[0]]) < clock_of(homes[ahead]), "the clocks were right"
        for home in processes.homes:
            found = {each.check: each.state for each in examine_node(home.path, None)}
            assert (found["ledger"], found["store"]) == ("ok", "ok")
