"""Kill a hospital at every step, start it again, and compare what left it with what its ledger knows.

    python -m tests.system.kills                  # every step
    python -m tests.system.kills --stride 97      # a sample

Two things are played. *ledger*: one ledger from its grant to a release. *study*: a small federation, with the protocol,
coordinator, stores and ledgers that hospitals run; only the training is a formula. One hospital is a process of its
own, which starts, reserves the study, and dies at the step. At once it starts again on its folder, and the aggregator
repeats to it all that it had sent in that round.

The other hospitals live here, so that no database is open here while a process is forked but theirs, which the child
never touches.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from audits.adversaries.weakened import floor_forgotten
from dp.entries import Entry
from dp.errors import AlreadyReserved, DPError
from dp.ledger import Ledger
from protocols.errors import ProtocolError
from protocols.messages import MaskedInput
from protocols.receipts import Receipt
from protocols.wire import parse_canonical
from secfed.aggregator.coordinator import Coordinator
from secfed.node.node import Node
from secfed.node.parts import NodeParts
from secfed.node.store import NodeStore
from tests.secfed.federation import FormulaTrainer, identities, make_policy, make_study
from tests.system.killing import NEVER, End, Kind, Victim, can_count

VICTIM = 0
STUDY = make_study(4, algorithm={"rounds": 3})
KEYS = identities(4)
FILES = frozenset(
    {
        "dp/entries.py",
        "dp/ledger.py",
        "protocols/client.py",
        "secfed/rounds/chain.py",
        "secfed/node/contribution.py",
        "secfed/node/echo.py",
        "secfed/node/locks.py",
        "secfed/node/node.py",
        "secfed/node/replica.py",
        "secfed/node/restored.py",
        "secfed/node/session.py",
        "secfed/node/store.py",
        "tests/system/kills.py",
    }
)
"""Where each line counts."""
BUDGET = make_policy().budget
OTHER, RECEIPT = bytes([7]) * 32, bytes([9]) * 32


class Broken(AssertionError):
    """What must never be, and was."""


def need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


# One ledger.


class LateLedger(Ledger):
    """Weakened: what it says is written is in a transaction that ends with the next one."""

    @contextmanager
    def _transaction(self) -> Iterator[tuple[Entry, ...]]:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        self._connection.execute("BEGIN IMMEDIATE")
        yield self.entries()

    def close(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        super().close()


Step = Callable[[Ledger], None]
STEPS: Mapping[str, Step] = {
    "grant": lambda ledger: ledger.grant(BUDGET.grant),
    "reserve": lambda ledger: ledger.reserve(BUDGET.population, STUDY.digest, 4, 1e-6, rounds=2),
    "commit": lambda ledger: ledger.commit(STUDY.digest, 1),
    "release": lambda ledger: ledger.release(STUDY.digest, 1, RECEIPT),
    "reserve again": lambda ledger: ledger.reserve(BUDGET.population, OTHER, 4, 1e-6, rounds=2),
    "withdraw": lambda ledger: ledger.withdraw(OTHER),
}


def sign(entry: bytes) -> bytes:
    return KEYS[VICTIM].sign("ledger entry", entry)


def is_signed(message: bytes, signature: bytes) -> bool:
    return KEYS[VICTIM].public.verifies(signature, "ledger entry", message)


def play_ledger(folder: Path, kind: Kind, number: int) -> End:
    """One ledger, killed at a step: what it said it had written is there, and it goes on from there."""
    path = folder / "ledger.sqlite"

    def keep(connection: Connection) -> None:
        with LEDGER(path, sign) as ledger:
            for step in STEPS.values():
                step(ledger)
                connection.send_bytes(b"done")

    victim = Victim(keep, kind, number, FILES)
    said = 0
    while victim.hear() is not None:
        said += 1
    end = victim.end()
    with Ledger(path, sign) as ledger:
        ledger.verify(is_signed)
        written = [entry.kind for entry in ledger.entries()]
        whole = [name.split()[0] for name in STEPS]
        need(written == whole[: len(written)], f"the ledger holds {written}")
        need(len(written) >= said, f"{said} entries were written, it said, and the ledger holds {len(written)}")
        need(len(written) <= said + 1, f"it wrote {len(written)} entries before it had said so of {said}")
        for step in list(STEPS.values())[len(written) :]:
            step(ledger)
        ledger.verify(is_signed)
        need([entry.kind for entry in ledger.entries()] == whole, "it does not go on where it was killed")
    return end


# A whole study.


class UploadsFirst(Node):
    """Weakened: it commits a round with the next request, when the upload has long left."""

    _uploaded: int | None = None

    def handle(self, request: bytes) -> bytes:
        if self._uploaded is not None:
            self.parts.ledger.commit(self.study.digest, self._uploaded)
            self._uploaded = None

        def later(ledger: Ledger, study: bytes, round_number: int) -> None:
            self._uploaded = round_number

        with patch.object(Ledger, "commit", later):
            return super().handle(request)


def start_hospital(index: int, folder: Path) -> Node:
    """As `secfed run` starts one: grant and reserve, unless that is done, then the node on its store."""
    key = KEYS[index]
    ledger = LEDGER(folder / f"ledger-{index}.sqlite", lambda entry: key.sign("ledger entry", entry))
    ledger.grant(BUDGET.grant)
    with suppress(AlreadyReserved):
        ledger.reserve(BUDGET.population, STUDY.digest, 8.0, 1e-5, STUDY.algorithm.rounds)
    store = NodeStore(folder / f"node-{index}.sqlite")
    trainer = FormulaTrainer(STUDY, index)
    return NODE(STUDY, NodeParts(STUDY.roster[index].name, key, make_policy(), ledger, store, trainer))


def stop_hospital(node: Node) -> None:
    node.parts.ledger.close()
    node.parts.store.close()


def answer_of(node: Node, request: bytes) -> bytes:
    """What leaves a node. One that refuses is silent, and goes on."""
    try:
        return node.handle(request)
    except (ProtocolError, DPError):
        return b""


class World:
    """A federation whose first hospital is another process, until it dies; and the channel of its aggregator."""

    def __init__(self, folder: Path, kind: Kind, number: int) -> None:
        self.folder = folder
        self.victim: Victim | None = Victim(self._serve, kind, number, FILES)
        self.end: End | None = None
        self.died_in = 0
        """The round in which it died; 0 before the first."""
        self.nodes: dict[int, Node] = {
            index: start_hospital(index, folder) for index in range(len(KEYS)) if index != VICTIM
        }
        self.kept: list[Receipt] = []
        self.uploads: dict[int, set[bytes]] = defaultdict(set)
        """Round -> every upload that came from the first hospital."""
        self.said: dict[tuple[str, object], set[bytes]] = defaultdict(set)
        """Kind of answer, and what it belongs to -> every such answer of the first hospital."""
        self._requests: dict[int, list[bytes]] = defaultdict(list)
        """Round -> what the aggregator sent to the first hospital."""

    def _serve(self, connection: Connection) -> None:
        """The first hospital's process."""
        node = start_hospital(VICTIM, self.folder)
        while request := connection.recv_bytes():
            answer = answer_of(node, request)
            connection.send_bytes(answer)

    def exchange(self, requests: Mapping[int, bytes], *, round_number: int, stage: str) -> Mapping[int, bytes]:
        """The aggregator's channel. It loses nothing."""
        answers = {}
        for index, request in requests.items():
            if index == VICTIM:
                answer = self._ask_victim(request, round_number)
            else:
                answer = answer_of(self.nodes[index], request)
            if answer:
                answers[index] = answer
        return answers

    def _ask_victim(self, request: bytes, round_number: int) -> bytes:
        """Its answer. If it dies of it, the answer of its successor, who is sent the whole round once more."""
        earlier = self._requests[round_number]
        earlier.append(request)
        if self.victim is None:
            return self._heard(answer_of(self.nodes[VICTIM], request), round_number)
        answer = self.victim.ask(request)
        if answer is not None:
            return self._heard(answer, round_number)
        self.died_in = round_number
        self.start_again()
        return [self._heard(answer_of(self.nodes[VICTIM], each), round_number) for each in earlier][-1]

    def _heard(self, answer: bytes, round_number: int) -> bytes:
        if answer:
            value: Any = parse_canonical(answer, None)
            belongs_to = value.get("context") or value.get("session") or value.get("statement", {}).get("round_number")
            if belongs_to:  # where a node stands may change
                self.said[value["type"], belongs_to].add(answer)
            if value["type"] == MaskedInput.TYPE:
                self.uploads[round_number].add(answer)
        return answer

    def start_again(self) -> None:
        """The first hospital's process is gone: look at what it left behind, then start it on that, here."""
        if self.victim is None:
            return
        self.end, self.victim = self.victim.end(), None
        with Ledger(self.folder / f"ledger-{VICTIM}.sqlite", sign) as ledger:
            self.check_ledger(ledger)
            peers = [self.nodes[index].parts.store.ledger_sequences() for index in self.nodes]
            seen = max(peer.get(KEYS[VICTIM].public.raw, 0) for peer in peers)
            need(seen <= ledger.sequence, f"peers have seen {seen} entries of a ledger that holds {ledger.sequence}")
        self.nodes[VICTIM] = start_hospital(VICTIM, self.folder)

    def check_ledger(self, ledger: Ledger) -> None:
        """It is whole, and knows of everything that left."""
        ledger.verify(is_signed)
        for number in self.uploads:
            need(ledger.holds("commit", STUDY.digest, number), f"upload {number} left, and the ledger knows nothing")
        for receipt in self.kept:
            number = receipt.statement.round_number
            if VICTIM in receipt.statement.survivors:
                need(ledger.holds("commit", STUDY.digest, number), f"round {number} is published and not committed")

    def coordinator(self) -> Coordinator:
        return Coordinator(
            STUDY,
            FormulaTrainer.layout,
            FormulaTrainer.first_state(),
            self,
            show=lambda event: None,
            keep=lambda receipt, packed: self.kept.append(receipt),
            epsilon_by_round=(1.0, 2.0, 3.0),
        )


