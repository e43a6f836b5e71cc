"""Negative vectors for verifiers of receipts: what a party with a study, its roster and a chain must refuse.

`receipts.json` has a study of seven nodes (that of `audits.simulator.federation`), the receipt of its round 1, and that
of round 3, with a void round between them; in round 3 node 5 does not share and node 4 sends no masked input, so that
the five survivors just make the quorum. The reference played both rounds; no byte of a receipt depends on HPKE's
randomness, so the file can be made again byte for byte. A defect is a change to the second receipt or to the sum beside
it. Whatever its statement says, all the survivors that it names have signed it, unless the signatures are the defect.

The real verifier is `secfed.rounds.chain.Chain`, around `protocols.receipts`; the other one
`audits.reference.receipts`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audits.reference.machines import Round
from audits.reference.notation import C, H, Message, Refused, parse_cbor, sign
from audits.reference.receipts import verify_receipt as verify_by_reference
from audits.simulator.federation import LAYOUT, ROUNDS, RULES, FormulaTrainer
from audits.simulator.studies import study_from, study_of
from audits.vectors import FOLDER, RECEIPTS, Session, round_from, round_to, write_file
from audits.vectors.making import Change, apply, flip, inside, put
from audits.vectors.splices import Splice
from audits.vectors.transcripts import ReferenceMachines, Scenario, configuration, play, scenario_from
from crypto.identity import Identity
from protocols.errors import ProtocolError, RemoteError
from protocols.receipts import Receipt, verify_receipt
from protocols.wire import Limits, decode
from secfed.rounds.chain import Chain
from secfed.rounds.strategies import ModelState
from secfed.study.manifest import Study

ROUND = 3
"""The second receipt's round number; the round before is void."""
NOTHING = Splice(0, 0, "")


@dataclass(frozen=True, slots=True)
class BadReceipt:
    """One thing wrong with a receipt, or with the sum that is shown with it."""

    name: str
    receipt: Splice
    sum: Splice
    error: str
    """The class of protocols.errors that refuses it."""


@dataclass(frozen=True, slots=True)
class Link:
    """A receipt, its sum, and the digest of the state that the sum leads to."""

    receipt: bytes
    sum: bytes
    new_state: bytes


@dataclass(frozen=True, slots=True)
class Receipts:
    """What `receipts.json` holds."""

    study: Study
    first: ModelState
    next: Round
    """What a verifier derives after the first receipt, for the first round number that may follow."""
    links: tuple[Link, Link]
    defects: tuple[BadReceipt, ...]

    def chain(self) -> Chain:
        """The real verifier, at the first receipt."""
        chain = Chain(self.study, LAYOUT, self.first)
        chain.adopt(self.read(self.links[0].receipt), self.links[0].sum)
        return chain

    def read(self, receipt: bytes) -> Receipt:
        """The receipt, parsed as the real verifier does."""
        return decode(Receipt, receipt, Limits(len(self.next.roster), len(self.links[0].sum)), None)


# --- Checking --------------------------------------------------------------------------------------------------------


def check_honest(receipts: Receipts) -> list[str]:
    """The findings about the honest receipts: a verifier that refuses them."""
    found = []
    chain, last = receipts.chain(), receipts.links[1]
    try:
        chain.adopt(receipts.read(last.receipt), last.sum)
    except ProtocolError as error:
        found.append(f"the real verifier refuses an honest receipt: {error}")
    try:
        verify_by_reference(receipts.next, _rounds(receipts), last.receipt, last.sum, last.new_state)
    except Refused as error:
        found.append(f"the reference refuses an honest receipt: {error}")
    return found


def check_recorded(session: Session) -> list[str]:
    """The findings about a recorded session's receipt: a verifier that refuses it."""
    scenario, transcript = session
    of, config = scenario.round, configuration(scenario.round)
    packed = of.pack(transcript.total)
    found = []
    try:
        verify_receipt(
            decode(Receipt, transcript.receipt, config.limits, None),
            study=of.study,
            predecessor=of.predecessor,
            rules=config.rules,
            roster=config.roster,
        )
    except RemoteError as error:
        found.append(f"the real verifier refuses the session's receipt: {error}")
    try:
        verify_by_reference(of, of.round_number, transcript.receipt, packed, scenario.new_state)
    except Refused as error:
        found.append(f"the reference refuses the session's receipt: {error}")
    return found


