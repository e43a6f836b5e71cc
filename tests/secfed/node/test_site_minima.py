"""A site's own minima hold in its sessions: it takes no part in a round that is legal by the study, and too small by
its policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secfed.node.node import Node
from tests.secfed.federation import Federation, cut, make_study


def strict_about(federation: Federation, node: int, **cohort: int) -> None:
    """Start this node again, with these minima in its policy."""
    parts = federation.nodes[node].parts
    policy = parts.policy
    stricter = policy.model_copy(update={"cohort": policy.cohort.model_copy(update=cohort)})
    federation.nodes[node] = Node(federation.study, replace(parts, policy=stricter))


@pytest.mark.parametrize("minima", [{"minimum": 5}, {"honest_minimum": 4}])
@pytest.mark.parametrize(("stage", "name"), [("advertise", "the cohort"), ("masked input", "the survivor set")])
def test_a_round_below_a_sites_own_minimum_goes_on_without_that_site(
    tmp_path: Path, minima: dict[str, int], stage: str, name: str
) -> None:
    """Four of five are enough for the study."""
    federation = Federation(make_study(), tmp_path, cuts=(cut(4, 1, stage),))
    strict_about(federation, 0, **minima)
    federation.coordinator().run_round(1)
    (refusal,) = {text for site, text in federation.refusals if site == "hospital-0"}
    assert f"{name} has 4 nodes where at least 5 are needed" in refusal
    assert {site for site, _ in federation.refusals} == {"hospital-0"}


def test_with_everybody_there_it_takes_part(tmp_path: Path) -> None:
    federation = Federation(make_study(), tmp_path)
    strict_about(federation, 0, minimum=5)
    record = federation.coordinator().run_round(1)
    assert "hospital-0" in record.survivors
