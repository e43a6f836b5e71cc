"""What a ledger's entries are: their text, their chain of digests, and what they add up to. No files.

An entry's digest is SHA-256 over the digest before it, its number and its exact text; the text is JSON with sorted keys
and no spaces, so that equal entries have equal bytes. Amounts of privacy are exact decimals, never floats, and across
studies they add up (basic composition, Dwork and Roth 2014, theorem 3.16). `dp.ledger` keeps entries in a node's
database, `dp.ledger_copy` hands them on as a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, TypeAlias

Amount: TypeAlias = Decimal | str | float
"""An epsilon or delta. A float means the decimal that it prints as."""

NOTHING_BEFORE = bytes(32)
"""What stands for the digest of the entry before the first."""
_DOMAIN = b"secfed ledger entry v1\0"
# Amounts have at most 40 digits between 10^30 and 10^-70, so that 150 hold any sum; rounding would raise.
_EXACT = Context(prec=150, traps=[Inexact])


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    sequence: int
    """1 for the first entry."""
    kind: str
    """grant, reserve, commit or release."""
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


def balance_of(entries: Iterable[Entry]) -> Balance:
    """What these entries grant and reserve. Zero where nothing was granted."""
    sums = {("grant", "epsilon"): Decimal(0), ("grant", "delta"): Decimal(0)}
    sums |= {("reserve", "epsilon"): Decimal(0), ("reserve", "delta"): Decimal(0)}
    for entry in entries:
        if entry.kind in ("grant", "reserve"):
            for unit in ("epsilon", "delta"):
                sums[entry.kind, unit] = _EXACT.add(sums[entry.kind, unit], Decimal(entry.body[unit]))
    granted_epsilon, granted_delta, reserved_epsilon, reserved_delta = sums.values()
    return Balance(
        granted_epsilon,
        granted_delta,
        reserved_epsilon,
        reserved_delta,
        _EXACT.subtract(granted_epsilon, reserved_epsilon),
        _EXACT.subtract(granted_delta, reserved_delta),
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