def check_receipt(defect: BadReceipt, receipts: Receipts) -> list[str]:
    """The findings about a defect: a verifier that accepts it, moves, or refuses it with another error."""
    last = receipts.links[1]
    data, packed = defect.receipt.apply(last.receipt), defect.sum.apply(last.sum)
    found = []
    chain = receipts.chain()
    before = (chain.head, chain.round_number, chain.length, chain.state.digest(LAYOUT))
    try:
        chain.adopt(receipts.read(data), packed)
    except RemoteError as error:
        if type(error).__name__ != defect.error:
            found.append(f"the real verifier: {type(error).__name__}: {error}")
        if before != (chain.head, chain.round_number, chain.length, chain.state.digest(LAYOUT)):
            found.append("the real verifier: moved, though it refused")
    else:
        found.append("the real verifier: not refused")
    try:
        verify_by_reference(receipts.next, _rounds(receipts), data, packed, last.new_state)
    except Refused:
        return found
    return [*found, "the reference: not refused"]


def _rounds(receipts: Receipts) -> int:
    return receipts.study.algorithm.rounds


# --- Making ----------------------------------------------------------------------------------------------------------


def make() -> Receipts:
    """The two rounds, and everything that can be wrong with the second one's receipt."""
    draws = scenario_from(
        "receipts", size=7, colluders=1, dropouts=2, smallest_cohort=3, largest_element=2**16, absent={}, dimension=4
    )
    study = study_of([Identity(seed) for seed in draws.identities], RULES, ROUNDS)
    first = FormulaTrainer.first_state()
    chain = Chain(study, LAYOUT, first)
    first_link = _play(draws, chain, 1, {})
    chain.adopt(decode(Receipt, first_link.receipt, Limits(7, len(first_link.sum)), None), first_link.sum)
    last_link = _play(draws, chain, ROUND, {5: "share", 4: "masked input"})
    following = _round(chain, chain.round_number + 1)
    bare = Receipts(study, first, following, (first_link, last_link), ())
    makers = (_statements, _signatures, _sums, _bytes)
    maker = _Maker(bare, draws.identities)
    return dataclasses.replace(bare, defects=tuple(defect for make in makers for defect in make(maker)))


def _round(chain: Chain, number: int) -> Round:
    """The reference's round for what the chain derives."""
    context, study = chain.context(number), chain.study
    return Round(
        roster=tuple(identity.raw for identity in study.identities),
        dropouts=study.cohort.tolerated_dropouts,
        colluders=study.cohort.colluders,
        smallest_cohort=study.cohort.minimum,
        largest_element=study.magnitude,
        study=context.study,
        round_number=number,
        predecessor=context.predecessor,
        base_model=context.base_model,
        state=context.state,
        dimension=context.shape.dimension,
    )


def _play(draws: Scenario, chain: Chain, number: int, absent: dict[int, str]) -> Link:
    of = _round(chain, number)
    survivors = [u for u in range(len(of.roster)) if u not in absent]
    packed = of.pack([sum(column) for column in zip(*(draws.vectors[u] for u in survivors), strict=True)])
    new_state = chain.next_state(packed, tuple(survivors)).digest(LAYOUT)
    scenario = dataclasses.replace(draws, round=of, absent=absent, new_state=new_state)
    return Link(play(scenario, ReferenceMachines(scenario)).receipt, packed, new_state)


