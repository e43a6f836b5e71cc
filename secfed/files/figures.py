"""Writes figures for people: what was spent or can be lost is never rounded down.

Durations that leave the parties are whole minutes: how long a round took can tell something about the patients drawn.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Decimal

_MINUTE = 60
LEAST = 1e-300
"""Smaller positive figures are written as this: floating-point numbers end there."""
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

_ROUND = {100: "a hundred", 1000: "a thousand", 10_000: "ten thousand", 100_000: "a hundred thousand"}


def rounded_up(value: float, decimals: int) -> str:
    """A figure with this many decimals, never below the true one: for what was spent or can be lost. ∞ if it has no
    limit."""
    if math.isinf(value):
        return "∞"
    scale = 10**decimals
    # Without the tolerance 8.0 becomes 8.01 if its product is off in the last binary digit.
    return f"{math.ceil(value * scale - 1e-9) / scale:.{decimals}f}"


def scientific(value: float) -> str:
    """A number as people write it: 1e-5, not 1e-05; 8, not 8.0."""
    return f"{value:.10g}".replace("e-0", "e-")


def amount(value: Decimal) -> str:
    """An exact amount of privacy without trailing zeros: 8, 5.64."""
    return f"{value:f}".rstrip("0").rstrip(".") if "." in f"{value:f}" else f"{value:f}"


def whole_minutes(seconds: float) -> int:
    """A duration in seconds, rounded up to the minute."""
    return _MINUTE * math.ceil(seconds / _MINUTE)


def minute_before(moment: datetime) -> datetime:
    """The last full minute."""
    return moment.replace(second=0, microsecond=0)


def minute_after(moment: datetime) -> datetime:
    """The next full minute, or the moment itself if it is one."""
    before = minute_before(moment)
    return before if before == moment else before + timedelta(seconds=_MINUTE)


def in_words(count: int) -> str:
    """A small number as a word, a larger one in digits: one, twelve, 1,000."""
    return _WORDS[count] if 0 <= count < len(_WORDS) else f"{count:,}"


def with_hundredths(value: float) -> str:
    """An exact amount of epsilon with at least two decimals: 8.00, 5.64, 2.001. It is not rounded."""
    text = amount(Decimal(repr(value)))
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"


def percent(share: float) -> str:
    """A share as a percentage with one decimal, rounded up."""
    return f"{rounded_up(100 * share, 1)} %"


def one_in(chance: float) -> str:
    """A chance as people say it, rounded up: 1 in 100,000."""
    return f"1 in {math.floor(1 / chance * (1 + 1e-12)):,}"


def over(count: int) -> str:
    """A whole number rounded down to its first digit, as people say "over a thousand"."""
    unit = 10 ** (len(str(count)) - 1)
    rounded = count // unit * unit
    return _ROUND.get(rounded, in_words(rounded))


def two_digits_up(value: float) -> str:
    """A positive figure with two digits, never below the true one: 0.08, 0.081, 12."""
    decimals = 1 - math.floor(math.log10(value))
    text = rounded_up(value, max(decimals, 0))
    return text.rstrip("0").rstrip(".") if "." in text else text


def tiny(value: float) -> str:
    """A positive figure near 0 with two digits: 3.6e-11; never 0."""
    return "< 1e-300" if value <= LEAST else f"{value:.2g}".replace("e-0", "e-")
