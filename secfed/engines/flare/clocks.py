"""Tells a node's owner when the node's clock and the aggregator's differ. No nvflare.

Rounds, ledgers and receipts do not depend on clocks: all waiting uses the monotonic clock. Certificates do depend on
them, and so do the times that people read in `node.log` and the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

OFF = timedelta(minutes=5)
"""More than any request spends in transit."""


class Clocks:
    """Compares this clock with the times in requests; reports once when they differ, and once when they agree again."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """
        Args:
            tell: called with a line.
        """
        self._tell = tell
        self._off = False

    def compare(self, theirs: datetime | None, ours: datetime) -> None:
        """Check one request's time.

        Args:
            theirs: the aggregator's clock, as the request states it; None if it states none.
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
            "certificate checks depend on it. Compare with a third clock, and keep both in sync with NTP"
        )


def _span(difference: timedelta) -> str:
    minutes = round(difference.total_seconds() / 60)
    if minutes < 120:
        return f"{minutes} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 72 * 60 else f"{difference.days} days"
