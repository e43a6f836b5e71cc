"""Vectors of a ledger's copy, as a node hands it over, and of copies with one defect that a reader refuses.

`ledger.json` has the copy of node 1 of `rounds.json` after a session, its receipt and the closing. Both readers are
`dp.ledger_copy` and `audits.reference.ledger`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from audits.reference.ledger import J, read_copy
from audits.reference.notation import Refused, parse_cbor
from audits.reference.study import Study, filled_in
from audits.vectors import FOLDER, LEDGER, write_file
from audits.vectors.rounds import NODE, Rounds
from audits.vectors.splices import Splice
from crypto.identity import PublicIdentity
from dp import ledger_copy
from dp.errors import LedgerCorrupt
from secfed.study.signing import entry_check

NOTHING = Splice(0, 0, "")
Lines = list[bytes]


@dataclass(frozen=True, slots=True)
class Copies:
    """What `ledger.json` holds."""

    study: bytes
    identity: bytes
    """The node's public key."""
    copy: bytes
    defects: dict[str, Splice]


def check(copies: Copies, name: str | None = None) -> list[str]:
    """The findings about the honest copy, or a defect: a reader that refuses the one or accepts the other."""
    data = (NOTHING if name is None else copies.defects[name]).apply(copies.copy)
    key, found = PublicIdentity(copies.identity), []
    takes = {"the real reader": True, "the reference": True}
    try:
        ledger_copy.read_copy(data, copies.study, entry_check(key))
    except LedgerCorrupt:
        takes["the real reader"] = False
    try:
        read_copy(data, copies.study, copies.identity)
    except Refused:
        takes["the reference"] = False
    for reader, taken in takes.items():
        if taken != (name is None):
            found.append(f"{reader}: {'not refused' if taken else 'refuses an honest copy'}")
    return found


def _hidden(lines: Lines, at: int) -> bytes:
    """The digest of an entry's text in its place."""
    value = json.loads(lines[at])
    content = hashlib.sha256(b"secfed ledger content v2\0" + J(value["body"])).hexdigest()
    return J({"content": content, "signature": value["signature"]}) + b"\n"


DEFECTS: dict[str, Callable[[Lines], Lines]] = {
    "no head": lambda lines: lines[1:],
    "another study's head": lambda lines: [J({"format": 2, "study": "0" * 64}) + b"\n", *lines[1:]],
    "the end cut off": lambda lines: lines[:-1],
    "an entry gone": lambda lines: [*lines[:2], *lines[3:]],
    "two entries swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "an entry hidden": lambda lines: [*lines[:2], _hidden(lines, 2), *lines[3:]],
    "the end hidden": lambda lines: [*lines[:-1], _hidden(lines, -1)],
    "another round": lambda lines: [line.replace(b'"round":1', b'"round":2') for line in lines],
    "another signature": lambda lines: [*lines[:-1], lines[-1].replace(b'"signature":"', b'"signature":"0', 1)],
    "a space": lambda lines: [*lines[:-1], lines[-1].replace(b":", b": ", 1)],
    "no newline at the end": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "a line that is none": lambda lines: [*lines[:2], b"{}\n", *lines[2:]],
    "nothing": lambda lines: [],
}


def make(rounds: Rounds) -> Copies:
    """From what node 1 hands over after round 1."""
    data: bytes = parse_cbor(rounds.messages["handover at 1"])["ledger"]
    lines = data.splitlines(keepends=True)
    defects = {name: Splice.between(data, b"".join(bend(lines))) for name, bend in DEFECTS.items()}
    study = Study(filled_in(rounds.study))
    return Copies(study.digest, study.roster[NODE], data, defects)


def write(copies: Copies, folder: Path = FOLDER) -> None:
    """Write `ledger.json`."""
    defects = {name: asdict(splice) for name, splice in copies.defects.items()}
    texts = {"study": copies.study.hex(), "identity": copies.identity.hex(), "copy": copies.copy.decode()}
    write_file(folder / LEDGER, {**texts, "defects": defects})


def load(folder: Path = FOLDER) -> Copies:
    """Read `ledger.json`."""
    content = json.loads((folder / LEDGER).read_text())
    defects = {name: Splice(**splice) for name, splice in content["defects"].items()}
    study, identity = bytes.fromhex(content["study"]), bytes.fromhex(content["identity"])
    return Copies(study, identity, content["copy"].encode(), defects)
