"""Does the engine of a real federation work at all? A server and four sites as processes, and one SIGKILL.

`make test-flare` tries everything else about it, and takes an hour; this takes a minute, and stands in `make test-all`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from protocols.aggregator import Stage
from secfed.demo.flare import submit_when_connected
from tests.flare import by_number, federation

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(600)]


def test_four_sites_finish_a_study_though_one_is_killed_after_its_envelopes(tmp_path: Path) -> None:
    with federation(tmp_path, 3) as running:
        running.start()
        running.wait_for_sites()
        submit_when_connected(running.operator, running.study, running.loopback)
        running.at_stage(2, Stage.MASKED_INPUT.value)
        killed = running.names[0]
        assert running.loopback.kill_job(killed), "no job process to kill"
        rounds = by_number(running.finished())  # verifies the folder, and that all four have the same model
    assert killed not in rounds[2]["survivors"], "it was killed before it uploaded"
