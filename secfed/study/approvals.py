"""A site's approval of a study, as a file: its signature over the study's values and over the bytes of its file.

A node makes it when its owner approves. The organiser collects one from every node of the roster, checks them all, and
writes `signatures.json` (`secfed.reports.folder`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from crypto.identity import Identity, PublicIdentity
from secfed.errors import UserError
from secfed.files.reading import read_at_most
from secfed.files.whole import json_text
from secfed.study.manifest import Name, Study, first_problem, read_study_file
from secfed.study.sections import Section
from secfed.study.signing import APPROVAL_LABEL

_FILE_BYTES_MAX = 4096
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Approval(Section):
    """The file's content. Nothing in it is secret. Trust only the signature; the other fields are informative."""

    format: int = Field(default=1, ge=1, le=1)
    study_digest: _Digest
    study_file_sha256: _Digest
    name: Name
    identity: _Digest
    """The signer's public key."""
    signature: str = Field(pattern=r"^[0-9a-f]{128}$")
    approved: str = Field(max_length=40, pattern=r"^[0-9T:+-]+$")
    """When, by the signer's clock."""

    def holds(self, study: Study, study_file: bytes, identity: PublicIdentity) -> bool:
        """Whether this identity signed this study, with exactly these bytes as its file."""
        digests = study.digest, study_file_digest(study_file)
        return identity.verifies(bytes.fromhex(self.signature), APPROVAL_LABEL, *digests)


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study and the exact bytes that people read."""

    study: Study
    data: bytes

    @classmethod
    def read(cls, path: Path) -> StudyFile:
        """Raises UserError if the file is not a study."""
        return cls(*read_study_file(path))


def sign_study(identity: Identity, name: str, file: StudyFile, now: datetime) -> Approval:
    """Sign as a node does (`secfed.node.node.Node.approve`)."""
    digests = file.study.digest, study_file_digest(file.data)
    return Approval(
        study_digest=digests[0].hex(),
        study_file_sha256=digests[1].hex(),
        name=name,
        identity=identity.public.raw.hex(),
        signature=identity.sign(APPROVAL_LABEL, *digests).hex(),
        approved=now.isoformat(timespec="seconds"),
    )


def approval_text(approval: Approval) -> str:
    """The text of `approval.json`."""
    return json_text(approval.model_dump(mode="json"))


def read_approval(path: Path) -> Approval:
    """Read an approval, without checking its signature.

    Raises:
        UserError: the file cannot be read, or is not an approval.
    """
    step = "Give the approval.json that `secfed node approve` wrote at a site"
    data = read_at_most(path, _FILE_BYTES_MAX, "the approval", step)
    next_step = "Ask that hospital for the approval.json that `secfed node approve` wrote"
    if len(data) > _FILE_BYTES_MAX:
        raise UserError(f"{path} is not an approval: the file is too long", next_step)
    try:
        return Approval.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else "nested too deeply"
        raise UserError(f"{path} is not an approval: {problem}", next_step) from error


def gather(file: StudyFile, paths: Sequence[Path]) -> str:
    """The text of `signatures.json`, from one approval of every node of the roster.

    Raises:
        UserError: an approval is missing, is for another study, or is not from the roster.
    """
    study, signatures = file.study, dict[str, bytes]()
    for path in paths:
        approval = read_approval(path)
        entry = next((entry for entry in study.roster if entry.identity == approval.identity), None)
        if entry is None:
            raise UserError(
                f"{path} was signed with a key that is not on the roster of {study.name}: {approval.identity}",
                "Leave it out, or put this key on the roster and ask for new approvals",
            )
        if not approval.holds(study, file.data, PublicIdentity(bytes.fromhex(entry.identity))):
            raise UserError(f"{path} is not a valid approval of this study: {_why(approval, file)}", _mend(entry.name))
        signatures[entry.name] = bytes.fromhex(approval.signature)
    missing = [entry.name for entry in study.roster if entry.name not in signatures]
    if missing:
        raise UserError(
            f"only {len(signatures)} of {len(study.roster)} approvals are here; missing: {', '.join(missing)}",
            "Give one approval.json from every site of the roster; nothing was written",
        )
    return signatures_text(study, file.data, [signatures[entry.name] for entry in study.roster])


def _why(approval: Approval, file: StudyFile) -> str:
    if approval.study_digest != file.study.digest.hex():
        return "the site approved a study with other values"
    if approval.study_file_sha256 != study_file_digest(file.data).hex():
        return "the values are the same, but the text of the file differs, and comments are signed, too"
    return "its signature is not from that key"


def _mend(name: str) -> str:
    return f"Send {name} the current study and ask for a new approval; `secfed study diff` shows what differs"


SIGNATURES = "signatures.json"


def study_file_digest(data: bytes) -> bytes:
    """SHA-256 of the study's file, comments included: sites sign exactly what people read."""
    return hashlib.sha256(data).digest()


def signatures_text(study: Study, study_file: bytes, signatures: Sequence[bytes]) -> str:
    """The text of `signatures.json`.

    Args:
        study: what was signed.
        study_file: the bytes of its file.
        signatures: each node's approval, in roster order.
    """
    value = {
        "study_digest": study.digest.hex(),
        "study_file_sha256": study_file_digest(study_file).hex(),
        "signatures": {entry.name: signature.hex() for entry, signature in zip(study.roster, signatures, strict=True)},
    }
    return json_text(value)