def play_study(folder: Path, kind: Kind, number: int) -> End:
    """A whole study with one kill in it."""
    world = World(folder, kind, number)
    coordinator = world.coordinator()
    records = coordinator.run()
    if world.victim is not None:
        world.victim.ask(b"")
        world.start_again()
    ledger = world.nodes[VICTIM].parts.ledger
    world.check_ledger(ledger)
    balance = ledger.balance(BUDGET.population)
    need((balance.reserved_epsilon, balance.left_epsilon) == (8, 0), f"the study is reserved as {balance}")
    for each, answers in world.said.items():
        need(len(answers) == 1, f"two different answers of kind {each[0]} left in one session")
    for record in records:
        need(not record.void, f"round {record.number} is void: {record.reason}")
        if record.number > world.died_in:
            need(STUDY.roster[VICTIM].name in record.survivors, f"it takes no part in round {record.number}")
    chain = coordinator.chain
    states = {node.chain.state.digest(node.chain.layout) for node in world.nodes.values()}
    need(states == {chain.state.digest(chain.layout)}, "the hospitals hold different models")
    for receipt in world.kept:
        statement = receipt.statement
        took_part = VICTIM in statement.survivors
        released = ledger.holds("release", STUDY.digest, statement.round_number)
        need(released == took_part, f"round {statement.round_number}: released {released}, took part {took_part}")
    for node in world.nodes.values():
        stop_hospital(node)
    if world.end is None:
        raise RuntimeError("the first hospital never ended")
    return world.end


