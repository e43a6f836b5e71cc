"""Who vouches for a statement of the report: five kinds, never mixed, so that nobody takes one for another.

A reader has to know whether something follows from the files before her, or holds because code was tested elsewhere, or
because somebody gave a word. What only a person can know is asked of no one yet, unless it is in something signed: then
the report prints NOT SAID, and not that somebody vouches for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NOT_SAID = "NOT SAID"
"""Stands where a person has to vouch, and nothing signed shows that one did."""
RANDOMNESS = "AES-256 and the operating system's random numbers are trusted"
"""On which all noise rests."""


class Voucher(StrEnum):
    """The five kinds, as the report prints them."""

    PROVED = "proved by this run's files"
    """`secfed verify` derives it again from signatures, receipts, ledgers and sums."""
    TESTED = "tested in the code, not in this run"
    """Holds where that code ran unchanged."""
    SAID = "said by a person"
    """Only a person can know it."""
    ASSUMED = "assumed"
    """Nothing shows it."""
    COORDINATOR = "word of the coordinator"
    """Whoever ran the coordinator wrote it down, and nobody else vouches for it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that the report's figures rest on."""

    statement: str
    vouched_by: Voucher
    how: str
    """How it is known, or what follows if it is wrong."""
    said: str = ""
    """Who said it, and in which words; for `Voucher.SAID` alone, and `NOT_SAID` there where nobody did."""

    def __post_init__(self) -> None:
        if (self.vouched_by is Voucher.SAID) != bool(self.said):
            raise ValueError("a statement is said by somebody, or NOT SAID, exactly where a person vouches for it")

    def as_json(self) -> dict[str, str]:
        """Its row in `report.json`."""
        return {"statement": self.statement, "vouched_by": self.vouched_by.value, "said": self.said, "how": self.how}


def not_said(statement: str, how: str) -> Statement:
    """What a person has to vouch for, and nobody was asked."""
    return Statement(statement, Voucher.SAID, how, NOT_SAID)
