"""SIGKILL at each of the six stages, to a site and to the server: the study goes on, and all of it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from protocols.aggregator import Stage
from secfed.aggregator.journal import Journal
from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from tests.flare import Processes, by_number, federation

pytestmark = [pytest.mark.flare, pytest.mark.timeout(1800)]
STAGES = [stage.value for stage in Stage]
SITES, SERVERS = len(STAGES), 2 * len(STAGES)
"""Rounds in which a site is killed, and then the server: there every other round completes, because nodes join only
three on one state of the model."""
ROUNDS = SITES + SERVERS + 2


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Processes]:
    with federation(tmp_path, ROUNDS) as processes:
        processes.start()
        processes.wait_for_sites()
        yield processes


def test_a_study_survives_a_kill_at_each_stage_of_a_site_and_of_the_server(running: Processes) -> None:
    assert len(STAGES) == 6
    submit_when_connected(running.operator, running.study, running.loopback)
    for number, stage in enumerate(STAGES, start=1):
        running.at_stage(number, stage)
        assert running.loopback.kill_job(running.names[number % 4]), "no job process to kill"
        assert running.closed(number)["event"] == "round-closed", stage
    for number, stage in zip(range(SITES + 1, SITES + SERVERS, 2), STAGES, strict=True):
        running.at_stage(number, stage)
        running.loopback.kill(SERVER)
        running.loopback.start(SERVER)
        running.closed(number + 1)
    rounds = by_number(running.finished())
    assert not any(rounds[number]["attempt_void"] for number in range(1, SITES + 1)), "a site is a dropout"
    past = Journal(running.run).read(running.study, 1 << 24)
    assert past.opened == ROUNDS
    # One number a kill may be void, and the one that is used up where a round is finished late.
    assert len(past.links) >= ROUNDS - len(STAGES)
