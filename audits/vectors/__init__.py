"""Known-answer vectors of the protocol: whole sessions, and single defects with the error that must result.

`<name>.json` is a session of 3, 5 or 8 nodes: parameters, every secret input, every message in hexadecimal, and the
outcome. `negative.json` is a list of defects: each names a session, the receiver, the message in place of an honest
one, and the class of `protocols.errors` that must refuse it, with the party at fault. `receipts.json` lists what a
verifier of receipts must refuse, and `dealers.json` how an aggregator must treat nodes whose lies fit their
commitments. `rounds.json` has a whole node's answers across rounds, `ledger.json` the ledger that it hands over. The
reference (`audits.reference`, from protocols/SPEC.md alone) made them. Nobody can set HPKE's randomness, so the
envelopes are part of a vector, and the receivers' recorded roots open them.

`python -m audits.vectors` checks all of them on both implementations; `--random N` plays N more sessions; `--write`
makes them anew. This module reads, writes and checks sessions and defects; `audits.vectors.sessions` and
`audits.vectors.defects` say what is in them; `receipts`, `dealers`, `rounds` and `ledgers` beside them have their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from audits.reference import machines as reference
from audits.reference.notation import Message, Refused, parse_cbor
from audits.vectors.splices import Splice
from audits.vectors.transcripts import (
    STAGES,
    RealMachines,
    ReferenceMachines,
    Scenario,
    Transcript,
    play,
    random_scenario,
    replay_on_real,
    replay_on_reference,
)
from protocols.errors import RemoteError

FOLDER = Path(__file__).parent
PROVENANCE = {
    "generator": "python -m audits.vectors --write: audits/vectors/transcripts.py around audits/reference/machines.py",
    "specification": "protocols/SPEC.md, version 2",
}
AGGREGATOR = "aggregator"
Session = tuple[Scenario, Transcript]
_NEGATIVE = "negative.json"
RECEIPTS = "receipts.json"
DEALERS = "dealers.json"
ROUNDS = "rounds.json"
LEDGER = "ledger.json"


@dataclass(frozen=True, slots=True)
class Defect:
    """One wrong message, in a session that is honest up to it."""

    name: str
    session: str
    """The vector it departs from."""
    stage: str
    receiver: int | str
    """A node, or the aggregator."""
    sender: int | str
    """Whose message it replaces: a node's, or the aggregator's."""
    at: int
    """The position of the first byte that differs from the honest message."""
    remove: int
    """The number of bytes removed there."""
    insert: str
    """The bytes in their place, in hexadecimal."""
    error: str
    """The class of protocols.errors that refuses it."""
    fault: int | str
    """The party that the error names."""
    second: bool = False
    """The receiver has had the honest message before."""
    seen_ledgers: tuple[int, ...] = ()
    """The largest ledger number that the receiver has seen from each node."""
    in_reference: bool = True
    """Whether the reference refuses it, too: it knows no schema, no repetition and no earlier rounds."""

    def data(self, honest: bytes) -> bytes:
        """The defective message."""
        return Splice(self.at, self.remove, self.insert).apply(honest)


def honest_message(session: Session, stage: str, receiver: int | str, sender: int | str) -> bytes:
    """The message that the receiver would have had at this stage."""
    transcript = session[1]
    side, node = (transcript.from_nodes, sender) if receiver == AGGREGATOR else (transcript.to_nodes, receiver)
    return side[stage][int(node)]


# --- Checking --------------------------------------------------------------------------------------------------------


def check_session(session: Session) -> list[str]:
    """The findings about a session: where an implementation sends bytes that differ from the recorded ones."""
    scenario, recorded = session
    found = []
    for name, replay in (("the reference", replay_on_reference), ("the real nodes", replay_on_real)):
        try:
            found += [f"{name}: other {what}" for what in differences(recorded, replay(scenario, recorded))]
        except Exception as error:  # any error of an implementation is a finding; the others are still checked
            found.append(f"{name}: {type(error).__name__}: {error}")
    return found + wrong_sum(session)


def wrong_sum(session: Session) -> list[str]:
    """A finding, if a session published anything except the survivors' sum."""
    scenario, recorded = session
    survivors = parse_cbor(recorded.receipt)["statement"]["survivors"]
    columns = zip(*(scenario.vectors[u] for u in survivors), strict=True)
    right = recorded.total == tuple(sum(column) for column in columns)
    return [] if right else ["the recorded sum is not the sum of the survivors' vectors"]


def differences(one: Transcript, other: Transcript) -> list[str]:
    """Everything in which two transcripts differ, by name."""
    found = []
    for side in ("to_nodes", "from_nodes"):
        for stage in STAGES:
            first, second = getattr(one, side)[stage], getattr(other, side)[stage]
            nodes = sorted(u for u in first.keys() | second.keys() if first.get(u) != second.get(u))
            found += [f"message at {stage}, {side.replace('_', ' ')}: node {u}" for u in nodes]
    names = ("receipt", "total", "tag", "statement_digest")
    return found + [name for name in names if getattr(one, name) != getattr(other, name)]


def check_defect(defect: Defect, session: Session) -> list[str]:
    """The findings about a defect: an implementation that accepts it, or refuses it with another error."""
    scenario, transcript = session
    data = defect.data(honest_message(session, defect.stage, defect.receiver, defect.sender))
    # No envelope of the receiver's own making comes back to it: both seal for real here.
    found = []
    act = _led_to_defect(RealMachines(scenario, dict(enumerate(defect.seen_ledgers))), defect, transcript, data)
    try:
        act()
    except RemoteError as error:
        fault = AGGREGATOR if error.sender is None else error.sender
        if (type(error).__name__, fault) != (defect.error, defect.fault):
            found.append(f"the real nodes: {type(error).__name__} by {fault}: {error}")
    else:
        found.append("the real nodes: not refused")
    if not defect.in_reference:
        return found
    act = _led_to_defect(ReferenceMachines(scenario), defect, transcript, data)
    try:
        act()
    except Refused:
        return found
    return [*found, "the reference: not refused"]


