"""Vectors of node 1's answers outside rounds that an aggregator accepts, and of those that it must refuse.

The honest answers are those of the cases in `rounds.json`. Its list `answers` has each of them with one defect.
"""

from __future__ import annotations

import dataclasses
import json

from audits.reference import end as reference_end
from audits.reference.notation import C, Message, Refused, parse_cbor, sign
from audits.reference.study import Study, filled_in
from audits.vectors.making import apply, flip, put
from audits.vectors.round_world import Change, World
from audits.vectors.rounds import NODE, BadAnswer, Rounds
from audits.vectors.splices import Splice
from secfed.aggregator.handover import read_attendance, read_handover
from secfed.study.approvals import study_file_digest
from secfed.study.manifest import Study as RealStudy

ATTENDANCE, HANDOVER = "attendance", "handover at 1"
HONEST = (BadAnswer("", ATTENDANCE, Splice(0, 0, "")), BadAnswer("", HANDOVER, Splice(0, 0, "")))


def check(bad: BadAnswer, rounds: Rounds) -> list[str]:
    """The findings about a bad answer (or an honest one, which has no name): a reader that accepts (or refuses) it."""
    data = bad.change.apply(rounds.messages[bad.answer])
    readers = {
        "the real reader": _is_taken(bad.answer, data, rounds),
        "the reference": _is_read(bad.answer, data, rounds),
    }
    wrong = [reader for reader, taken in readers.items() if taken != (bad.name == "")]
    return [f"{reader}: {'not refused' if bad.name else 'refuses an honest answer'}" for reader in wrong]


def _is_taken(answer: str, data: bytes, rounds: Rounds) -> bool:
    study = RealStudy.model_validate_json(json.dumps(rounds.study))
    if answer == ATTENDANCE:
        return read_attendance(study, study_file_digest(rounds.file), NODE, data) is not None
    return read_handover(study, NODE, data) is not None


def _is_read(answer: str, data: bytes, rounds: Rounds) -> bool:
    study = Study(filled_in(rounds.study))
    try:
        if answer == ATTENDANCE:
            reference_end.read_attendance(study, rounds.file, NODE, data)
        else:
            reference_end.read_handover(study, NODE, data)
    except Refused:
        return False
    return True


def make(at: World) -> tuple[BadAnswer, ...]:
    """All of them."""
    study, file = at.study.approved_bytes(at.rounds().file)
    own, peer = at.draws.identities[NODE], at.draws.identities[2]

    def approval(identity: bytes, label: str, *parts: bytes) -> Change:
        return put(approval=sign(identity, label, *parts))

    both: dict[str, Change] = {
        "of another sender": put(sender=2),
        "of a sender outside the roster": put(sender=5),
        "of another study": put(study=bytes(32)),
        "with a field more": put(note=1),
        "without a sender": lambda message: message.pop("sender"),
        "of another type": put(type="standing"),
    }
    approvals: dict[str, Change] = {
        "with another approval": apply("approval", flip),
        "with an approval too short": apply("approval", lambda octets: octets[:-1]),
        "with an approval of another file": approval(own, "study approval", study, bytes(32)),
        "with an approval of another study": approval(own, "study approval", bytes(32), file),
        "with an approval under another label": approval(own, "ledger entry", study, file),
        "with another node's approval": approval(peer, "study approval", study, file),
    }
    ledgers: dict[str, Change] = {
        "without a ledger": put(ledger=b""),
        "with a ledger that is a text": apply("ledger", bytes.decode),
        "with a ledger cut short": apply("ledger", lambda copy: b"".join(copy.splitlines(keepends=True)[:-1])),
        "with a ledger and a byte more": apply("ledger", lambda copy: copy + b"\n"),
    }
    made = []
    for answer, defects in ((ATTENDANCE, both | approvals), (HANDOVER, both | ledgers)):
        kind, honest = answer.split()[0], at.messages[answer]
        made += [
            BadAnswer(f"{kind} {name}", answer, Splice.between(honest, _bent(honest, change)))
            for name, change in defects.items()
        ]
        made.append(BadAnswer(f"{kind} and a byte more", answer, Splice.between(honest, honest + b"\0")))
    return tuple(made)


def added(at: World) -> Rounds:
    """What the world has come to, with these."""
    return dataclasses.replace(at.rounds(), answers=make(at))


def _bent(honest: bytes, change: Change) -> bytes:
    message: Message = parse_cbor(honest)
    change(message)
    return C(message)
