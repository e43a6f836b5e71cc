"""Vectors of section 9: what one node answers to openings, links, closings and echoes, and what it refuses.

`rounds.json` has a study of five nodes whose clipping norm adapts, two of its receipts, and every request and answer by
name. A case is a list of steps for node 1: a request, perhaps with one change, and the answer byte for byte, or the
class of `protocols.errors` that refuses it and the party at fault. A refusal is followed by a step that shows that
nothing has moved. Only `share` has bytes of HPKE's own making: of it the type counts.

Both nodes are whole ones: `secfed.node.Node` with ledger and store, and `audits.reference_node.Node`, which made them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import secfed.node
from audits import reference_node, reference_study
from audits.federation import policy_of
from audits.notation import Message, Refused, parse_cbor
from audits.vectors import AGGREGATOR, FOLDER, ROUNDS, write_file
from audits.vectors.splices import Splice
from crypto.identity import Identity
from crypto.randomness import NoiseSecret
from dp.errors import DPError
from dp.ledger import Ledger
from protocols.client import Client
from protocols.errors import ProtocolError, RemoteError
from secfed.node_parts import NodeParts
from secfed.store import NodeStore
from secfed.strategies import ModelState
from secfed.study import Study

LAYOUT = (("a", (2,)), ("b", (2, 1)))
NODE = 1
SHARE = "share"
ITSELF = "itself"
"""At fault: the node's own files or ledger."""


@dataclass(frozen=True, slots=True)
class Step:
    """One request, and what comes of it."""

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
    """What a node is asked, in order, from its first start on."""

    name: str
    steps: tuple[Step, ...]
    seen_ledgers: Mapping[str, int] = field(default_factory=dict)
    """Roster index -> the largest ledger number seen in other studies."""
    restored: int = 0
    """The round to which the owner has raised the floor."""
    told: tuple[tuple[int, int | None, int, int], ...] = ()
    """Claims that the owner is shown: round, who says so (null: the aggregator), about whom, kind."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """What `rounds.json` holds."""

    study: Message
    first_adapter: tuple[float, ...]
    identity: bytes
    root: bytes
    """Of every session that the node joins."""
    vector: tuple[int, ...]
    """What it contributes to every round."""
    messages: Mapping[str, bytes]
    cases: tuple[Case, ...]

    def request(self, step: Step) -> bytes:
        return step.change.apply(self.messages[step.request])


Handle = Callable[[bytes], bytes]


def check_case(case: Case, rounds: Rounds) -> list[str]:
    """What is wrong with a case: where a node answers otherwise than recorded."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        entropy = partial(exactly, rounds.root)
        with patch.object(secfed.node, "Client", partial(Client, entropy=entropy)):
            node, lines = real_node(case, rounds, Path(folder))
            found += [f"the real node: {text}" for text in _differences(case, rounds, node.handle, named=True)]
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
    """Contributes the recorded vector, whatever the state."""

    layout = LAYOUT

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    def first_state(self) -> ModelState:
        return ModelState(np.array(self._rounds.first_adapter, dtype=np.float32))

    def contribute(
        self, state: ModelState, round_number: int, secret: NoiseSecret, progress: Callable[[int], None]
    ) -> NDArray[np.int64]:
        return np.array(self._rounds.vector, dtype=np.int64)


def real_node(case: Case, rounds: Rounds, folder: Path) -> tuple[secfed.node.Node, list[str]]:
    """The node of this project, in an empty folder, and what its owner is told."""
    study = Study.model_validate_json(json.dumps(rounds.study))
    key = Identity(rounds.identity)
    ledger = Ledger(folder / "ledger.sqlite", lambda entry: key.sign("ledger entry", entry))
    policy = policy_of(study.cohort.minimum)
    ledger.grant(policy.budget.grant)
    ledger.reserve(policy.budget.population, study.digest, 8.0, 1e-5, study.algorithm.rounds)
    store = NodeStore(folder / "node.sqlite")
    keys = [identity.raw for identity in study.identities]
    store.remember_ledger_sequences({keys[int(node)]: number for node, number in case.seen_ledgers.items()})
    if case.restored:
        store.raise_floor(study.digest, case.restored)
    parts = NodeParts(study.roster[NODE].name, key, policy, ledger, store, _Trainer(rounds))
    lines: list[str] = []
    return secfed.node.Node(study, parts, tell_owner=lambda name, text: _keep_claims(lines, text)), lines


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
        memory=reference_node.Memory(peers=seen, floor=case.restored, restored=case.restored),
        site=(study.values["cohort"]["minimum"], 2),
        tell=told.append,
    )


def exactly(root: bytes, size: int) -> bytes:
    """A session's entropy: its root, and nothing else."""
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
        "messages": {name: data.hex() for name, data in rounds.messages.items()},
        "cases": [asdict(case) for case in rounds.cases],
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
        messages={name: bytes.fromhex(data) for name, data in content["messages"].items()},
        cases=tuple(_case_from(case) for case in content["cases"]),
    )


def _case_from(content: Message) -> Case:
    steps = tuple(Step(**step | {"change": Splice(**step["change"])}) for step in content["steps"])
    told = tuple((claim[0], claim[1], claim[2], claim[3]) for claim in content["told"])
    return Case(**content | {"steps": steps, "told": told})
