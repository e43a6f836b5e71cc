"""A ledger as a file to hand on: one entry a line, and not one byte that a reader does not check.

A database file has unused bytes that nobody reads; this copy has none. Each line is canonical JSON (sorted keys, no
spaces), `{"body": {...}, "signature": "hex"}`. The reader writes every line again and compares, computes the chain of
digests from the bodies (`dp.entries`), and has every signature checked. That the *end* of a copy is missing does not
show in it: compare the last digest with the one that was reported elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dp.entries import NOTHING_BEFORE, Entry, delta_amount, entry_digest, entry_text, epsilon_amount, is_label
from dp.errors import LedgerCorrupt
from dp.ledger import Check

LINE_BYTES_MAX = 16384
"""Far more than any entry has. A longer line is refused before it is parsed."""
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def write_copy(entries: Iterable[Entry]) -> bytes:
    """The bytes of a copy of these entries, which are a whole ledger from its first entry on."""
    return "".join(_line(entry.body, entry.signature) for entry in entries).encode()


def read_copy(data: bytes, check: Check) -> tuple[Entry, ...]:
    """All entries of a copy, in order.

    Args:
        data: the whole file.
        check: whether a signature (second) of a message (first) is the node's.

    Raises:
        LedgerCorrupt: naming the first line that is not exactly what the node wrote.
    """
    entries: list[Entry] = []
    for position, line in enumerate(data.splitlines(keepends=True), start=1):
        before = entries[-1].digest if entries else NOTHING_BEFORE
        try:
            body, signature = _parse(line)
        except (ValueError, RecursionError) as error:
            raise LedgerCorrupt(f"line {position} is no ledger entry ({error})") from error
        digest = entry_digest(before, position, entry_text(body))
        if not check(digest, signature):
            raise LedgerCorrupt(
                f"line {position} is not what this node signed: it was changed, or a line before it is gone"
            )
        entries.append(Entry(position, body["kind"], body["time"], body, digest, signature))
    return tuple(entries)


def _line(body: Mapping[str, Any], signature: bytes) -> str:
    return entry_text({"body": body, "signature": signature.hex()}) + "\n"


def _parse(line: bytes) -> tuple[dict[str, Any], bytes]:
    """Body and signature of one line. Raises ValueError for any other bytes than `_line` writes."""
    if len(line) > LINE_BYTES_MAX:
        raise ValueError("it is too long")
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(value, dict) or set(value) != {"body", "signature"}:
        raise ValueError("not a body and a signature")
    body, signature = value["body"], value["signature"]
    if not isinstance(signature, str) or not _HEX.fullmatch(signature):
        raise ValueError("its signature is not hexadecimal")
    _check_body(body)
    raw = bytes.fromhex(signature)
    if _line(body, raw).encode() != line:
        raise ValueError("not in canonical form")
    return body, raw


def _check_body(body: object) -> None:
    if not isinstance(body, dict):
        raise ValueError("its body is no table")
    kind = body.get("kind")
    checks = _BODIES.get(kind) if isinstance(kind, str) else None
    if checks is None or set(body) != {"kind", *checks}:
        raise ValueError("not the fields of any kind of entry")
    for name, is_right in checks.items():
        if not is_right(body[name]):
            raise ValueError(f"its {name} is not one")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _is_time(value: object) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _is_attestation(value: object) -> bool:
    return value == "" or is_label(value)


def _is_amount(amount: Callable[[str], object]) -> Callable[[object], bool]:
    def is_right(value: object) -> bool:
        if not isinstance(value, str):
            return False
        try:
            amount(value)
        except ValueError:
            return False
        return True

    return is_right


_STAMP = {"id": _is_digest, "time": _is_time}
_AMOUNTS = {"epsilon": _is_amount(epsilon_amount), "delta": _is_amount(delta_amount)}
_ROUND = {"study": _is_digest, "round": _is_count}
_BODIES: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "grant": {**_STAMP, **_AMOUNTS, "population": is_label, "patients": _is_count, "disjoint": _is_attestation},
    "reserve": {**_STAMP, **_AMOUNTS, "population": is_label, "study": _is_digest, "rounds": _is_count},
    "withdraw": {**_STAMP, "study": _is_digest},
    "commit": {**_STAMP, **_ROUND},
    "release": {**_STAMP, **_ROUND, "receipt": _is_digest},
}
"""Kind -> its fields, and what each must be."""
