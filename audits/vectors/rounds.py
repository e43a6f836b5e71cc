"""Vectors of section 9: one node's answers and refusals, across rounds and outside them.

`rounds.json` has a study of five nodes whose clipping norm adapts, two of its receipts, and every request and answer by
name. A case is a list of steps for node 1: a request, perhaps with one change, and the answer byte for byte, or the
class of `protocols.errors` that refuses it and the party at fault. After a refusal, a step shows that nothing has
changed. Only `share` has bytes from HPKE's randomness: only its type is compared.

Both nodes are complete: `secfed.node.node.Node` with ledger and store, and `audits.reference.node.Node`, which made
them.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import dp.ledger
import secfed.node.books
import secfed.node.node
import secfed.node.session
from audits.reference import node as reference_node
from audits.reference import study as reference_study
from audits.reference.ledger import Site
from audits.reference.notation import Message, Refused, parse_cbor
from audits.simulator.studies import policy_of, study_from
from audits.vectors import AGGREGATOR, FOLDER, ROUNDS, write_file
from audits.vectors.splices import Splice
from crypto.identity import Identity
from crypto.randomness import NoiseSecret
from dp.entries import hour_from
from dp.errors import DPError
from dp.ledger import Ledger
from protocols.client import Client
from protocols.errors import ProtocolError, RemoteError
from secfed.node.answers import answer_of
from secfed.node.parts import NodeParts
from secfed.node.store import NodeStore
from secfed.rounds.run_facts import RunFacts
from secfed.rounds.strategies import ModelState
from secfed.study.approvals import study_file_digest

LAYOUT = (("a", (2,)), ("b", (2, 1)))
NODE = 1
SHARE = "share"
ID_BYTES = 16
ITSELF = "itself"
"""At fault: the node's own files or ledger."""


@dataclass(frozen=True, slots=True)
class Step:
    """One request, and its result."""

    request: str
    """The name of a message."""
    change: Splice
    answer: str = ""
    """The name of a message; `share` for any of that type; empty where the request is refused."""
    error: str = ""
    """The class that refuses it."""
    fault: int | str = AGGREGATOR


@dataclass(frozen=True, slots=True)
class Case:
    """The requests to a node, in order, from its first start on."""

    name: str
    steps: tuple[Step, ...]
    seen_ledgers: Mapping[str, int] = field(default_factory=dict)
    """Roster index -> the largest ledger number seen in other studies."""
    restored: int = 0
    """The round to which the owner has raised the floor."""
    told: tuple[tuple[int, int | None, int, int], ...] = ()
    """Claims that the owner sees: round, claimant (null: the aggregator), accused, kind."""


@dataclass(frozen=True, slots=True)
class BadAnswer:
    """An answer of the node outside rounds, with one defect that an aggregator refuses."""

    name: str
    answer: str
    """The name of the honest message."""
    change: Splice


@dataclass(frozen=True, slots=True)
class Rounds:
    """What `rounds.json` holds."""

    study: Message
    first_adapter: tuple[float, ...]
    identity: bytes
    root: bytes
    """The root secret of every session that the node joins."""
    vector: tuple[int, ...]
    """Its contribution to every round."""
    ledger: Message
    """The basis of the node's ledger: `grant`; `cost` of the study, epsilon and delta; `facts` of a `run` entry; the
    `time` of every entry, whose `id` is its number in 16 bytes. And `file`, which the node has approved."""
    messages: Mapping[str, bytes]
    cases: tuple[Case, ...]
    answers: tuple[BadAnswer, ...] = ()

    @property
    def file(self) -> bytes:
        return bytes(self.ledger["file"].encode())

    def stamp(self, number: int) -> dict[str, str]:
        """Id and time of the ledger's entry with this number."""
        return {"id": number.to_bytes(ID_BYTES, "big").hex(), "time": self.ledger["time"]}

    def request(self, step: Step) -> bytes:
        return step.change.apply(self.messages[step.request])


Handle = Callable[[bytes], bytes]


def check_case(case: Case, rounds: Rounds) -> list[str]:
    """The findings about a case: where a node's answers differ from the recorded ones."""
    found = []
    with tempfile.TemporaryDirectory() as folder, _drawn_as_recorded(rounds):
        node, lines = real_node(case, rounds, Path(folder))
        handle = partial(answer_of, node, node.approve(study_file_digest(rounds.file)))
        found += [f"the real node: {text}" for text in _differences(case, rounds, handle, named=True)]
        if len(lines) != len(case.told):
            found.append(f"the real node: its owner was told {len(lines)} lines")
        node.parts.store.close()
        node.parts.ledger.close()
    told: list[Any] = []
    other = independent_node(case, rounds, told)
    found += [f"the independent node: {text}" for text in _differences(case, rounds, other.handle, named=False)]
    if tuple(told) != case.told:
        found.append(f"the independent node: its owner was told {told}")
    return found


@contextmanager
def _drawn_as_recorded(rounds: Rounds) -> Iterator[None]:
    """A real node draws the recorded values, and reports the recorded machine."""
    numbers = itertools.count(1)
    ids = SimpleNamespace(urandom=lambda size: next(numbers).to_bytes(size, "big"))
    facts = RunFacts(**rounds.ledger["facts"])
    with (
        patch.object(secfed.node.session, "Client", partial(Client, entropy=partial(_exactly, rounds.root))),
        patch.object(dp.ledger, "os", ids),
        patch.object(secfed.node.books, "facts_here", lambda *_: facts),
    ):
        yield


