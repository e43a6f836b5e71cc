"""What reaches the server of a federation of real processes, byte by byte: nothing of a patient, whatever goes wrong.

FLARE's messages are msgpack, in which a byte string and a text stand as they are; nothing is compressed but the folders
of jobs, which the server sends. So a plain search finds what is there; that one site's words are found, which it sends
on purpose by the same way as all answers, shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from tests.flare import CANARY, Processes, federation, owners_log
from tests.flare_hooks import (
    failing_at_opening,
    failing_in_training,
    failing_outside_the_node,
    recording_server,
    telling,
)

pytestmark = [pytest.mark.flare, pytest.mark.timeout(900)]
ROUNDS = 2
TOLD = "hornbill"
"""Stands in no record: what the site tells that does it on purpose."""
LENGTH = 3 << 20
"""Longer than one piece of a stream."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A study that was run, and what the server's processes received meanwhile."""

    processes: Processes
    received: Path

    def frames(self, kind: str) -> list[bytes]:
        """Of each of the server's processes: "parent" or "job"."""
        return [path.read_bytes() for path in sorted(self.received.glob(f"{kind}-*"))]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder, hooks = tmp_path_factory.mktemp("flare"), tmp_path_factory.mktemp("hooks")
    with federation(folder, ROUNDS) as processes:
        training, opening, outside, teller = processes.homes
        records = [Path(home.node.data[0].file) for home in processes.homes]
        for file in records:
            assert CANARY in file.read_text().splitlines()[0], "the canaries are not where they could leak from"
        processes.hooks.update(
            {
                SERVER: recording_server(hooks / SERVER, hooks / "received"),
                training.name: failing_in_training(hooks / training.name, records[0]),
                opening.name: failing_at_opening(hooks / opening.name, records[1]),
                outside.name: failing_outside_the_node(hooks / outside.name, records[2]),
                teller.name: telling(hooks / teller.name, TOLD, LENGTH),
            }
        )
        processes.start()
        submit_when_connected(processes.operator, processes.study, processes.loopback)
        processes.until(lambda event: event["event"] == "end" and event["how"] == "completed", seconds=600.0)
        yield Recorded(processes, hooks / "received")


def test_the_server_receives_what_sites_send_and_it_is_found(recorded: Recorded) -> None:
    """Or the other tests here would find nothing for another reason."""
    parents, jobs = recorded.frames("parent"), recorded.frames("job")
    assert len(parents) == len(jobs) == 1
    processes = recorded.processes
    for frames in (*parents, *jobs):
        assert all(name.encode() in frames for name in processes.names)
        for home in processes.homes:
            assert home.approval(processes.study.digest) in frames, "its answer did not come this way"
        assert TOLD.encode() in frames, "what a site tells the server is not found"


def test_sites_fail_with_a_patients_record_in_hand_and_their_owners_can_read_why(recorded: Recorded) -> None:
    processes = recorded.processes
    training, opening, outside, _ = processes.homes
    for home, kind in ((training, "ValueError"), (opening, "KeyError")):
        assert any(CANARY in line and kind in line for line in owners_log(home).splitlines())
    printed = (processes.folder / "logs" / f"{outside.name}.log").read_text()
    assert "RuntimeError" in printed
    assert CANARY in printed
    rounds = json.loads((processes.run / "summary.json").read_text())["rounds"]
    assert training.name not in rounds[0]["survivors"]
    assert training.name in rounds[1]["survivors"]


def test_nothing_of_a_patient_is_in_any_byte_that_the_server_received(recorded: Recorded) -> None:
    for frames in (*recorded.frames("parent"), *recorded.frames("job")):
        assert len(frames) > LENGTH
        assert CANARY.encode() not in frames


def test_nothing_of_a_patient_is_in_anything_that_the_server_wrote(recorded: Recorded) -> None:
    written = recorded.processes.written_by_server()
    assert len(written) > 20
    assert not [path for path in written if CANARY.encode() in path.read_bytes()]
