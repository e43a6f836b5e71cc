"""The network cut for half a minute in the middle of a round, of one site and of the server: the study goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from tests.flare import NEEDS_NAMESPACES, Processes, by_number, federation

pytestmark = [
    pytest.mark.flare,
    pytest.mark.timeout(900),
    NEEDS_NAMESPACES,
]
ROUNDS, CUT_SECONDS = 8, 30.0


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Processes]:
    with federation(tmp_path, ROUNDS, apart=True) as processes:
        processes.start()
        processes.wait_for_sites()
        yield processes


@contextmanager
def cut(processes: Processes, name: str) -> Iterator[None]:
    """Nothing comes to or from this participant meanwhile, and for half a minute at least."""
    assert processes.namespaces is not None
    processes.namespaces.cut(name)
    began = time.monotonic()
    yield
    time.sleep(max(0.0, began + CUT_SECONDS - time.monotonic()))
    processes.namespaces.mend(name)


def test_a_study_survives_a_cut_of_a_site_and_of_the_server(running: Processes) -> None:
    victim = running.names[1]
    submit_when_connected(running.operator, running.study, running.loopback)
    running.at_stage(2, "masked input")
    with cut(running, victim):  # until the round is over: an upload that waits on its way would come in time otherwise
        assert running.closed(2)["event"] == "round-closed"
    running.at_stage(5, "masked input")
    with cut(running, SERVER):
        pass
    rounds = by_number(running.finished())
    assert victim not in rounds[2]["survivors"]
    assert any(victim in rounds[number]["survivors"] for number in range(3, ROUNDS + 1)), "it came back"
