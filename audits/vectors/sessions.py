"""The sessions in the vectors: sizes, ring widths on both sides of 32 bits, a dropout at every stage."""

from __future__ import annotations

from audits.vectors import Session
from audits.vectors.transcripts import ReferenceMachines, play, scenario_from


def record() -> dict[str, Session]:
    """Play all of them on the reference, with fresh HPKE randomness."""
    scenarios = {
        "three-nodes-nobody-leaves": scenario_from(
            "three, nobody", size=3, colluders=1, dropouts=0, smallest_cohort=3, largest_element=40, absent={}
        ),
        "three-nodes-one-leaves-before-masked-input": scenario_from(
            "three, masked input",
            size=3,
            colluders=0,
            dropouts=1,
            smallest_cohort=2,
            largest_element=2**16,
            absent={1: "masked input"},
        ),
        "three-nodes-one-leaves-before-share": scenario_from(
            "three, share",
            size=3,
            colluders=0,
            dropouts=1,
            smallest_cohort=2,
            largest_element=2**57,
            absent={2: "share"},
        ),
        "five-nodes-two-leave-before-advertise-and-unmask": scenario_from(
            "five, advertise and unmask",
            size=5,
            colluders=0,
            dropouts=2,
            smallest_cohort=2,
            largest_element=2**31 // 5 - 1,
            absent={0: "advertise", 3: "unmask"},
        ),
        "eight-nodes-three-leave-before-masked-input-agree-and-close": scenario_from(
            "eight, masked input, agree and close",
            size=8,
            colluders=1,
            dropouts=3,
            smallest_cohort=4,
            largest_element=2**30,
            absent={1: "masked input", 4: "agree", 6: "close"},
        ),
    }
    return {name: (scenario, play(scenario, ReferenceMachines(scenario))) for name, scenario in scenarios.items()}
