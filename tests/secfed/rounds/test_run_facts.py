"""What nodes sign about how they ran, and what it is called: no more than their words give."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from secfed.rounds.run_facts import EMBEDDED, FLARE, RunFacts, facts_here, how_it_ran

NAMES = ("a", "b", "c")
STUDY = bytes([1]) * 32


def apart(node: int, hold_back: int = 0) -> RunFacts:
    """A node on a machine of its own."""
    return RunFacts(FLARE, f"process {node}", f"home {node}", f"machine {node}", hold_back)


def told(*said: RunFacts) -> tuple[str, list[list[str]]]:
    found = how_it_ran(NAMES, [[each] for each in said])
    return found["kind"], found["on_one_machine"]


def test_nodes_that_have_nothing_in_common_are_a_federation() -> None:
    assert told(apart(0), apart(1), apart(2)) == ("federation", [])


def test_nodes_on_one_machine_are_a_demonstration() -> None:
    for said in (
        [replace(apart(node), machine="m") for node in range(3)],
        [replace(apart(0), process=p) for p in NAMES],
    ):
        assert told(*said) == ("demonstration", [[*NAMES]])


def test_what_nodes_have_in_common_in_pairs_they_have_in_common_all_together() -> None:
    assert (
        told(apart(0), replace(apart(1), machine="machine 0"), replace(apart(2), home="home 1"))[0] == "demonstration"
    )


def test_two_nodes_on_one_machine_are_named() -> None:
    assert told(apart(0), apart(1), replace(apart(2), machine="machine 0")) == ("federation", [["a", "c"]])


def test_nodes_in_one_process_are_a_simulation_whatever_engine_they_name() -> None:
    assert told(apart(0), apart(1), replace(apart(2), process="process 0"))[0] == "simulation"


def test_one_embedded_node_makes_a_simulation() -> None:
    assert told(apart(0), replace(apart(1), engine=EMBEDDED), apart(2))[0] == "simulation"


def test_a_machine_that_cannot_be_told_may_be_anybodys() -> None:
    assert told(apart(0), replace(apart(1), machine=""), apart(2)) == ("demonstration", [[*NAMES]])


def test_a_node_that_moved_was_on_both_machines() -> None:
    moved = [apart(0), replace(apart(0), process="another", machine="machine 1")]
    found = how_it_ran(NAMES, [moved, [apart(1)], [apart(2)]])
    assert (found["kind"], found["on_one_machine"]) == ("federation", [["a", "b"]])


def test_an_upload_that_was_once_not_held_back_counts() -> None:
    found = how_it_ran(NAMES, [[apart(0, 60)], [apart(1, 60), replace(apart(1), process="later")], [apart(2)]])
    assert found["held_back"] == 1
    assert [each["hold_back_seconds"] for each in found["nodes"]] == [60, 0, 0]


ASKING = """
import json, sys
from pathlib import Path
from secfed.rounds.run_facts import FLARE, facts_here
print(json.dumps(facts_here(bytes.fromhex(sys.argv[1]), FLARE, Path(sys.argv[2]), 0.5).body()))
"""


def elsewhere(study: bytes, home: Path) -> RunFacts:
    """What another process of this machine says."""
    asked = [sys.executable, "-c", ASKING, study.hex(), str(home)]
    return RunFacts.of(json.loads(subprocess.run(asked, capture_output=True, check=True).stdout))


def test_two_processes_of_one_machine_have_it_in_common_and_nothing_else(tmp_path: Path) -> None:
    homes = [tmp_path / name for name in NAMES]
    for home in homes:
        home.mkdir()
    here = facts_here(STUDY, FLARE, homes[0], 0.5)
    assert here == facts_here(STUDY, FLARE, homes[0], 0.5)
    there = elsewhere(STUDY, homes[1])
    assert there.machine == here.machine != ""
    assert there.process != here.process
    assert there.home != here.home
    assert elsewhere(STUDY, homes[0]).home == here.home
    assert here.hold_back == 1


def test_a_process_that_was_forked_is_another_one(tmp_path: Path) -> None:
    here = facts_here(STUDY, FLARE, tmp_path, 0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, facts_here(STUDY, FLARE, tmp_path, 0).process.encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert len(told) == len(here.process)
    assert told != here.process


def test_what_is_said_in_two_studies_has_nothing_in_common(tmp_path: Path) -> None:
    one, two = (facts_here(study, FLARE, tmp_path, 0) for study in (STUDY, bytes(32)))
    assert not {one.process, one.home, one.machine} & {two.process, two.home, two.machine}
