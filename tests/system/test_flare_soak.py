"""Twenty-four rounds in which sites and server are killed and cut off at random: sums stay right, nothing piles up.

What happens is drawn anew each time. The draw's seed is printed; SOAK_SEED=... draws the same again. Twelve quiet
rounds follow, in which processes of the job live long enough to show whether their memory grows.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("nvflare")

from secfed.demo.flare import submit_when_connected
from secfed.demo.loopback import SERVER
from tests.flare import NEEDS_NAMESPACES, Processes, by_number, federation
from tests.flare_hooks import writing_down
from tests.soak import Memory, disturb, drawn, jobs, left_of, wrong_sums, zombies

pytestmark = [
    pytest.mark.flare,
    pytest.mark.timeout(3600),
    NEEDS_NAMESPACES,
]
DISTURBED_ROUNDS, QUIET_ROUNDS = 24, 12
ROUNDS = DISTURBED_ROUNDS + QUIET_ROUNDS
_END_SECONDS = 60.0
_GROWTH_MIB_MAX = 8.0
"""An allocator takes memory in steps: one process of sixteen has been seen to take 5.5 MiB more, once."""
_MEASURED_LEAST = 9


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Processes]:
    with federation(tmp_path, ROUNDS, apart=True) as processes:
        for home in processes.homes:
            processes.hooks[home.name] = writing_down(tmp_path / "hooks" / home.name, home.path / "masked")
        processes.start()
        processes.wait_for_sites()
        yield processes
    assert not left_of(tmp_path), "processes that outlive their federation"


def test_a_study_survives_random_kills_and_cuts(running: Processes) -> None:
    seed = int(os.environ.get("SOAK_SEED") or secrets.randbits(32))
    print(f"SOAK_SEED={seed}")
    memory = Memory()
    submit_when_connected(running.operator, running.study, running.loopback)
    for what in drawn(random.Random(seed), DISTURBED_ROUNDS, running.names):
        print(f"round {what.number}: {what.kind} ({what.victim}) at {what.stage}", flush=True)
        disturb(running, what)
        running.closed(what.number + (what.victim == SERVER))
        memory.measure(running)
    for number in range(DISTURBED_ROUNDS + 2, ROUNDS + 1):
        running.closed(number)
        memory.measure(running)

    rounds = by_number(running.finished())
    completed = {number: each["survivors"] for number, each in rounds.items() if not each["attempt_void"]}
    growths = sorted(memory.growths(_MEASURED_LEAST))
    print(f"{len(completed)} rounds completed; growth in MiB: {growths}")
    assert len(completed) >= ROUNDS // 2
    assert wrong_sums(running, completed) == []
    one_less = {number: names[1:] for number, names in completed.items()}
    assert wrong_sums(running, one_less) == list(completed), "a wrong sum would be noticed"
    assert not list(running.folder.glob("homes/*/masked/*-again.npy")), "a node masked a second vector in a round"

    end = time.monotonic() + _END_SECONDS
    while jobs(running) and time.monotonic() < end:
        time.sleep(0.5)
    assert not jobs(running), "processes of a job that is over"
    assert not zombies(running)
    assert {(name, role) for name, role, _ in growths} >= {(name, "job") for name in (SERVER, *running.names)}
    assert all(growth < _GROWTH_MIB_MAX for _, _, growth in growths), growths