def _led_to_defect(
    machines: RealMachines | ReferenceMachines, defect: Defect, transcript: Transcript, data: bytes
) -> Callable[[], object]:
    """Bring the receiver to the state in which the defect reaches it; the result hands it over."""
    before = STAGES[: STAGES.index(defect.stage)]
    if defect.receiver != AGGREGATOR:
        node = int(defect.receiver)
        for stage in (*before, defect.stage) if defect.second else before:
            machines.answer(stage, node, transcript.to_nodes[stage][node])
        return lambda: machines.answer(defect.stage, node, data)
    machines.open()
    for stage in before:
        machines.advance(stage, transcript.from_nodes[stage])
    answers = {**transcript.from_nodes[defect.stage], int(defect.sender): data}
    if defect.stage == "close":
        return lambda: machines.receipt(answers)
    return lambda: machines.advance(defect.stage, answers)


def check_random(seed: int) -> list[str]:
    """What is wrong with a random session: the reference records it and the real nodes replay it, or the reverse."""
    scenario = random_scenario(f"random session {seed}")
    first = ReferenceMachines(scenario) if seed % 2 == 0 else RealMachines(scenario)
    replay = replay_on_real if seed % 2 == 0 else replay_on_reference
    recorded = play(scenario, first)
    return differences(recorded, replay(scenario, recorded)) + wrong_sum((scenario, recorded))


# --- Files -----------------------------------------------------------------------------------------------------------


def load_sessions(folder: Path = FOLDER) -> dict[str, Session]:
    """All recorded sessions, by name."""
    paths = sorted(
        path for path in folder.glob("*.json") if path.name not in (_NEGATIVE, RECEIPTS, DEALERS, ROUNDS, LEDGER)
    )
    return {path.stem: _session_from(json.loads(path.read_text())) for path in paths}


def load_defects(folder: Path = FOLDER) -> list[Defect]:
    """All recorded defects."""
    entries = json.loads((folder / _NEGATIVE).read_text())["defects"]
    return [Defect(**{**entry, "seen_ledgers": tuple(entry["seen_ledgers"])}) for entry in entries]


def write(sessions: Mapping[str, Session], defects: list[Defect], folder: Path = FOLDER) -> None:
    """Write vectors to a folder."""
    for name, session in sessions.items():
        write_file(folder / f"{name}.json", _session_to(session))
    write_file(folder / _NEGATIVE, {"defects": [asdict(defect) for defect in defects]})


def write_file(path: Path, content: Message) -> None:
    """Write one file of vectors, with where it comes from."""
    path.write_text(json.dumps({"provenance": PROVENANCE, **content}, indent=1) + "\n")


def _session_to(session: Session) -> Message:
    scenario, transcript = session
    inputs = {f.name: _plain(getattr(scenario, f.name)) for f in fields(Scenario) if f.name != "round"}
    sent = {f.name: _plain(getattr(transcript, f.name)) for f in fields(Transcript)}
    for side in ("to_nodes", "from_nodes"):
        sent[side] = {stage: _grouped(getattr(transcript, side)[stage]) for stage in STAGES}
    return {"round": round_to(scenario.round), "inputs": inputs, "transcript": sent}


def round_to(of: reference.Round) -> Message:
    """What study and opening fix, as a file says it."""
    return {field.name: _plain(getattr(of, field.name)) for field in fields(reference.Round)} | {
        "ring_bits": of.ring_bits
    }


def round_from(content: Message) -> reference.Round:
    """The same, read back. Raises ValueError if the ring is not the one that section 3 derives."""
    values = {name: value for name, value in content.items() if name != "ring_bits"}
    texts = {"study", "predecessor", "base_model", "state"}
    values = {name: bytes.fromhex(value) if name in texts else value for name, value in values.items()}
    of = reference.Round(**values | {"roster": tuple(bytes.fromhex(key) for key in values["roster"])})
    if of.ring_bits != content["ring_bits"]:
        raise ValueError("the recorded ring is not the one that section 3 derives")
    return of


def _session_from(content: Message) -> Session:
    given, sent = content["inputs"], content["transcript"]
    scenario = Scenario(
        round=round_from(content["round"]),
        identities=tuple(bytes.fromhex(seed) for seed in given["identities"]),
        roots=tuple(bytes.fromhex(root) for root in given["roots"]),
        ledger_sequences=tuple(given["ledger_sequences"]),
        vectors=tuple(tuple(vector) for vector in given["vectors"]),
        absent={int(u): stage for u, stage in given["absent"].items()},
        new_state=bytes.fromhex(given["new_state"]),
    )
    sides = [
        {
            stage: {u: bytes.fromhex(one["message"]) for one in sent[side][stage] for u in one["nodes"]}
            for stage in STAGES
        }
        for side in ("to_nodes", "from_nodes")
    ]
    rest = [bytes.fromhex(sent[name]) for name in ("receipt", "tag", "statement_digest")]
    return scenario, Transcript(sides[0], sides[1], rest[0], tuple(sent["total"]), rest[1], rest[2])


def _grouped(messages: Mapping[int, bytes]) -> list[Message]:
    """A message that goes to all is stored once."""
    distinct = dict.fromkeys(messages.values())
    return [{"nodes": [u for u in messages if messages[u] == data], "message": data.hex()} for data in distinct]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
