"""Checks the study, and every node's signature under it.

A node signs two digests. One is of the study's values, which the protocol uses. The other is of the file's bytes,
comments included, because that is what a person has read.
"""

from __future__ import annotations

from pathlib import Path

from secfed.errors import UserError
from secfed.files.toml import TOML_BYTES_MAX
from secfed.reports.folder import STUDY
from secfed.study.approvals import SIGNATURES, signatures_text, study_file_digest
from secfed.study.manifest import Study, load_study
from secfed.study.signing import APPROVAL_LABEL
from secfed.verify.evidence import Broken, claim, read_file, read_json


def check_approval(folder: Path) -> Study:
    """Read the study and check that the whole roster signed exactly this file.

    Raises:
        Broken: the study cannot be read, or a signature is missing, not valid, or not in its one form.
    """
    data = read_file(folder, STUDY, TOML_BYTES_MAX)
    study = read_study(folder)
    approvals = claim(SIGNATURES, read_json(folder, SIGNATURES), "signatures", dict)
    found: list[bytes] = []
    refused: list[str] = []
    for entry, identity in zip(study.roster, study.identities, strict=True):
        signature = _signature(approvals, entry.name)
        found.append(signature)
        if not identity.verifies(signature, APPROVAL_LABEL, study.digest, study_file_digest(data)):
            refused.append(entry.name)
    if len(refused) == len(study.roster):
        # If one signature is wrong, that signature was changed. If all are, the study was changed.
        raise Broken(STUDY, "not the study that the nodes signed")
    if refused:
        raise Broken(SIGNATURES, f"the signature of {refused[0]} under this study is missing or not valid")
    if read_file(folder, SIGNATURES) != signatures_text(study, data, found).encode():
        raise Broken(
            SIGNATURES, "it differs from its canonical form: the digests of the study and the roster's signatures"
        )
    return study


def read_study(folder: Path) -> Study:
    """The study in a run's folder, whoever signed it. Raises Broken when it cannot be read."""
    path = folder / STUDY
    read_file(folder, STUDY, TOML_BYTES_MAX)
    try:
        study = load_study(path)
        _ = study.identities
    except UserError as error:
        raise Broken(STUDY, error.what.replace(f"{path}: ", "").replace(str(path), "this file")) from error
    except (ValueError, RecursionError) as error:
        raise Broken(STUDY, "not a study") from error
    return study


def _signature(approvals: dict[str, object], name: str) -> bytes:
    """A node's signature; no bytes, which are never a valid signature, if there is none to read."""
    text = approvals.get(name)
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""
