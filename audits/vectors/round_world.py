"""The world of `rounds.json`: the study, its chain as the reference plays it, and how to ask and record a case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from audits.reference.notation import C, H, Message, Refused, parse_cbor, sign
from audits.reference.state import State, next_state, trained_elements
from audits.reference.study import Study
from audits.simulator.studies import roster_of, study_values
from audits.vectors.rounds import LAYOUT, NODE, SHARE, Case, Rounds, Step, independent_node
from audits.vectors.splices import Splice
from audits.vectors.transcripts import ReferenceMachines, Scenario, Transcript, play

SIZE = 5
ADAPTER = (-1.0, -0.5, 0.25, 1.0)
LEDGER: Message = {
    "file": "# The study of these vectors, as its file says it\n",
    "grant": {"population": "audited", "patients": 100, "epsilon": "8.0", "delta": "0.00001", "disjoint": ""},
    "cost": ["8.0", "0.00001"],
    "facts": {
        "engine": "NVIDIA FLARE",
        "process": H("vectors", b"process").hex(),
        "home": H("vectors", b"home").hex(),
        "machine": H("vectors", b"machine").hex(),
        "hold_back": 90,
    },
    "time": "2030-01-01T08Z",
}
NO_FAULTS: Message = {"complaints": [], "findings": []}
SESSION = ("cohort", "delivery", "survivors", "agreement", "published")
ANSWERS = (SHARE, "masked-input", "agree", "unmask", "close")


@dataclass(frozen=True)
class No:
    """A refusal: the class of `protocols.errors`, and the party at fault."""

    error: str
    fault: int | str = "aggregator"


@dataclass(frozen=True)
class Bent:
    """A request with one change."""

    request: str
    change: Callable[[Message], object]

    def data(self, honest: bytes) -> bytes:
        message = parse_cbor(honest)
        self.change(message)
        return C(message)


@dataclass(frozen=True)
class Other:
    """The bytes in place of a request."""

    request: str
    sent: bytes

    def data(self, honest: bytes) -> bytes:
        return self.sent


Change = Callable[[Message], object]
Asked = tuple[str | Bent | Other, str | No]
GONE: Asked = ("cohort", No("LocalError", "itself"))
"""A session that has ended does not answer."""


def study_of_vectors(identities: tuple[bytes, ...]) -> Message:
    """The values of the vectors' study, in distributed mode with a norm that adapts."""
    roster = roster_of(identities, [100 * (node + 1) for node in range(len(identities))])
    return {
        **study_values(roster, name="vectors", purpose="Known answers across rounds"),
        "algorithm": {"strategy": "fedopt-adam", "rounds": 6, "server_learning_rate": 0.05, "physical_batch": 8},
        "privacy": {
            "epsilon": 8.0,
            "delta": 1e-5,
            "noise_multiplier": 0.6422,
            "sampling_rate": 0.06,
            "clip": 0.5,
            "adaptive_clip": {"quantile": 0.6},
        },
    }


@dataclass
class World:
    """The chain as the reference has played it, and the messages by name."""

    study: Study
    draws: Scenario
    state: State
    head: bytes
    links: dict[int, Message] = field(default_factory=dict)
    messages: dict[str, bytes] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)

    def play(self, number: int, absent: dict[int, str]) -> Transcript:
        """A round on the chain, which then continues with its receipt."""
        of = self.study.round(number, self.head, self.state.digest(LAYOUT), trained_elements(LAYOUT))
        survivors = [u for u in range(SIZE) if absent.get(u) not in ("advertise", "share", "masked input")]
        total = [sum(column) for column in zip(*(self.draws.vectors[u] for u in survivors), strict=True)]
        following = next_state(self.study, self.state, total, survivors)
        scenario = dataclasses.replace(self.draws, round=of, absent=absent, new_state=following.digest(LAYOUT))
        transcript = play(scenario, ReferenceMachines(scenario))
        receipt = parse_cbor(transcript.receipt)
        self.links[number] = {"receipt": receipt, "vector": of.pack(total)}
        self.state, self.head = following, H("statement", C(receipt["statement"]))
        return transcript

    def opening(self, name: str, number: int, *links: Message, **faults: Any) -> None:
        """The opening of a round on the chain as it is now."""
        of = self.study.round(number, self.head, self.state.digest(LAYOUT), trained_elements(LAYOUT))
        opening = parse_cbor(of.opening())
        self.add(name, "round-opening", opening=opening, links=list(links), faults=NO_FAULTS | faults)

    def closing(self, name: str, *links: Message, **faults: Any) -> None:
        self.add(name, "study-closing", links=list(links), faults=NO_FAULTS | faults)

    def add(self, name: str, kind: str, **fields: Any) -> None:
        self.messages[name] = C({"type": kind, **fields})

    def signature(self, signer: int, statement: Message) -> Message:
        digest = H("statement", C(statement))
        return {"signer": signer, "signature": sign(self.draws.identities[signer], "close statement", digest)}

    def complaint(self, **changes: Any) -> Message:
        fields: Message = {"study": self.study.digest, "round_number": 1, "sender": 2, "accused": 0, "kind": 3}
        fields |= changes
        message = {"type": "complaint", **fields}
        return message | {"signature": sign(self.draws.identities[fields["sender"]], "complaint", C(message))}

    def case(self, name: str, *asked: Asked, **rest: Any) -> None:
        """Record a case. The reference answers every request that it does not refuse; the answer is stored under the
        given name."""
        steps = []
        for request, expected in asked:
            base = request if isinstance(request, str) else request.request
            honest = self.messages[base]
            data = honest if isinstance(request, str) else request.data(honest)
            step = Step(base, Splice.between(honest, data))
            if isinstance(expected, str):
                steps.append(dataclasses.replace(step, answer=expected))
            else:
                steps.append(dataclasses.replace(step, error=expected.error, fault=expected.fault))
        case = Case(name, tuple(steps), **rest)
        told: list[Any] = []
        node = independent_node(case, self.rounds(), told)
        for step in case.steps:
            try:
                answer = node.handle(self.rounds().request(step))
            except Refused:
                continue
            if step.answer and step.answer != SHARE and self.messages.setdefault(step.answer, answer) != answer:
                raise ValueError(f"{name}: another answer than the {step.answer} of another case")
        self.cases.append(dataclasses.replace(case, told=tuple(told)))

    def rounds(self) -> Rounds:
        draws = self.draws
        return Rounds(
            study=self.study.values,
            first_adapter=ADAPTER,
            identity=draws.identities[NODE],
            root=draws.roots[NODE],
            vector=draws.vectors[NODE],
            ledger=LEDGER,
            messages=dict(self.messages),
            cases=tuple(self.cases),
        )


def bare(link: Message) -> Message:
    """A link without its sum."""
    return link | {"vector": b""}


def whole_session(at: World) -> list[Asked]:
    return [("opening 1", "advertise for 1"), *zip(SESSION, (SHARE, *ANSWERS[1:]), strict=True)]