class _Maker:
    """Makes defects of the last receipt."""

    def __init__(self, receipts: Receipts, identities: tuple[bytes, ...]) -> None:
        self.receipts, self.identities = receipts, identities
        self.last = receipts.links[1]
        self.statement: Message = parse_cbor(self.last.receipt)["statement"]

    def raw(self, name: str, data: bytes, error: str, packed: bytes | None = None) -> BadReceipt:
        """The defect that shows these bytes, and this sum."""
        other = NOTHING if packed is None else Splice.between(self.last.sum, packed)
        return BadReceipt(name, Splice.between(self.last.receipt, data), other, error)

    def changed(self, name: str, change: Change, error: str) -> BadReceipt:
        """The defect that changes the receipt around its statement."""
        message = parse_cbor(self.last.receipt)
        change(message)
        return self.raw(name, C(message), error)

    def stated(self, name: str, error: str, *, packed: bytes | None = None, **values: Any) -> BadReceipt:
        """The defect whose statement says something else, signed by all its survivors."""
        return self.raw(name, self._signed(self.statement | values), error, packed)

    def without(self, name: str, field: str, error: str) -> BadReceipt:
        """The defect whose statement lacks a field, signed by all its survivors."""
        return self.raw(name, self._signed({k: v for k, v in self.statement.items() if k != field}), error)

    def signature(self, signer: int, identity: int | None = None, label: str = "close statement") -> Message:
        """A signature over the honest statement."""
        key = self.identities[signer if identity is None else identity]
        return {"signer": signer, "signature": sign(key, label, H("statement", C(self.statement)))}

    def _signed(self, statement: Message) -> bytes:
        digest = H("statement", C(statement))
        keys = {u: self.identities[u] for u in statement["survivors"]}
        signatures = [{"signer": u, "signature": sign(key, "close statement", digest)} for u, key in keys.items()]
        return C({"type": "receipt", "statement": statement, "signatures": signatures})


def _statements(at: _Maker) -> list[BadReceipt]:
    """Statements that a whole quorum signed and that are wrong."""
    other, receipts = bytes(32), at.receipts
    four: Message = {"cohort": [0, 1, 2, 3], "sharers": [0, 1, 2, 3], "survivors": [0, 1, 2, 3]}
    with_signatures = H("statement", receipts.links[0].receipt)

    def numbered(number: int) -> Message:
        return {"round_number": number, "context": dataclasses.replace(receipts.next, round_number=number).context}

    return [
        at.stated("another study", "WrongSession", study=other),
        at.stated("another predecessor", "WrongSession", predecessor=other),
        at.stated("the study as predecessor: a fork", "WrongSession", predecessor=receipts.next.study),
        at.stated("a predecessor with its signatures", "WrongSession", predecessor=with_signatures),
        at.stated("the round number of the receipt before", "WrongSession", **numbered(1)),
        at.stated("round number zero", "WrongSession", **numbered(0)),
        at.stated("a round beyond the study", "WrongSession", **numbered(_rounds(receipts) + 1)),
        at.stated("a round number that the context does not have", "WrongSession", round_number=4),
        at.stated("another context", "WrongSession", context=other),
        at.stated("another old state", "WrongSession", old_state=other),
        at.stated("a state that the sum does not lead to", "WrongSession", new_state=other),
        at.stated("the old state as the new one", "WrongSession", new_state=at.statement["old_state"]),
        at.stated("a survivor that did not share", "NotCanonical", survivors=[0, 1, 2, 3, 5, 6]),
        at.stated("a sharer outside the cohort", "NotCanonical", cohort=[0, 1, 2, 3, 5, 6]),
        at.stated("a cohort with a node that the roster does not have", "WrongLength", cohort=[0, 1, 2, 3, 4, 6, 7]),
        at.stated("a cohort below the quorum", "CohortTooSmall", **four, quorum=4),
        at.stated("survivors below the quorum", "CohortTooSmall", survivors=[0, 1, 2, 3]),
        at.stated("no survivors", "CohortTooSmall", survivors=[]),
        at.stated("a quorum too low", "WrongLength", quorum=4),
        at.stated("a quorum of zero", "WrongLength", quorum=0),
        at.stated("a quorum too high", "WrongLength", quorum=6),
        at.stated("another digest of the sum", "WrongSession", sum_digest=other),
    ]


def _signatures(at: _Maker) -> list[BadReceipt]:
    """An honest statement, with signatures that do not make a receipt of it."""
    last = inside("signatures", 4, apply("signature", flip))

    def ends_with(*entries: Message) -> Change:
        return apply("signatures", lambda honest: [*honest[: 5 - len(entries)], *entries])

    sharer = apply("signatures", lambda honest: [*honest[:4], at.signature(4), honest[4]])
    elsewhere = ends_with(at.signature(6, label="agree"))
    return [
        at.changed("too few signatures", lambda m: m["signatures"].pop(), "BadSignature"),
        at.changed("no signatures", put(signatures=[]), "BadSignature"),
        at.changed("one wrong signature in the quorum", last, "BadSignature"),
        at.changed("signed by another in a survivor's name", ends_with(at.signature(6, identity=5)), "BadSignature"),
        at.changed("signed for another purpose", elsewhere, "BadSignature"),
        at.changed("signatures on another statement", _to_other_statement, "BadSignature"),
        at.changed("a signer that shared and did not survive", sharer, "NotCanonical"),
        at.changed("a signer that did not share", ends_with(at.signature(5), at.signature(6)), "NotCanonical"),
        at.changed("signers out of order", lambda m: m["signatures"].reverse(), "NotCanonical"),
        at.changed("a signer twice", ends_with(at.signature(3), at.signature(3)), "NotCanonical"),
        at.changed("a signer outside the roster", inside("signatures", 4, put(signer=7)), "WrongLength"),
    ]