# All of it.

LEDGER: type[Ledger] = Ledger
NODE: type[Node] = Node
WEAKENED: Mapping[str, Callable[[], AbstractContextManager[object]]] = {
    "late-ledger": lambda: patch(f"{__name__}.LEDGER", LateLedger),
    "uploads-first": lambda: patch(f"{__name__}.NODE", UploadsFirst),
    "floor-forgotten": floor_forgotten,
}
"""Hospitals with a rule taken out: a kill must show each of them."""
PLAYS: Mapping[str, Callable[[Path, Kind, int], End]] = {"ledger": play_ledger, "study": play_study}


@dataclass(frozen=True)
class Steps:
    """At which steps to kill."""

    stride: int
    first: int
    at: str
    """Only where the step's description holds this."""
    until_broken: bool

    def of(self, places: Sequence[str]) -> Sequence[int]:
        """Numbers of steps, 1 for the first."""
        wanted = [number for number, place in enumerate(places, start=1) if self.at in place]
        return wanted[self.first - 1 :: self.stride]


def kill_at(play: Callable[[Path, Kind, int], End], kind: Kind, number: int) -> End:
    with tempfile.TemporaryDirectory() as folder:
        return play(Path(folder), kind, number)


def try_steps(name: str, kind: Kind, steps: Steps) -> bool:
    """Kill at the chosen steps, print what came of it, and say whether all went well."""
    play = PLAYS[name]
    places = kill_at(play, kind, NEVER).places
    kills, held, broken = 0, Counter[str](), Counter[str]()
    for number in steps.of(places):
        try:
            end = kill_at(play, kind, number)
        except Broken as problem:
            broken[str(problem)] += 1
            if steps.until_broken:
                break
            continue
        kills += end.killed
        held[end.places[-1]] += end.killed
    print(
        f"{name}, every {kind}: {len(places)} steps, {kills} kills at {len(held)} places held, {broken.total()} did not"
    )
    for problem, times in broken.items():
        print(f"  {times} times: {problem}")
    return not broken


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--play", choices=PLAYS, action="append", help="what to play; all if not given")
    parser.add_argument("--kind", choices=("line", "call"), action="append", help="which steps; both if not given")
    parser.add_argument("--stride", type=int, default=1, help="kill at every so-manieth step")
    parser.add_argument("--first", type=int, default=1, help="the first of these steps")
    parser.add_argument("--at", default="", help="only steps whose description holds this")
    parser.add_argument("--until-broken", action="store_true", help="stop at the first kill that shows something")
    parser.add_argument("--weakened", choices=WEAKENED, help="a rule to take out")
    chosen = parser.parse_args()
    steps = Steps(chosen.stride, chosen.first, chosen.at, chosen.until_broken)
    held = True
    with WEAKENED[chosen.weakened]() if chosen.weakened else nullcontext():
        for name in chosen.play or PLAYS:
            for kind in chosen.kind or ("line", "call"):
                if can_count(kind):
                    held &= try_steps(name, kind, steps)
                else:
                    print(f"{name}, every {kind}: this machine cannot count calls")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
