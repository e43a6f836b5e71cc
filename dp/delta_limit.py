"""How large a delta may be: at most 1/(10 N) for the N units, mostly patients, that it is promised to.

Delta is the part that epsilon does not cover. At 1/N, the promise would allow a mechanism that publishes one random
patient's records in full. N counts everybody whose data is in the release: for a study the union of its roster, not the
largest site, because the published patient may be any of them.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, Context, Decimal

from dp.entries import EXACT
from dp.errors import DeltaTooLarge

_ROUNDED_DOWN = Context(prec=3, rounding=ROUND_DOWN)


def check_delta_for(delta: Decimal, units: int, who: str) -> None:
    """Refuse a delta that is too large for this number of units.

    Args:
        delta: as an exact decimal, of at most 40 digits.
        units: N, nominal, at least 1.
        who: these units in words, for the error's text.

    Raises:
        DeltaTooLarge: it is above 1/(10 N). The text has the largest allowed one.
    """
    if EXACT.multiply(delta, Decimal(10 * units)) > 1:
        raise DeltaTooLarge(
            f"a delta of {delta} is above 1/(10 N) for N = {units}, {who}: publishing all that is known of one of them "
            f"would be within it. Use at most {largest_delta(units)}"
        )


def largest_delta(units: int) -> str:
    """1/(10 N) rounded down to three digits, as text, so that `check_delta_for` accepts it."""
    return f"{float(_ROUNDED_DOWN.divide(Decimal(1), Decimal(10 * units))):g}".replace("e-0", "e-")
