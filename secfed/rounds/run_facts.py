"""How a run ran: its nodes sign this, so the coordinator cannot say it for them.

Before its first commit in a process, a node writes into its ledger which engine carries its messages, in which process,
home and machine it runs, and how long it holds uploads back (kind `run` of `dp.entries`). Process, home and machine are
digests that include the study's: they can be compared within a study, but not across studies. From these entries
`how_it_ran` derives whether a run was a federation, a demonstration or a simulation. The summary says the same, and the
verifier derives it again.

A node vouches for itself alone: somebody who holds several nodes' keys can sign anything in their names. That is why
people compare the fingerprints of keys. No node signs the rest of the summary (`coordinators_word`).
"""

from __future__ import annotations

import math
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from crypto.kdf import digest
from secfed.study.manifest import Study

EMBEDDED, FLARE = "embedded", "NVIDIA FLARE"
"""The names of engines that nodes sign. The engine's name in a summary begins with one of them."""
_COORDINATORS_WORD = (
    "started",
    "finished",
    "seconds",
    "versions",
    "rounds.void_reason",
    "rounds.dropped",
    "rounds.seconds",
    "rounds.bytes_up",
    "rounds.bytes_down",
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PROCESS = secrets.token_bytes(32)


def coordinators_word(study: Study) -> list[str]:
    """The keys of `summary.json` for which only the coordinator vouches: nothing in the folder proves or refutes
    them."""
    return ["engine", *(key for figure in study.task.figures for key in figure.keys), *_COORDINATORS_WORD]


class RunKind(StrEnum):
    """What a run may be called."""

    FEDERATION = "federation"
    """More than one machine, and no two nodes in one process."""
    DEMONSTRATION = "demonstration"
    """One machine ran all nodes: nothing is claimed against whoever ran it."""
    SIMULATION = "simulation"
    """One process held several nodes' data."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """How one process of a node runs a study. Digests are 64 hexadecimal digits."""

    engine: str
    """What carries its messages: `EMBEDDED` or `FLARE`."""
    process: str
    home: str
    machine: str
    """Equal in all containers and network namespaces of one running kernel. Empty if it cannot be found out."""
    hold_back: int
    """Seconds from a round's request to its upload, rounded up; 0 if uploads leave as soon as they are ready."""

    def body(self) -> dict[str, str | int]:
        """Its fields in a ledger's entry."""
        return asdict(self)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> RunFacts:
        """The facts from a ledger's entry."""
        return cls(*(body[name] for name in cls.__slots__))


def facts_here(study: bytes, engine: str, home: Path, hold_back: float) -> RunFacts:
    """How this process runs a node.

    Args:
        study: the study's digest.
        engine: what carries the node's messages.
        home: the folder of its ledger; it exists.
        hold_back: seconds, from the site's policy.
    """
    machine, place = _machine(), home.stat()
    where = machine, str(place.st_dev).encode(), str(place.st_ino).encode()
    return RunFacts(
        engine=engine,
        process=digest("run process", study, _PROCESS, str(os.getpid()).encode()).hex(),  # a fork has another number
        home=digest("run home", study, *where).hex(),
        machine=digest("run machine", study, machine).hex() if machine else "",
        hold_back=math.ceil(hold_back),
    )


def how_it_ran(names: Sequence[str], said: Sequence[Sequence[RunFacts]]) -> dict[str, Any]:
    """What follows from all nodes' entries, as `summary.json` has it under `how_it_ran`.

    Args:
        names: of the nodes, in roster order.
        said: each node's entries, at least one.

    Returns:
        `kind`: a `RunKind`. `on_one_machine`: lists of at least two names each: nodes that shared a machine, home or
        process, or that cannot be told apart. `held_back`: how many nodes held every upload back. `nodes`: for each one
        a map of `name`, `engines`, and `hold_back_seconds`, the smallest that it signed.
    """
    groups = _groups(said)
    return {
        "kind": _kind(said, groups).value,
        "on_one_machine": [[names[node] for node in group] for group in groups if len(group) > 1],
        "held_back": sum(all(each.hold_back for each in words) for words in said),
        "nodes": [
            {
                "name": name,
                "engines": sorted({each.engine for each in words}),
                "hold_back_seconds": min(each.hold_back for each in words),
            }
            for name, words in zip(names, said, strict=True)
        ],
    }


def _kind(said: Sequence[Sequence[RunFacts]], groups: Sequence[Sequence[int]]) -> RunKind:
    processes = [{each.process for each in words} for words in said]
    in_common = len(set().union(*processes)) < sum(map(len, processes))
    if in_common or any(each.engine == EMBEDDED for words in said for each in words):
        return RunKind.SIMULATION
    return RunKind.DEMONSTRATION if len(groups) == 1 else RunKind.FEDERATION


def _groups(said: Sequence[Sequence[RunFacts]]) -> list[list[int]]:
    """Nodes grouped by what they share, each in one group. An unknown machine may be the same as any other."""
    marks = [{mark for each in words for mark in (each.process, each.home, each.machine)} for words in said]
    groups: list[tuple[set[str], list[int]]] = []
    for node, own in enumerate(marks):
        together, apart = (own, [node]), []
        for group in groups:
            if own & group[0] or "" in own | group[0]:
                together = (together[0] | group[0], [*group[1], *together[1]])
            else:
                apart.append(group)
        groups = [*apart, together]
    return sorted(sorted(nodes) for _, nodes in groups)


def _machine() -> bytes:
    """A value that is the same for everything on this kernel until it starts again; empty if there is none to read."""
    try:
        if sys.platform == "darwin":
            asked = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
            return subprocess.run(asked, capture_output=True, timeout=10, check=True).stdout.strip()  # noqa: S603
        return _BOOT_ID.read_bytes().strip()
    except (OSError, subprocess.SubprocessError):
        return b""


def against_in_short(study: Study, kind: RunKind) -> str:
    """Against whom the figure holds, in a few words."""
    if kind is RunKind.SIMULATION:
        return "against those who see what is published (a simulation: one process sees all data)"
    if kind is RunKind.DEMONSTRATION:
        return "against those who see what is published (a demonstration: one machine ran every party)"
    return study.mechanism.against_in_short
