"""The copy of a ledger that is handed on with one study: the study's own entries, and only the digests of all others.

It is a file of lines in canonical JSON (sorted keys, no spaces); a reader checks every byte. The first line has the
format and the study. Each further line is an entry, beginning with the ledger's first: `{"body": {...}, "signature":
"hex"}` for the study's own entries and the grant that pays for it, `{"content": "hex", "signature": "hex"}` for all
others. The reader writes every line again and compares, follows the chain of digests (`dp.entries`), and checks every
signature. The last line is the entry that closes the study. In it the node signs the totals of its population's
studies, and how many of the lines before it are shown. So nobody who passes the copy on can cut off its end, or hide a
line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

from dp.entries import (
    FORMAT,
    NOTHING_BEFORE,
    Balance,
    Entry,
    Sealed,
    Totals,
    balance_from,
    content_digest,
    delta_amount,
    entry_digest,
    entry_text,
    epsilon_amount,
    hour_from,
    is_label,
    shown,
)
from dp.errors import LedgerCorrupt
from dp.ledger import Check

LINE_BYTES_MAX = 16384
"""Far longer than any entry. A longer line is refused before it is parsed."""
_HEX = re.compile(r"(?:[0-9a-f]{2}){1,64}")
_NUMBER_MAX = 2**53 - 1
"""Larger numbers are refused: no count is that large, and readers in other languages hold integers exactly up to
here."""
_TOTAL_LENGTH_MAX, _TOTAL_PLACES_MAX, _TOTAL_MAX = 150, 70, 60
"""Limits of a sum of amounts: characters, decimal places, and the power of ten above it (`dp.entries.EXACT`)."""
Line: TypeAlias = Entry | Sealed


@dataclass(frozen=True, slots=True)
class LedgerCopy:
    """A node's copy of its ledger, handed on with one study."""

    study: bytes
    """The study's digest."""
    lines: tuple[Line, ...]
    """From the ledger's first entry to the one that closes the study."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The shown entries: the study's own, and the grant that pays for it."""
        return tuple(line for line in self.lines if isinstance(line, Entry))

    @property
    def closing(self) -> Mapping[str, Any]:
        """The body of the last entry, which closes the study."""
        return self.entries[-1].body

    @property
    def population(self) -> str:
        """Whose budget pays for the study."""
        return str(self.closing["population"])

    @property
    def totals(self) -> Totals:
        """The totals of all studies of the population. For studies that are not shown, the only evidence is the node's
        signature."""
        return Totals.of(self.closing)

    @property
    def grant(self) -> Entry | None:
        """What was granted to the population, and when."""
        return next((entry for entry in self.entries if entry.kind == "grant"), None)

    @property
    def balance(self) -> Balance:
        """Granted to the population, reserved by all its studies, and left."""
        grant = self.grant
        epsilon, delta = (Decimal(grant.body[unit] if grant else 0) for unit in ("epsilon", "delta"))
        return balance_from(epsilon, delta, self.totals)


def copy_for(entries: Sequence[Entry], study: bytes) -> LedgerCopy | None:
    """The copy of a whole ledger to hand on with a study; None if the study is not closed.

    Args:
        entries: all of the ledger's, from the first on.
        study: the study's digest.
    """
    name = study.hex()
    closings = [entry for entry in entries if entry.kind == "close" and entry.body["study"] == name]
    if not closings:
        return None
    last = closings[-1]
    return LedgerCopy(
        study,
        tuple(
            entry if shown(entry, name, last.body["population"]) else _seal(entry) for entry in entries[: last.sequence]
        ),
    )


def write_copy(copy: LedgerCopy) -> bytes:
    """The bytes of a copy."""
    return "".join([_head(copy.study), *map(_line, copy.lines)]).encode()


def read_copy(data: bytes, study: bytes, check: Check) -> LedgerCopy:
    """Parse a copy, and check everything in it that can be checked without the study.

    Args:
        data: the whole file.
        study: the digest of the study that the copy must be about.
        check: whether a signature (second) of a message (first) is the node's.

    Raises:
        LedgerCorrupt: the text names the first line that is not exactly what the node wrote.
    """
    head, *rest = data.splitlines(keepends=True) or [b""]
    if head.startswith(b'{"body"'):
        raise LedgerCorrupt(
            "this is a ledger of format 1, which an earlier version of this software wrote: check it with that version"
        )
    if head != _head(study).encode():
        raise LedgerCorrupt(f"line 1 is not the head of a copy of format {FORMAT} for this study")
    lines: list[Line] = []
    for position, line in enumerate(rest, start=1):
        before = lines[-1].digest if lines else NOTHING_BEFORE
        try:
            read = _parse(line, before, position)
        except (ValueError, RecursionError) as error:
            raise LedgerCorrupt(f"line {position + 1} is no ledger entry ({error})") from error
        if not check(read.digest, read.signature):
            raise LedgerCorrupt(
                f"line {position + 1} is not what this node signed: it was changed, or a line before it is gone"
            )
        lines.append(read)
    return _whole(study, lines)


