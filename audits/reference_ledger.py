"""A reader of a ledger's copy a second time: "Attendance and handover" in section 9 of protocols/SPEC.md."""

import hashlib
import json
from typing import Any

from audits.notation import need, verify

KINDS_OF_A_STUDY = ("reserve", "withdraw", "run", "commit", "release", "close")


def J(value: Any) -> bytes:
    """JSON in ASCII with sorted keys and no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def read_copy(data: bytes, study: bytes, identity: bytes) -> list[dict[str, Any]]:
    """The bodies that a copy shows, from first to last. Refuses what is not that node's ledger with this study.

    Args:
        data: the copy.
        study: the study's digest.
        identity: the node's public key.
    """
    head, *lines = data.splitlines(keepends=True) or [b""]
    need(head == J({"format": 2, "study": study.hex()}) + b"\n", "not the head of a copy for this study")
    before = bytes(32)
    bodies: list[dict[str, Any]] = []
    for at, line in enumerate(lines, start=1):
        value = _parse(line)
        content = _octets(value["content"], 32) if "content" in value else _digest("content", J(value["body"]))
        before = _digest("entry", before + at.to_bytes(8, "big") + content)
        verify(identity, _octets(value["signature"], 64), "ledger entry", before)
        if "body" in value:
            need(value["body"]["kind"] != "close" or value["body"]["lines"] == len(bodies), "an entry is hidden")
            bodies.append(value["body"])
    need(bool(bodies) and b'"body"' in lines[-1] and bodies[-1]["kind"] == "close", "the end is missing")
    for body in bodies:
        own = body["kind"] in KINDS_OF_A_STUDY and body["study"] == study.hex()
        grant = body["kind"] == "grant" and body["population"] == bodies[-1]["population"]
        need(own or grant, "an entry of another study")
    return bodies


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value: Any = json.loads(line)
    except ValueError:
        value = None
    need(type(value) is dict and set(value) in ({"body", "signature"}, {"content", "signature"}), "no entry")
    need(J(value) + b"\n" == line, "not in canonical form")
    checked: dict[str, Any] = value
    return checked


def _octets(digits: Any, length: int) -> bytes:
    need(type(digits) is str and len(digits) == 2 * length and set(digits) <= set("0123456789abcdef"), "no digits")
    return bytes.fromhex(digits)


def _digest(what: str, data: bytes) -> bytes:
    return hashlib.sha256(f"secfed ledger {what} v2".encode() + b"\0" + data).digest()
