"""Checks what nodes hand over at a study's end, before it is used."""

from __future__ import annotations

from dataclasses import dataclass

from dp.errors import LedgerCorrupt
from dp.ledger_copy import LedgerCopy, read_copy
from protocols.errors import ProtocolError
from protocols.wire import AnyMessage, decode
from secfed.rounds.handover import Attendance, Handover, limits_of
from secfed.rounds.run_facts import RunFacts
from secfed.study.manifest import Study
from secfed.study.signing import APPROVAL_LABEL, entry_check


@dataclass(frozen=True, slots=True)
class HospitalEnd:
    """Where one site stands after the last round; its node signed this."""

    index: int
    """Its place in the roster."""
    copy: LedgerCopy
    """The copy of its ledger that it handed over."""

    @property
    def state(self) -> bytes:
        """Digest of the model's state that it holds."""
        return bytes.fromhex(self.copy.closing["state"])

    @property
    def facts(self) -> tuple[RunFacts, ...]:
        """How each of its processes ran the study."""
        return tuple(RunFacts.of(entry.body) for entry in self.copy.entries if entry.kind == "run")

    @property
    def is_reserved(self) -> bool:
        """Whether its ledger shows a reservation for the study."""
        return any(entry.kind == "reserve" for entry in self.copy.entries)


def read_attendance(study: Study, study_file: bytes, node: int, answer: bytes) -> bytes | None:
    """The signature in a node's answer, if it is that node's under this study and exactly this file.

    Args:
        study: what the node was asked about.
        study_file: digest of the file's bytes (`secfed.study.approvals.study_file_digest`).
        node: its place in the roster.
        answer: the bytes that came.
    """
    message = _read(Attendance, study, node, answer)
    if message is None:
        return None
    digests = study.digest, study_file
    return message.approval if study.identities[node].verifies(message.approval, APPROVAL_LABEL, *digests) else None


def read_handover(study: Study, node: int, answer: bytes) -> HospitalEnd | None:
    """What a node handed over, if the node signed every entry, and the entries say how it ran and reserve the study."""
    message = _read(Handover, study, node, answer)
    if message is None:
        return None
    try:
        end = HospitalEnd(node, _copy(study, node, message.ledger))
    except LedgerCorrupt:
        return None
    return end if end.facts and end.is_reserved else None


def _copy(study: Study, node: int, data: bytes) -> LedgerCopy:
    return read_copy(data, study.digest, entry_check(study.identities[node]))


def _read(kind: type[AnyMessage], study: Study, node: int, answer: bytes) -> AnyMessage | None:
    try:
        message = decode(kind, answer, limits_of(study), node)
    except ProtocolError:
        return None
    fits = getattr(message, "sender", None) == node and getattr(message, "study", None) == study.digest
    return message if fits else None
