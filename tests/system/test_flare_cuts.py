"""A network cut for 30 s in the middle of a round, of one site and of the server: the study goes on, and all holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.engines.flare.loopback import SERVER
from secfed.engines.flare.namespaces import Namespaces
from secfed.flare_demo import submit_when_connected
from secfed.verify.folder import verify_folder
from tests.flare import Processes, federation

pytestmark = [
    pytest.mark.flare,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Namespaces.possible(), reason="needs root and `ip`, to make network namespaces"),
]
ROUNDS, CUT_SECONDS = 8, 30.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Processes]:
    with federation(tmp_path, ROUNDS, apart=True) as processes:
        processes.start()
        processes.wait_for_sites()
        yield processes


def cut(processes: Processes, name: str) -> None:
    """Nothing comes to or from this participant for a while."""
    assert processes.namespaces is not None
    processes.namespaces.cut(name)
    time.sleep(CUT_SECONDS)
    processes.namespaces.mend(name)


def test_a_study_survives_a_cut_of_a_site_and_of_the_server(running: Processes) -> None:
    victim = running.names[1]
    submit_when_connected(running.operator, running.study, running.loopback)
    running.at_stage(2, "masked input")
    cut(running, victim)
    assert running.closed(2)["event"] == "round-closed"
    running.at_stage(5, "masked input")
    cut(running, SERVER)
    running.until(lambda event: event["event"] == "end" and event["how"] == "completed", seconds=600.0)
    verdict = verify_folder(running.run)
    assert verdict.problem is None, verdict.problem
    summary = json.loads((running.run / "summary.json").read_text())
    rounds = {each["number"]: each for each in summary["rounds"]}
    assert sorted(rounds) == list(range(1, ROUNDS + 1))
    assert victim not in rounds[2]["survivors"]
    assert any(victim in rounds[number]["survivors"] for number in range(3, ROUNDS + 1)), "it came back"
    assert {each["state_digest"] for each in summary["hospitals"]} == {summary["state_digest"]}
    for each in summary["hospitals"]:
        assert each["rounds_released"] <= each["rounds_committed"] <= ROUNDS
