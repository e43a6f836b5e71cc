"""What a ledger's entries are: their text, their chain of digests, and what they add up to. No files.

An entry's digest is SHA-256 over the digest before it, its number and its exact text; the text is JSON with sorted keys
and no spaces, so that equal entries have equal bytes. Amounts of privacy are exact decimals, never floats, and across
studies they add up (basic composition, Dwork and Roth 2014, theorem 3.16). `dp.ledger` keeps entries in a node's
database, `dp.ledger_copy` hands them on as a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, TypeAlias

Amount: TypeAlias = Decimal | str | float
"""An epsilon or delta. A float means the decimal that it prints as."""

NOTHING_BEFORE = bytes(32)
"""What stands for the digest of the entry before the first."""
_DOMAIN = b"secfed ledger entry v1\0"
EXACT = Context(prec=150, traps=[Inexact])
"""Amounts have at most 40 digits between 10^30 and 10^-70, so that 150 hold any sum; rounding would raise."""
LABEL_LENGTH_MAX = 500
"""The most characters of a text in an entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    sequence: int
    """1 for the first entry."""
    kind: str
    """grant, reserve, withdraw, commit or release."""
    time: str
    """When, in UTC, to the second."""
    body: Mapping[str, Any]
    """Everything that was recorded, kind and time included."""
    digest: bytes
    """SHA-256 over the entry before this one and this one's body."""
    signature: bytes
    """The node's signature of the digest."""


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
    """The one text of a body: what is hashed."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def entry_digest(before: bytes, sequence: int, text: str) -> bytes:
    """32 bytes over the digest of the entry before, the number and the text of this one."""
    return hashlib.sha256(_DOMAIN + before + sequence.to_bytes(8, "big") + text.encode()).digest()


def find(entries: Iterable[Entry], kind: str, study: str, round_number: int | None = None) -> Entry | None:
    """The first entry of this kind for a study, and for a round where one is given."""
    for entry in entries:
        if entry.kind == kind and entry.body["study"] == study and round_number in (None, entry.body.get("round")):
            return entry
    return None


def is_label(text: object) -> bool:
    """Whether this is a text that an entry may hold: printable, neither empty nor too long, no spaces around it."""
    return isinstance(text, str) and 0 < len(text) <= LABEL_LENGTH_MAX and text.isprintable() and text == text.strip()


def balance_of(entries: Sequence[Entry], population: str) -> Balance:
    """What these entries grant to a population, and reserve of it. Zero where nothing was granted."""
    withdrawn = {entry.body["study"] for entry in entries if entry.kind == "withdraw"}
    sums = {("grant", "epsilon"): Decimal(0), ("grant", "delta"): Decimal(0)}
    sums |= {("reserve", "epsilon"): Decimal(0), ("reserve", "delta"): Decimal(0)}
    for entry in entries:
        if entry.kind not in ("grant", "reserve") or entry.body["population"] != population:
            continue
        if entry.kind == "reserve" and entry.body["study"] in withdrawn:
            continue
        for unit in ("epsilon", "delta"):
            sums[entry.kind, unit] = EXACT.add(sums[entry.kind, unit], Decimal(entry.body[unit]))
    granted_epsilon, granted_delta, reserved_epsilon, reserved_delta = sums.values()
    return Balance(
        granted_epsilon,
        granted_delta,
        reserved_epsilon,
        reserved_delta,
        EXACT.subtract(granted_epsilon, reserved_epsilon),
        EXACT.subtract(granted_delta, reserved_delta),
    )


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