def _whole(study: bytes, lines: Sequence[Line]) -> LedgerCopy:
    """Check that the copy ends where the study was closed, and shows exactly the study's entries."""
    last = lines[-1] if lines else None
    if not isinstance(last, Entry) or last.kind != "close":
        raise LedgerCorrupt("its last line does not close the study: lines are gone, or the node has not closed it")
    count = 0
    for line in lines:
        if not isinstance(line, Entry):
            continue
        if not shown(line, study.hex(), last.body["population"]):
            raise LedgerCorrupt(f"line {line.sequence + 1} is about another study, or another population's budget")
        if line.kind == "close" and line.body["lines"] != count:
            raise LedgerCorrupt(
                f"line {line.sequence + 1} counts {line.body['lines']} entries of this study, and {count} are shown"
            )
        count += 1
    return LedgerCopy(study, tuple(lines))


def _head(study: bytes) -> str:
    return entry_text({"format": FORMAT, "study": study.hex()}) + "\n"


def _seal(entry: Entry) -> Sealed:
    return Sealed(entry.sequence, content_digest(entry_text(entry.body)), entry.digest, entry.signature)


def _line(line: Line) -> str:
    what = {"content": line.content.hex()} if isinstance(line, Sealed) else {"body": line.body}
    return entry_text({**what, "signature": line.signature.hex()}) + "\n"


def _parse(text: bytes, before: bytes, sequence: int) -> Line:
    """Parse one line. Raises ValueError for any bytes that `_line` would not write."""
    if len(text) > LINE_BYTES_MAX:
        raise ValueError("it is too long")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(value, dict) or set(value) not in ({"body", "signature"}, {"content", "signature"}):
        raise ValueError("not a body, or the digest of one, and a signature")
    signature = value["signature"]
    if not isinstance(signature, str) or not _HEX.fullmatch(signature):
        raise ValueError("its signature is not hexadecimal")
    line: Line
    if "content" in value:
        if not _is_sha256(value["content"]):
            raise ValueError("its content is not a digest")
        content = bytes.fromhex(value["content"])
        line = Sealed(sequence, content, entry_digest(before, sequence, content), bytes.fromhex(signature))
    else:
        body = value["body"]
        _check_body(body)
        digest = entry_digest(before, sequence, content_digest(entry_text(body)))
        line = Entry(sequence, body["kind"], body["time"], body, digest, bytes.fromhex(signature))
    if _line(line).encode() != text:
        raise ValueError("not in canonical form")
    return line


def _check_body(body: object) -> None:
    if not isinstance(body, dict):
        raise ValueError("its body is not a table")
    kind = body.get("kind")
    checks = _BODIES.get(kind) if isinstance(kind, str) else None
    if checks is None or set(body) != {"kind", *checks}:
        raise ValueError("not the fields of any kind of entry")
    for name, is_right in checks.items():
        if not is_right(body[name]):
            raise ValueError(f"its {name} is not valid")


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _HEX.fullmatch(value) is not None


def _is_sha256(value: object) -> bool:
    return _is_digest(value) and len(str(value)) == 64


def _is_mark(value: object) -> bool:
    return value == "" or _is_sha256(value)


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and value.isascii() and hour_from(value).strftime("%Y-%m-%dT%HZ") == value
    except ValueError:
        return False


def _is_count(value: object) -> bool:
    return _is_number(value) and value != 0


def _is_number(value: object) -> bool:
    return type(value) is int and 0 <= value <= _NUMBER_MAX


def _is_total(value: object) -> bool:
    """A sum of amounts, zero included."""
    try:
        total = Decimal(value) if isinstance(value, str) and len(value) <= _TOTAL_LENGTH_MAX else Decimal("NaN")
    except InvalidOperation:
        return False
    exponent = total.as_tuple().exponent
    fits = isinstance(exponent, int) and exponent >= -_TOTAL_PLACES_MAX and total.adjusted() < _TOTAL_MAX
    return fits and total >= 0 and str(total) == value


def _is_attestation(value: object) -> bool:
    return value == "" or is_label(value)


def _is_amount(amount: Callable[[str], object]) -> Callable[[object], bool]:
    def is_right(value: object) -> bool:
        if not isinstance(value, str):
            return False
        try:
            return str(amount(value)) == value
        except ValueError:
            return False

    return is_right


_STAMP = {"id": _is_digest, "time": _is_time}
_AMOUNTS = {"epsilon": _is_amount(epsilon_amount), "delta": _is_amount(delta_amount)}
_ROUND = {"study": _is_digest, "round": _is_count}
_BODIES: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "grant": {**_STAMP, **_AMOUNTS, "population": is_label, "patients": _is_count, "disjoint": _is_attestation},
    "reserve": {**_STAMP, **_AMOUNTS, "population": is_label, "study": _is_digest, "rounds": _is_count},
    "withdraw": {**_STAMP, "study": _is_digest},
    "run": {
        **_STAMP,
        "study": _is_digest,
        "engine": is_label,
        "process": _is_sha256,
        "home": _is_sha256,
        "machine": _is_mark,
        "hold_back": _is_number,
    },
    "commit": {**_STAMP, **_ROUND},
    "release": {**_STAMP, **_ROUND, "receipt": _is_digest},
    "close": {
        **_STAMP,
        "study": _is_digest,
        "population": is_label,
        "round": _is_number,
        "state": _is_sha256,
        "lines": _is_number,
        "studies": _is_number,
        "reserved_epsilon": _is_total,
        "reserved_delta": _is_total,
        "spent_epsilon": _is_total,
        "spent_delta": _is_total,
    },
}
"""Kind -> its fields, and the check of each."""
