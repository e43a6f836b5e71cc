"""Who vouches for a statement of the report: five kinds that are never mixed.

A reader must know whether a statement follows from the run's files, holds because the code was tested, or is a person's
word. Some things only a person can know. If nobody said such a thing in a signed file, the report prints NOT SAID.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NOT_SAID = "NOT SAID"
"""Printed where a person has to vouch and no signed file shows that anybody did."""
RANDOMNESS = "AES-256 and the operating system's random numbers are trusted"
"""All noise depends on this."""


class Voucher(StrEnum):
    """The five kinds, as the report prints them."""

    PROVED = "proved by this run's files"
    """`secfed verify` computes it again from signatures, receipts, ledgers and sums."""
    TESTED = "tested in the code, not in this run"
    """Holds if the code ran unchanged."""
    SAID = "said by a person"
    """Only a person can know it."""
    ASSUMED = "assumed"
    """Nothing shows it."""
    COORDINATOR = "word of the coordinator"
    """The operator of the coordinator wrote it down. Nobody else vouches for it."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that the report's figures rest on."""

    statement: str
    vouched_by: Voucher
    how: str
    """How it is known, or what follows if it is wrong."""
    said: str = ""
    """Only for `Voucher.SAID`: who said it, in which words; `NOT_SAID` if nobody did."""

    def __post_init__(self) -> None:
        if (self.vouched_by is Voucher.SAID) != bool(self.said):
            raise ValueError("`said` belongs to statements that a person vouches for, and to no others")

    def as_json(self) -> dict[str, str]:
        """Its row in `report.json`."""
        return {"statement": self.statement, "vouched_by": self.vouched_by.value, "said": self.said, "how": self.how}


def not_said(statement: str, how: str) -> Statement:
    """A statement that a person has to vouch for, and that nobody was asked about."""
    return Statement(statement, Voucher.SAID, how, NOT_SAID)
