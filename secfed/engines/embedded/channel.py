"""Every site in one process, each with its own folder, keys and ledger: for the demo, research and tests.

The protocol is the real one, message by message; only the network is missing. One process sees all data, so a run here
is a simulation, and its report makes no claim against an aggregator. Nodes can be cut off on purpose to simulate
dropouts: from one stage of a round until the round's end, a cut node gets no request and gives no answer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from crypto.kdf import DIGEST_BYTES
from dp.errors import DPError
from protocols.aggregator import Stage
from protocols.errors import ProtocolError
from secfed.aggregator.aggregation import GATHERING, HANDOVER
from secfed.errors import UserError
from secfed.node.answers import answer_of
from secfed.node.node import Node
from secfed.rounds.run_facts import EMBEDDED
from secfed.study.manifest import Study
from secfed.study.problems import read_table_file

ENGINE = f"{EMBEDDED} (simulation: all sites in one process)"
StageName = Annotated[str, Field(pattern="^(" + "|".join(stage.value for stage in Stage) + ")$")]


class Cut(BaseModel):
    """One node, unreachable from one stage of a round until the round's end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: str
    round: int = Field(ge=1)
    stage: StageName = Field(alias="from")
    """The first stage whose request does not reach the node; `advertise` cuts it off for the whole round."""


class Simulation(BaseModel):
    """What is simulated beside the study itself; read from the optional `simulation.toml` next to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cut: tuple[Cut, ...] = ()


def load_simulation(path: Path, study: Study) -> Simulation:
    """Read `simulation.toml`. Simulates nothing if the file does not exist. Raises UserError if it is invalid."""
    if not path.exists():
        return Simulation()
    simulation = read_table_file(Simulation, path, "Check its permissions")
    names = {entry.name for entry in study.roster}
    for cut in simulation.cut:
        if cut.node not in names:
            raise UserError(f"{path} cuts off {cut.node}, which is not in the roster", "Name a node of the study")
    return simulation


class EmbeddedChannel:
    """Calls the nodes one after the other. A node that raises gives no answer; only its owner learns why."""

    def __init__(
        self,
        nodes: Sequence[Node],
        simulation: Simulation,
        tell_owner: Callable[[str, str], None],
        study_file: bytes = bytes(DIGEST_BYTES),
    ) -> None:
        """
        Args:
            nodes: in roster order.
            simulation: which nodes are cut off, and when.
            tell_owner: called with the node's name and the reason when it refuses; the aggregator never sees the
                reason.
            study_file: digest of the study file (`secfed.study.approvals.study_file_digest`), which nodes sign when
                asked for attendance. Not needed to run rounds only.
        """
        self._nodes = nodes
        self._cuts = simulation.cut
        self._tell_owner = tell_owner
        self._study_file = study_file
        self._approvals: dict[int, bytes] = {}

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        answers = {}
        for index, request in requests.items():
            node = self._nodes[index]
            if self._is_cut(node.parts.name, round_number, stage):
                continue
            try:
                approval = self._approval(index) if stage in (GATHERING, HANDOVER) else b""
                answer = answer_of(node, approval, request)
            except (ProtocolError, DPError, UserError, sqlite3.Error, OSError) as error:
                self._tell_owner(node.parts.name, str(error))
                continue
            if answer:
                answers[index] = answer
        return answers

    def _approval(self, index: int) -> bytes:
        if index not in self._approvals:
            self._approvals[index] = self._nodes[index].approve(self._study_file)
        return self._approvals[index]

    def _is_cut(self, name: str, round_number: int, stage: str) -> bool:
        order = [each.value for each in Stage]
        return stage in order and any(
            cut.node == name and cut.round == round_number and order.index(cut.stage) <= order.index(stage)
            for cut in self._cuts
        )
