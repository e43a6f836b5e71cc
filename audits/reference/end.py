"""Second implementation of what an aggregator accepts from a node outside rounds: section 9 of protocols/SPEC.md."""

from audits.reference.ledger import Body, read_copy
from audits.reference.notation import Message, need, parse_cbor, verify
from audits.reference.schema import schema
from audits.reference.study import Study


def read_attendance(study: Study, file: bytes, index: int, answer: bytes) -> bytes:
    """The approval in an `attendance` of this node. Refuses any other answer."""
    message = _read("attendance", study, index, answer)
    verify(study.roster[index], message["approval"], "study approval", *study.approved_bytes(file))
    return bytes(message["approval"])


def read_handover(study: Study, index: int, answer: bytes) -> list[Body]:
    """The part of its ledger that a `handover` of this node shows. Refuses any other answer."""
    message = _read("handover", study, index, answer)
    return read_copy(message["ledger"], study.digest, study.roster[index])


def _read(kind: str, study: Study, index: int, answer: bytes) -> Message:
    message: Message = parse_cbor(answer)
    schema(len(study.roster), 0)[kind](message)
    need(message["sender"] == index and message["study"] == study.digest, "of another node, or study")
    return message
