"""A ledger's entries: their text, their chain of digests, and their totals. No files.

An entry's digest is SHA-256 over the digest before it, its number and the digest of its text; the text is JSON with
sorted keys and no spaces, so that equal entries have equal bytes. So a reader can follow the chain through entries
whose text is not shown (`Sealed`); a random id in every text prevents guessing it. Times are whole hours, because
entries are handed on and must not show how long training took. Amounts of privacy are exact decimals, never floats, and
across studies they add up (basic composition, Dwork and Roth 2014, theorem 3.16). `dp.ledger` keeps entries in a node's
database, `dp.ledger_copy` hands them on as a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, TypeAlias

Amount: TypeAlias = Decimal | str | float
"""An epsilon or delta. A float means the decimal that it prints as."""

NOTHING_BEFORE = bytes(32)
"""Takes the place of the digest of the entry before the first."""
FORMAT = 2
"""The format of ledgers and their copies. In format 1 the chain covered whole texts, and times had seconds."""
_DOMAIN, _CONTENT_DOMAIN = b"secfed ledger entry v2\0", b"secfed ledger content v2\0"
EXACT = Context(prec=150, traps=[Inexact])
"""Amounts have at most 40 digits between 10^30 and 10^-70, so 150 digits hold any sum; rounding would raise an
error."""
LABEL_LENGTH_MAX = 500
"""The most characters of a text in an entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    sequence: int
    """1 for the first entry."""
    kind: str
    """grant, reserve, withdraw, run, commit, release or close."""
    time: str
    """When, in UTC, to the hour."""
    body: Mapping[str, Any]
    """All recorded fields, kind and time included."""
    digest: bytes
    """`entry_digest` of the entry before this one, the number and this one's text."""
    signature: bytes
    """The node's signature of the digest."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """An entry whose text is not shown: its place in the chain, and the node's signature."""

    sequence: int
    content: bytes
    """`content_digest` of its text."""
    digest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Totals:
    """The totals of all studies of a population, in exact decimals, without withdrawn ones."""

    studies: int
    """The number of studies that hold a reservation."""
    reserved_epsilon: Decimal
    reserved_delta: Decimal
    spent_epsilon: Decimal
    """The spent part of the reserved amount: a study's whole reservation, from its first commit on."""
    spent_delta: Decimal

    def body(self) -> dict[str, int | str]:
        """Its fields in a ledger's entry."""
        amounts = {name: str(getattr(self, name)) for name in self.__slots__[1:]}
        return {"studies": self.studies, **amounts}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Totals:
        """From a ledger's entry."""
        return cls(body["studies"], *(Decimal(body[name]) for name in cls.__slots__[1:]))


@dataclass(frozen=True, slots=True)
class Balance:
    """A population's budget: granted = reserved + left, in exact decimals."""

    granted_epsilon: Decimal
    granted_delta: Decimal
    reserved_epsilon: Decimal
    reserved_delta: Decimal
    left_epsilon: Decimal
    left_delta: Decimal


def entry_text(body: Mapping[str, Any]) -> str:
    """The canonical text of a body, which is hashed."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def content_digest(text: str) -> bytes:
    """32 bytes over an entry's text."""
    return hashlib.sha256(_CONTENT_DOMAIN + text.encode()).digest()


def entry_digest(before: bytes, sequence: int, content: bytes) -> bytes:
    """32 bytes over the digest of the entry before, the number of this one and `content_digest` of its text."""
    return hashlib.sha256(_DOMAIN + before + sequence.to_bytes(8, "big") + content).digest()


def hour_of(seconds: float) -> str:
    """The time in an entry: the hour, in UTC, that contains a moment in seconds since the epoch."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%HZ")


def hour_from(text: str) -> datetime:
    """The start of the hour that an entry's time names. Raises ValueError for any other text."""
    return datetime.strptime(text, "%Y-%m-%dT%HZ").replace(tzinfo=UTC)


def find(entries: Iterable[Entry], kind: str, study: str, round_number: int | None = None) -> Entry | None:
    """The first entry of this kind for a study, and for a round if given."""
    for entry in entries:
        if entry.kind == kind and entry.body["study"] == study and round_number in (None, entry.body.get("round")):
            return entry
    return None


def shown(entry: Entry, study: str, population: str) -> bool:
    """Whether a study's copy shows an entry: the study's own ones, and the grant that pays for it."""
    if entry.kind == "grant":
        return bool(entry.body["population"] == population)
    return bool(entry.body["study"] == study)


def is_label(text: object) -> bool:
    """Whether an entry may hold this text: printable, neither empty nor too long, no spaces around it."""
    return isinstance(text, str) and 0 < len(text) <= LABEL_LENGTH_MAX and text.isprintable() and text == text.strip()


def balance_of(entries: Sequence[Entry], population: str) -> Balance:
    """What these entries grant to a population, and reserve from it. Zero if nothing was granted."""
    grants = [entry.body for entry in entries if entry.kind == "grant" and entry.body["population"] == population]
    return balance_from(_sum(grants, "epsilon"), _sum(grants, "delta"), totals_of(entries, population))


def balance_from(epsilon: Decimal, delta: Decimal, totals: Totals) -> Balance:
    """The balance of a grant after these totals."""
    reserved_epsilon, reserved_delta = totals.reserved_epsilon, totals.reserved_delta
    left = EXACT.subtract(epsilon, reserved_epsilon), EXACT.subtract(delta, reserved_delta)
    return Balance(epsilon, delta, reserved_epsilon, reserved_delta, *left)


def totals_of(entries: Sequence[Entry], population: str) -> Totals:
    """The totals of all studies of a population in these entries."""
    withdrawn = {entry.body["study"] for entry in entries if entry.kind == "withdraw"}
    begun = {entry.body["study"] for entry in entries if entry.kind == "commit"}
    held = [
        entry.body
        for entry in entries
        if entry.kind == "reserve" and entry.body["population"] == population and entry.body["study"] not in withdrawn
    ]
    spent = [body for body in held if body["study"] in begun]
    return Totals(len(held), *(_sum(bodies, unit) for bodies in (held, spent) for unit in ("epsilon", "delta")))


def _sum(bodies: Iterable[Mapping[str, Any]], unit: str) -> Decimal:
    total = Decimal(0)
    for body in bodies:
        total = EXACT.add(total, Decimal(body[unit]))
    return total


def epsilon_amount(amount: Amount) -> Decimal:
    """An epsilon as an exact decimal. Raises ValueError when it is not positive or has more than 40 digits."""
    value = _decimal(amount)
    if value <= 0:
        raise ValueError(f"an epsilon is positive, not {amount}")
    return value


def delta_amount(amount: Amount) -> Decimal:
    """A delta as an exact decimal. Raises ValueError when it is not between 0 and 1 or has more than 40 digits."""
    value = _decimal(amount)
    if not 0 < value < 1:
        raise ValueError(f"a delta is between 0 and 1, not {amount}")
    return value


def _decimal(amount: Amount) -> Decimal:
    """The amount as a decimal with at most 40 digits."""
    try:
        value = Decimal(str(amount))
    except InvalidOperation as error:
        raise ValueError(f"not a number: {amount!r}") from error
    if not value.is_finite() or len(value.as_tuple().digits) > 40 or abs(value.adjusted()) > 30:
        raise ValueError(f"not an amount of privacy: {amount!r}")
    return value
