"""Tells a node's owner that its clock, or the aggregator's, is off. No nvflare.

Rounds, ledgers and receipts do not depend on it: what waits, waits by a clock that nobody sets. Certificates do, and
what people read: the times in `node.log`, and the hours in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

OFF = timedelta(minutes=5)
"""More than any request is under way."""


class Clocks:
    """Compares this clock with what requests say; tells once that they differ, and once that they agree again."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """
        Args:
            tell: gets a line.
        """
        self._tell = tell
        self._off = False

    def compare(self, theirs: datetime | None, ours: datetime) -> None:
        """Look at one request.

        Args:
            theirs: the aggregator's clock, by its own word; None where it says nothing.
            ours: this machine's.
        """
        if theirs is None or (abs(ours - theirs) > OFF) == self._off:
            return
        self._off = not self._off
        if not self._off:
            self._tell("this machine's clock and the aggregator's agree again")
            return
        side = "ahead of" if ours > theirs else "behind"
        self._tell(
            f"this machine's clock is {_span(abs(ours - theirs))} {side} the aggregator's: one of them is wrong, and "
            "certificates are judged by it. Compare it with another, and keep it right with NTP"
        )


def _span(difference: timedelta) -> str:
    minutes = round(difference.total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 72 * 60 else f"{difference.days} days"
