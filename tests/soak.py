"""What a soak does to a federation, what it measures meanwhile, and what must be true of every process after it."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from protocols.aggregator import Stage
from protocols.encoding import from_ring, unpack
from secfed.aggregator.aggregation import load
from secfed.demo.loopback import SERVER
from secfed.reports.folder import sum_file
from secfed.rounds.chain import Chain
from tests.flare import Processes

STAGES = [stage.value for stage in Stage]
KINDS = ("nothing", "kill a job", "kill a site", "cut a site", "kill the server", "cut the server")
CUT_SECONDS = (3.0, 25.0)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """What happens to one round."""

    number: int
    kind: str
    stage: str
    victim: str
    seconds: float


def drawn(choices: random.Random, rounds: int, names: tuple[str, ...]) -> Iterator[Disturbance]:
    """What happens to these rounds: every kind as often as the others, in any order.

    Nodes join three rounds on one state of the model: after a round in which the server is disturbed, and which may be
    void, one is left alone.
    """
    kinds: list[str] = []
    number = 1
    while number <= rounds:
        if not kinds:
            kinds = choices.sample(KINDS, len(KINDS))
        kind = kinds.pop()
        victim = SERVER if kind.endswith("the server") else choices.choice(names)
        yield Disturbance(number, kind, choices.choice(STAGES), victim, choices.uniform(*CUT_SECONDS))
        number += 2 if victim == SERVER else 1


def disturb(processes: Processes, what: Disturbance) -> None:
    """Do it, once its round has come to its stage. A round that is over earlier is left alone."""
    ends = ("round-closed", "round-void")

    def is_time(event: dict[str, object]) -> bool:
        return event.get("round_number") == what.number and (event.get("stage") == what.stage or event["event"] in ends)

    if processes.until(is_time)["event"] in ends:
        return
    match what.kind.split():
        case ["kill", "a", "job"]:
            processes.loopback.kill_job(what.victim)
        case ["kill", *_]:
            processes.loopback.kill(what.victim)
            processes.launch(what.victim)
        case ["cut", *_]:
            assert processes.namespaces is not None
            processes.namespaces.cut(what.victim)
            time.sleep(what.seconds)
            processes.namespaces.mend(what.victim)


@dataclass
class Memory:
    """What every process held after every round, in MiB that are its own alone."""

    held: dict[tuple[str, str, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, processes: Processes) -> None:
        for name in (SERVER, *processes.names):
            for position, process in enumerate(processes.loopback.family(name)):
                role = "job" if position else "parent"
                try:
                    self.held[name, role, process.pid].append(process.memory_full_info().uss / (1 << 20))
                except psutil.NoSuchProcess:
                    continue

    def growths(self, least: int) -> Iterator[tuple[str, str, float]]:
        """For each process measured so often: how much more it held in the last third than in the middle one."""
        for (name, role, _), held in self.held.items():
            if len(held) >= least:
                third = len(held) // 3
                yield name, role, float(np.median(held[-third:]) - np.median(held[third:-third]))


def left_of(folder: Path) -> list[str]:
    """Processes of this machine that have to do with this folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or ())
        if str(folder) in command and process.pid != psutil.Process().pid:
            found.append(f"{process.pid} {process.info['status']}: {command[:200]}")
    return found


def jobs(processes: Processes) -> list[psutil.Process]:
    """What runs beside the server's and the sites' own processes."""
    return [each for name in (SERVER, *processes.names) for each in processes.loopback.family(name)[1:]]


def zombies(processes: Processes) -> list[int]:
    """Processes that ended and that nobody has looked after."""
    return [
        each.pid
        for name in (SERVER, *processes.names)
        for each in processes.loopback.family(name)
        if each.status() == psutil.STATUS_ZOMBIE
    ]


def wrong_sums(processes: Processes, survivors: dict[int, list[str]]) -> list[int]:
    """Completed rounds whose sum is not that of the vectors which its survivors masked, as integers.

    Args:
        processes: a federation whose sites wrote down what they masked.
        survivors: their names, by the number of a completed round.
    """
    work = load(processes.aggregator, processes.study.digest)
    shape = Chain(work.study, work.opened.model.layout, work.opened.first).shape
    homes = {home.name: home.path for home in processes.homes}
    wrong = []
    for number, names in survivors.items():
        vectors = [np.load(homes[name] / "masked" / f"{number:04d}.npy") for name in names]
        published = from_ring(unpack((processes.run / sum_file(number)).read_bytes(), shape), shape)
        if not np.array_equal(np.sum(vectors, axis=0), published):
            wrong.append(number)
    return wrong
