"""How figures are written for people: what was spent or can be lost is never rounded down.

Durations that leave the parties are whole minutes: how long a round took tells something of the patients drawn in it.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Decimal

_MINUTE = 60


def rounded_up(value: float, decimals: int) -> str:
    """A figure with so many decimals, never below the true one: for what was spent or can be lost."""
    scale = 10**decimals
    # The tolerance keeps 8.0 from becoming 8.01 when its product is off by a last binary digit.
    return f"{math.ceil(value * scale - 1e-9) / scale:.{decimals}f}"


def scientific(value: float) -> str:
    """A number as people write it: 1e-5, not 1e-05; 8, not 8.0."""
    return f"{value:.10g}".replace("e-0", "e-")


def amount(value: Decimal) -> str:
    """An exact amount of privacy without zeros at its end: 8, 5.64."""
    return f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"


def whole_minutes(seconds: float) -> int:
    """A duration in seconds, rounded up to the minute."""
    return _MINUTE * math.ceil(seconds / _MINUTE)


def minute_before(moment: datetime) -> datetime:
    """The last full minute."""
    return moment.replace(second=0, microsecond=0)


def minute_after(moment: datetime) -> datetime:
    """The next full minute; the moment itself where it is one."""
    before = minute_before(moment)
    return before if before == moment else before + timedelta(seconds=_MINUTE)
