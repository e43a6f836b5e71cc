"""Nodes of the second implementation in the places of real ones, under the real coordinator."""

from __future__ import annotations

import itertools
import secrets
import time
from pathlib import Path
from types import SimpleNamespace

from audits.reference.claims import Claim
from audits.reference.ledger import Site
from audits.reference.node import Memory, Node
from audits.reference.notation import H, Refused
from audits.reference.state import Layout, State
from audits.reference.study import Study, filled_in
from dp.entries import hour_of
from protocols.errors import ProtocolError
from secfed.rounds.strategies import ModelState
from secfed.study.manifest import Study as RealStudy
from tests.secfed.federation import Cut, Federation, FormulaTrainer, identities, make_policy

FILE = b"a study's file, with a comment"


def stamp(number: int) -> dict[str, str]:
    """Id and time of an entry, as in a real ledger."""
    return {"id": secrets.token_hex(16), "time": hour_of(time.time())}


def as_reference(study: RealStudy) -> Study:
    """The same study, from the values that its file has: no default is given."""
    return Study(filled_in(study.model_dump(mode="json", exclude_unset=True)))


class Independent:
    """What a channel and the tests need of a node, around one of the second implementation."""

    def __init__(self, study: RealStudy, index: int, trainer: FormulaTrainer) -> None:
        self.parts = SimpleNamespace(name=study.roster[index].name, trainer=trainer)
        self.told: list[Claim] = []
        self.memory = Memory()
        self._study, self._index, self._trainer = as_reference(study), index, trainer
        self._roots = itertools.count()
        self.restart()

    def restart(self) -> None:
        """The node crashes, and starts again on what it has written down."""
        self.node = Node(
            self._study,
            self._index,
            identities(len(self._study.roster))[self._index].seed(),
            self._trainer.layout,
            self._trainer.first_state().adapter.tolist(),
            self._contribute,
            lambda: H("root of a test", bytes([self._index, next(self._roots)])),
            Site(stamp, minimum=3, file=FILE, grant=make_policy().budget.grant.body()),
            memory=self.memory,
            tell=self.told.append,
        )

    def handle(self, request: bytes) -> bytes:
        try:
            return self.node.handle(request)
        except Refused as refused:
            raise ProtocolError(str(refused)) from refused

    def digest(self) -> bytes:
        """Of the state that it holds."""
        return self.node.state.digest(self._trainer.layout)

    def _contribute(self, state: State, round_number: int) -> list[int]:
        adapter = self._trainer.first_state().adapter.copy()
        adapter[:] = state.x
        self._trainer.trained.append(round_number)
        return [int(x) for x in self._trainer.vector(ModelState(adapter), round_number)]


def mixed(study: RealStudy, folder: Path, cuts: tuple[Cut, ...], *places: int) -> Federation:
    """A federation with independent nodes in these places."""
    folder.mkdir(parents=True, exist_ok=True)
    federation = Federation(study, folder, cuts=cuts)
    for index in places:
        federation.nodes[index] = Independent(study, index, federation.trainers[index])  # type: ignore[call-overload]
    return federation


def digests(federation: Federation, layout: Layout = FormulaTrainer.layout) -> list[bytes]:
    """Of the state that each node holds."""
    return [
        node.digest() if isinstance(node, Independent) else node.chain.state.digest(layout) for node in federation.nodes
    ]