def _to_other_statement(message: Message) -> None:
    message["statement"]["session"] = bytes(32)


def _sums(at: _Maker) -> list[BadReceipt]:
    """Sums that the receipt does not cover, or bytes that are not a sum."""
    honest = at.last.sum
    padded = honest[:-1] + bytes([honest[-1] | 0x80])
    short = honest[:-1]
    return [
        at.raw("another sum", at.last.receipt, "WrongSession", flip(honest)),
        at.raw("no sum", at.last.receipt, "WrongSession", b""),
        at.stated("a signed sum with padding bits", "NotCanonical", packed=padded, sum_digest=H("sum", padded)),
        at.stated("a signed sum that is too short", "NotCanonical", packed=short, sum_digest=H("sum", short)),
    ]


def _bytes(at: _Maker) -> list[BadReceipt]:
    """Bytes that are not a receipt."""
    honest = at.last.receipt
    fields = parse_cbor(honest)
    disordered = bytes([0xA3]) + b"".join(sorted((C(k) + C(v) for k, v in fields.items()), reverse=True))
    unsorted: Message = {"sharers": [1, 0, 2, 3, 4, 6]}
    return [
        at.raw("a byte behind the end", honest + b"\0", "NotCanonical"),
        at.raw("the last byte missing", honest[:-1], "MalformedMessage"),
        at.raw("nothing at all", b"", "MalformedMessage"),
        at.raw("more bytes than any receipt has", honest + bytes(2000), "OversizedMessage"),
        at.raw("map keys out of order", disordered, "NotCanonical"),
        at.changed("another type of message", put(type="offer"), "WrongType"),
        at.changed("a field that receipts do not have", put(note="signed"), "UnknownField"),
        at.changed("no list of signatures", lambda m: m.pop("signatures"), "MissingField"),
        at.changed(
            "a signature of 63 bytes",
            inside("signatures", 0, apply("signature", lambda given: given[:-1])),
            "WrongLength",
        ),
        at.stated("a field that statements do not have", "UnknownField", note=0),
        at.without("a statement without its quorum", "quorum", "MissingField"),
        at.stated("text for a round number", "WrongType", round_number="3"),
        at.stated("a negative quorum", "WrongLength", quorum=-5),
        at.stated("a digest of 31 bytes", "WrongLength", session=bytes(31)),
        at.stated("sharers out of order", "NotCanonical", **unsorted),
    ]


# --- Files -----------------------------------------------------------------------------------------------------------


def write(receipts: Receipts, folder: Path = FOLDER) -> None:
    """Write `receipts.json`."""
    content = {
        "study": receipts.study.model_dump(mode="json"),
        "layout": [[name, list(shape)] for name, shape in LAYOUT],
        "first_state": receipts.first.adapter.astype("<f4").tobytes().hex(),
        "rounds": _rounds(receipts),
        "next": round_to(receipts.next),
        "links": [{name: value.hex() for name, value in asdict(link).items()} for link in receipts.links],
        "defects": [asdict(defect) for defect in receipts.defects],
    }
    write_file(folder / RECEIPTS, content)


def load(folder: Path = FOLDER) -> Receipts:
    """Read `receipts.json`."""
    content = json.loads((folder / RECEIPTS).read_text())
    first, last = (Link(**{name: bytes.fromhex(value) for name, value in link.items()}) for link in content["links"])
    return Receipts(
        study=study_from(content["study"]),
        first=ModelState(np.frombuffer(bytes.fromhex(content["first_state"]), dtype="<f4").astype(np.float32)),
        next=round_from(content["next"]),
        links=(first, last),
        defects=tuple(
            BadReceipt(**entry | {part: Splice(**entry[part]) for part in ("receipt", "sum")})
            for entry in content["defects"]
        ),
    )