def _differences(case: Case, rounds: Rounds, handle: Handle, *, named: bool) -> list[str]:
    found = []
    for at, step in enumerate(case.steps):
        where = f"step {at}, {step.request}"
        try:
            answer = handle(rounds.request(step))
        except (ProtocolError, DPError, Refused) as error:
            if not step.error:
                found.append(f"{where}: refused: {error}")
            elif named and (type(error).__name__, _fault(error)) != (step.error, step.fault):
                found.append(f"{where}: {type(error).__name__} by {_fault(error)}: {error}")
            continue
        if step.error:
            found.append(f"{where}: not refused")
        elif step.answer == SHARE:
            if parse_cbor(answer)["type"] != SHARE:
                found.append(f"{where}: no share")
        elif answer != rounds.messages[step.answer]:
            found.append(f"{where}: another answer than {step.answer}")
    return found


def _fault(error: Exception) -> int | str:
    if not isinstance(error, RemoteError):
        return ITSELF
    return AGGREGATOR if error.sender is None else error.sender


class _Trainer:
    """Contributes the recorded vector on any state."""

    layout = LAYOUT

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def first_state(self) -> ModelState:
        return ModelState(np.array(self._rounds.first_adapter, dtype=np.float32))

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        return np.array(self._rounds.vector, dtype=np.int64)


def real_node(case: Case, rounds: Rounds, folder: Path) -> tuple[secfed.node.node.Node, list[str]]:
    """This project's node, in an empty folder, and the messages to its owner."""
    study = study_from(rounds.study)
    key = Identity(rounds.identity)
    clock = hour_from(rounds.ledger["time"]).timestamp
    ledger = Ledger(folder / "ledger.sqlite", lambda entry: key.sign("ledger entry", entry), clock)
    policy, (epsilon, delta) = policy_of(study.cohort.minimum), rounds.ledger["cost"]
    ledger.grant(policy.budget.grant)
    ledger.reserve(policy.budget.population, study.digest, epsilon, delta, study.algorithm.rounds)
    store = NodeStore(folder / "node.sqlite")
    keys = [identity.raw for identity in study.identities]
    store.remember_ledger_sequences({keys[int(node)]: number for node, number in case.seen_ledgers.items()})
    if case.restored:
        store.raise_floor(study.digest, case.restored)
    parts = NodeParts(study.roster[NODE].name, key, policy, ledger, store, _Trainer(rounds))
    lines: list[str] = []
    return secfed.node.node.Node(study, parts, tell_owner=lambda name, text: _keep_claims(lines, text)), lines


def _keep_claims(lines: list[str], text: str) -> None:
    if " says (" in text:
        lines.append(text)


def independent_node(case: Case, rounds: Rounds, told: list[Any]) -> reference_node.Node:
    """The second implementation's node."""
    study = reference_study.Study(reference_study.filled_in(rounds.study))
    seen = {study.roster[int(node)]: number for node, number in case.seen_ledgers.items()}
    return reference_node.Node(
        study,
        NODE,
        rounds.identity,
        LAYOUT,
        rounds.first_adapter,
        lambda state, number: rounds.vector,
        lambda: rounds.root,
        Site(
            rounds.stamp,
            minimum=study.values["cohort"]["minimum"],
            file=rounds.file,
            grant=rounds.ledger["grant"],
            cost=tuple(rounds.ledger["cost"]),
            facts=rounds.ledger["facts"],
        ),
        memory=reference_node.Memory(peers=seen, floor=case.restored, restored=case.restored),
        tell=told.append,
    )


def _exactly(root: bytes, size: int) -> bytes:
    """A session's entropy: only its root."""
    if size != len(root):
        raise ValueError(f"a session draws its root of {len(root)} bytes and nothing else, not {size}")
    return root


# --- Files -----------------------------------------------------------------------------------------------------------


def write(rounds: Rounds, folder: Path = FOLDER) -> None:
    """Write `rounds.json`."""
    content = {
        "study": rounds.study,
        "layout": [[name, list(shape)] for name, shape in LAYOUT],
        "first_adapter": list(rounds.first_adapter),
        "node": NODE,
        "identity": rounds.identity.hex(),
        "root": rounds.root.hex(),
        "vector": list(rounds.vector),
        "ledger": rounds.ledger,
        "messages": {name: data.hex() for name, data in rounds.messages.items()},
        "cases": [asdict(case) for case in rounds.cases],
        "answers": [asdict(answer) for answer in rounds.answers],
    }
    write_file(folder / ROUNDS, content)


def load(folder: Path = FOLDER) -> Rounds:
    """Read `rounds.json`."""
    content = json.loads((folder / ROUNDS).read_text())
    return Rounds(
        study=content["study"],
        first_adapter=tuple(content["first_adapter"]),
        identity=bytes.fromhex(content["identity"]),
        root=bytes.fromhex(content["root"]),
        vector=tuple(content["vector"]),
        ledger=content["ledger"],
        messages={name: bytes.fromhex(data) for name, data in content["messages"].items()},
        cases=tuple(_case_from(case) for case in content["cases"]),
        answers=tuple(BadAnswer(**one | {"change": Splice(**one["change"])}) for one in content["answers"]),
    )


def _case_from(content: Message) -> Case:
    steps = tuple(Step(**step | {"change": Splice(**step["change"])}) for step in content["steps"])
    told = tuple((claim[0], claim[1], claim[2], claim[3]) for claim in content["told"])
    return Case(**content | {"steps": steps, "told": told})
