"""How large a delta may be: at most 1/(10 N) for the N units, patients mostly, that it is promised to.

Delta is what epsilon leaves uncovered. At 1/N, publishing one patient's records in full, whoever it is, would be within
the promise. N is everybody whose data is in what is released: for a study the union of its roster, not the largest
hospital, because the one who is published may be anybody of them.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Context, Decimal

from dp.entries import EXACT
from dp.errors import DeltaTooLarge

_ROUNDED_DOWN = Context(prec=3, rounding=ROUND_DOWN)


def check_delta_for(delta: Decimal, units: int, who: str) -> None:
    """Refuse a delta that is too large for so many units.

    Args:
        delta: as an exact decimal, of at most 40 digits.
        units: N, nominal, at least 1.
        who: these units in words, for the error's text.

    Raises:
        DeltaTooLarge: it is above 1/(10 N). The text has the largest that would do.
    """
    if EXACT.multiply(delta, Decimal(10 * units)) > 1:
        raise DeltaTooLarge(
            f"a delta of {delta} is above 1/(10 N) for N = {units}, {who}: publishing all that is known of one of them "
            f"would be within it. Use at most {largest_delta(units)}"
        )


def largest_delta(units: int) -> str:
    """1/(10 N) to three digits, as text, and never above it: what is printed here is accepted."""
    return f"{float(_ROUNDED_DOWN.divide(Decimal(1), Decimal(10 * units))):g}".replace("e-0", "e-")
